"""A model's tokenizer without transformers: the download pod counts tokens a second after its start, and never loads
torch (importing transformers' AutoTokenizer costs 8 s and loads it).

It reads what transformers reads (tokenizer.json, tokenizer_config.json, special_tokens_map.json, chat_template.jinja)
and offers the few names of a transformers tokenizer that this package uses, so that the same code serves both. Which
tokens go around a text is tokenizer.json's post-processor's to say: transformers ignores add_bos_token and
add_eos_token beside it.
tests/training/data holds the two to the same ids.
"""

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class LightTokenizer:
    """tokenizer.json with the special tokens and the chat template of the files beside it."""

    def __init__(self, backend: Tokenizer, settings: dict[str, Any], chat_template: str | None) -> None:
        self.backend_tokenizer = backend
        self.chat_template = chat_template
        self.padding_side = settings.get("padding_side", "right")
        contents = {name: _content(settings.get(name)) for name in SPECIAL_NAMES}
        self.special_tokens_map = {name: content for name, content in contents.items() if content is not None}
        _add_missing(backend, settings, self.special_tokens_map)

    @classmethod
    def load(cls, directory: Path) -> "LightTokenizer":
        """Reads the tokenizer of a model directory. Raises FileNotFoundError without tokenizer.json, ValueError if
        broken."""
        path = directory / "tokenizer.json"
        if not path.is_file():
            raise FileNotFoundError(path)
        try:
            backend = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception
            raise ValueError(f"{path}: {error}") from None
        settings = _read_json(directory / "special_tokens_map.json") | _read_json(directory / "tokenizer_config.json")
        return cls(backend, settings, _chat_template(directory, settings))

    def add_tokens(self, tokens: list[AddedToken], special_tokens: bool = False) -> int:
        """Adds tokens as transformers does; returns how many were new."""
        return int(
            self.backend_tokenizer.add_special_tokens(tokens)
            if special_tokens
            else self.backend_tokenizer.add_tokens(tokens)
        )

    def __getattr__(self, name: str) -> Any:
        """bos_token, bos_token_id, … : None where the tokenizer has none."""
        if name.removesuffix("_id") in SPECIAL_NAMES:
            token = self.__dict__["special_tokens_map"].get(name.removesuffix("_id"))
            if token is None or not name.endswith("_id"):
                return token
            return self.backend_tokenizer.token_to_id(token)
        raise AttributeError(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in SPECIAL_NAMES:
            self.special_tokens_map[name] = value
        else:
            super().__setattr__(name, value)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: not a JSON object")
    return content


def _content(token: Any) -> str | None:
    """A special token is written as text or as an AddedToken's fields."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _chat_template(directory: Path, settings: dict[str, Any]) -> str | None:
    path = directory / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = settings.get("chat_template")
    if isinstance(template, list):  # several named templates: the one called default
        template = next((entry["template"] for entry in template if entry.get("name") == "default"), None)
    return template if isinstance(template, str) else None


def _add_missing(backend: Tokenizer, settings: dict[str, Any], special: dict[str, str]) -> None:
    """Tokens that only tokenizer_config.json knows join the vocabulary, in the order of their ids."""
    declared = sorted((settings.get("added_tokens_decoder") or {}).items(), key=lambda item: int(item[0]))
    for _, fields in declared:
        if backend.token_to_id(fields["content"]) is None:
            options = {key: fields[key] for key in ("lstrip", "rstrip", "single_word", "normalized") if key in fields}
            token = AddedToken(fields["content"], special=fields.get("special", False), **options)
            (backend.add_special_tokens if fields.get("special") else backend.add_tokens)([token])
    for content in special.values():
        if backend.token_to_id(content) is None:
            backend.add_special_tokens([AddedToken(content, special=True, normalized=False)])
