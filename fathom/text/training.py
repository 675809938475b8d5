"""Train a byte-level BPE tokenizer of DeepSeek V3's kind: its pre-tokenizer rules, its special tokens, any size.

Layout of the ids, as in the released V3 vocabulary: 0, 1, 2 begin, end and pad; then the 256 bytes and the merges; the
tokens of thoughts, fill-in-the-middle, roles and tools come last. The result loads in `fathom.text`, in `tokenizers`
and in `transformers`.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, decoders, models
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from fathom.text.errors import TokenizerError
from fathom.text.pretokenizers import DEEPSEEK_V3, pre_tokenizer

BEGIN, END, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
FIRST_TOKENS = (BEGIN, END, PAD)
# In the order of V3's ids 128798 to 128814. Only <|EOT|> is marked special there; the rest stay visible to clients.
LAST_TOKENS = (
    "<think>",
    "</think>",
    "<｜fim▁hole｜>",
    "<｜fim▁begin｜>",
    "<｜fim▁end｜>",
    "<｜User｜>",
    "<｜Assistant｜>",
    "<|EOT|>",
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁outputs▁begin｜>",
    "<｜tool▁outputs▁end｜>",
    "<｜tool▁output▁begin｜>",
    "<｜tool▁output▁end｜>",
    "<｜tool▁sep｜>",
)
SPECIAL_LAST_TOKENS = frozenset({"<|EOT|>"})
MINIMUM_VOCABULARY = len(FIRST_TOKENS) + 256 + len(LAST_TOKENS)
LONGEST_TOKEN_BYTES = 64

# R1's dialect, in our own words: system text first, then turns; an answer in the history loses its thoughts; rounds of
# tool calls and results in their own brackets. `fathom.text.chat_template` recognises it as "deepseek-r1".
CHAT_TEMPLATE = """\
{%- set state = namespace(system=[], open_results=false) -%}
{%- for message in messages if message.role in ('system', 'developer') -%}
  {%- set state.system = state.system + [message.content] -%}
{%- endfor -%}
{{- bos_token + state.system | join('\\n\\n') -}}
{%- for message in messages if message.role not in ('system', 'developer') -%}
  {%- if message.role == 'tool' -%}
    {{- '\\n' if state.open_results else '<｜tool▁outputs▁begin｜>' -}}
    {{- '<｜tool▁output▁begin｜>' + message.content + '<｜tool▁output▁end｜>' -}}
    {%- set state.open_results = true -%}
  {%- else -%}
    {%- set after_results = state.open_results -%}
    {{- '<｜tool▁outputs▁end｜>' if after_results -}}
    {%- set state.open_results = false -%}
    {%- if message.role == 'user' -%}
      {{- '<｜User｜>' + message.content -}}
    {%- elif message.role == 'assistant' -%}
      {{- '' if after_results else '<｜Assistant｜>' -}}
      {{- (message.content or '').split('</think>')[-1] -}}
      {%- if message.tool_calls -%}
        {{- '<｜tool▁calls▁begin｜>' -}}
        {%- for call in message.tool_calls -%}
          {{- '' if loop.first else '\\n' -}}
          {{- '<｜tool▁call▁begin｜>function<｜tool▁sep｜>' + call.function.name + '\\n```json\\n' -}}
          {{- call.function.arguments if call.function.arguments is string else call.function.arguments | tojson -}}
          {{- '\\n```<｜tool▁call▁end｜>' -}}
        {%- endfor -%}
        {{- '<｜tool▁calls▁end｜>' -}}
      {%- endif -%}
      {{- eos_token -}}
    {%- endif -%}
  {%- endif -%}
{%- endfor -%}
{{- '<｜tool▁outputs▁end｜>' if state.open_results -}}
{{- '<｜Assistant｜>' if add_generation_prompt and not state.open_results -}}
"""


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, *, min_frequency: int = 2, progress: bool = False
) -> tokenizers.Tokenizer:
    """Learn merges from `texts` until there are exactly `vocab_size` tokens, all special ones counted.

    The same texts give the same vocabulary, whatever the number of threads. No token is longer than 64 bytes, so that
    boilerplate and rulers do not fill the vocabulary. Raises TokenizerError for sizes under 276 (the bytes and special
    tokens alone), and where the texts do not hold enough different words for so many merges.
    """
    if vocab_size < MINIMUM_VOCABULARY:
        raise TokenizerError(f"a vocabulary has at least {MINIMUM_VOCABULARY} tokens (bytes and special tokens)")
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizer(DEEPSEEK_V3)
    backend.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=vocab_size - len(LAST_TOKENS),
        min_frequency=min_frequency,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in FIRST_TOKENS],
        initial_alphabet=sorted(ByteLevel.alphabet()),
        max_token_length=LONGEST_TOKEN_BYTES,
        show_progress=progress,
    )
    backend.train_from_iterator(texts, trainer)
    reached = backend.get_vocab_size() + len(LAST_TOKENS)
    if reached < vocab_size:
        raise TokenizerError(
            f"these texts are enough for {reached} tokens, not {vocab_size}: give more text or a smaller size"
        )
    backend.add_tokens(
        [AddedToken(token, special=token in SPECIAL_LAST_TOKENS, normalized=False) for token in LAST_TOKENS]
    )
    return backend


def save_tokenizer(backend: tokenizers.Tokenizer, folder: Path, *, model_max_length: int = 131072) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`, as Hugging Face folders have them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(backend.to_str(pretty=True) + "\n", encoding="utf-8")
    config = {
        "add_bos_token": False,
        "add_eos_token": False,
        "bos_token": BEGIN,
        "eos_token": END,
        "pad_token": PAD,
        "unk_token": None,
        "clean_up_tokenization_spaces": False,
        "model_max_length": model_max_length,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(
        json.dumps(config, ensure_ascii=False, indent=2) + "\n", encoding="utf-8"
    )
