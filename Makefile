# Every target installs what it needs into .venv first and is safe to repeat. Nothing but Python 3.11+, git and make is needed.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help install dev serve test test-all lint format bench lock clean

help:            ## what there is
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

install: check   ## .venv with the locked dependencies, the fathom command and the default model
	@$(PYTHON) scripts/install.py

dev: check       ## the same, with what tests and linters need
	@$(PYTHON) scripts/install.py --dev

serve: install   ## the chat app and the API on http://127.0.0.1:8000
	@$(BIN)/fathom serve $(ARGS)

test: dev        ## the tests, in a few minutes
	@$(BIN)/python -m pytest $(ARGS)

test-all: dev    ## with the slow ones: sanitizers, whole models, long fuzzing
	@$(BIN)/python -m pytest -m "" --timeout 3600 $(ARGS)

lint: dev        ## ruff, mypy --strict, the layers
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

format: dev      ## put the code into shape
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

bench: dev       ## side by side with llama.cpp and transformers (builds llama.cpp once: some minutes)
	@$(BIN)/python benchmarks/compare.py --install $(ARGS) && $(BIN)/python benchmarks/compare.py --model v3-shaped $(ARGS)

lock:            ## pin the newest versions that pyproject.toml admits (needs uv)
	@scripts/lock.sh

clean:           ## away with .venv and everything built
	@rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find fathom tests -name __pycache__ -prune -exec rm -rf {} + ; find fathom -name '*.so' -delete

.PHONY: check
check:
	@command -v $(PYTHON) >/dev/null || { echo "Fathom needs Python 3.11 or newer, and '$(PYTHON)' is not on this machine's PATH: install it, or say make PYTHON=/path/to/python3 …"; exit 1; }
