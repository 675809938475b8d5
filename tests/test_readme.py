"""What the README shows is what happens."""

import re
from pathlib import Path

import fathom

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_its_python_runs(smollm2_gguf: Path, capsys) -> None:
    (python,) = blocks("python")
    exec(compile(python, "README.md", "exec"), {})  # noqa: S102 - our own page
    assert len(capsys.readouterr().out.split()) > 3


def test_its_targets_and_commands_exist() -> None:
    shell = "".join(blocks("sh"))
    makefile = (Path(__file__).parents[1] / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make ([a-z-]+)", shell, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    verbs = {path.stem for path in (Path(fathom.__file__).parent / "cli").glob("*.py")}
    for verb in re.findall(r"^\.venv/bin/fathom ([a-z]+)", shell, re.MULTILINE):
        assert verb in verbs, verb
