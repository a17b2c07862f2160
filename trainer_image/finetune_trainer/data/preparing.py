"""Makes a tokenizer ready for a job: the chat template's tokens and text, a padding token, the padding side.

Works alike on a transformers tokenizer and on a LightTokenizer: both offer the names used here.
"""

from dataclasses import dataclass
from typing import Any

import jinja2
from tokenizers import AddedToken, Tokenizer

from finetune_trainer.data.rendering import Renderer
from finetune_trainer.data.templates import KEEP_ORIGINAL, TEMPLATES, ChatTemplate, without_marks
from finetune_trainer.errors import BadConfiguration


@dataclass(frozen=True)
class PreparedTokenizer:
    """A tokenizer with its template and padding, and what the model and the loop must know of it.

    added_tokens: by how many tokens the vocabulary grew. stop_token_ids: what ends the assistant's turn (EOS, and the
    template's end-of-turn token), for the exported generation configuration. pad_input_id: what stands in padded input.
    """

    tokenizer: Any
    pad_token_id: int
    pad_input_id: int
    added_tokens: int
    chat_template: str
    stop_token_ids: tuple[int, ...]


def backend_of(tokenizer: Any) -> Tokenizer:
    """The `tokenizers` object inside. Raises BadConfiguration for a tokenizer that has none."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise BadConfiguration(
            f"the tokenizer {type(tokenizer).__name__} has no fast form; "
            "save it with a tokenizer.json or name another one in run_conf.tokenizer"
        )
    return backend


def puts_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer itself begins a text with its BOS."""
    if tokenizer.bos_token is None:
        return False
    return backend_of(tokenizer).encode("a").ids[:1] == [tokenizer.bos_token_id]


def chat_renderer(tokenizer: Any, chat_template_name: str) -> Renderer:
    """The renderer of a job's conversations: text as the model will see it, BOS included, and the assistant's spans.

    Raises BadConfiguration if the tokenizer lacks what the template needs.
    """
    special = {name: value for name, value in tokenizer.special_tokens_map.items() if isinstance(value, str)}
    if chat_template_name == KEEP_ORIGINAL:
        source = tokenizer.chat_template
        if not isinstance(source, str):
            raise BadConfiguration(
                "data_conf.chat_template_name is keep-original, but the model's tokenizer has no chat template; "
                f"choose one of {', '.join(TEMPLATES)}"
            )
        return _compiled(source, special)
    template = TEMPLATES[chat_template_name]
    if template.needs_eos and "eos_token" not in special:
        raise BadConfiguration(
            f"data_conf.chat_template_name {chat_template_name} ends a turn with the tokenizer's EOS, but it has none; "
            "choose chat-ml or simplified-llama31"
        )
    return _compiled(template.source(puts_bos(tokenizer), "bos_token" in special), special)


def _compiled(source: str, special: dict[str, str]) -> Renderer:
    try:
        return Renderer(source, special)
    except jinja2.TemplateError as error:
        raise BadConfiguration(
            f"the model's own chat template cannot be read ({error}); set data_conf.chat_template_name to another one"
        ) from None


def prepare(
    tokenizer: Any, *, chat_template_name: str, padding_side: str, missing_pad_token_strategy: str
) -> PreparedTokenizer:
    """Changes the tokenizer in place and says what changed. Raises BadConfiguration where it cannot serve the job."""
    added = add_template_tokens(tokenizer, chat_template_name)
    renderer = chat_renderer(tokenizer, chat_template_name)
    pad_input_id = _set_padding_token(tokenizer, missing_pad_token_strategy)
    tokenizer.padding_side = padding_side
    if chat_template_name != KEEP_ORIGINAL:
        tokenizer.chat_template = without_marks(renderer.source)
    return PreparedTokenizer(
        tokenizer=tokenizer,
        pad_token_id=tokenizer.pad_token_id,
        pad_input_id=pad_input_id,
        added_tokens=added,
        chat_template=tokenizer.chat_template,
        stop_token_ids=_stop_tokens(tokenizer, TEMPLATES.get(chat_template_name)),
    )


def prepare_plain(tokenizer: Any, *, padding_side: str, missing_pad_token_strategy: str) -> PreparedTokenizer:
    """The same for plain text: padding only. The tokenizer keeps the chat template that it has, if it has one."""
    pad_input_id = _set_padding_token(tokenizer, missing_pad_token_strategy)
    tokenizer.padding_side = padding_side
    template = tokenizer.chat_template
    return PreparedTokenizer(
        tokenizer=tokenizer,
        pad_token_id=tokenizer.pad_token_id,
        pad_input_id=pad_input_id,
        added_tokens=0,
        chat_template=template if isinstance(template, str) else "",
        stop_token_ids=_stop_tokens(tokenizer, None),
    )


def add_template_tokens(tokenizer: Any, chat_template_name: str) -> int:
    """Registers the template's special tokens; returns by how many the vocabulary grew."""
    if chat_template_name == KEEP_ORIGINAL:
        return 0
    backend = backend_of(tokenizer)
    before = backend.get_vocab_size(with_added_tokens=True)
    missing = [
        token
        for token in TEMPLATES[chat_template_name].added_tokens
        # a token may stand in the vocabulary and yet be cut into pieces, because nobody registered it
        if backend.encode(token, add_special_tokens=False).ids != [backend.token_to_id(token)]
    ]
    if missing:
        tokenizer.add_tokens(
            [AddedToken(token, special=True, normalized=False) for token in missing], special_tokens=True
        )
    return int(backend_of(tokenizer).get_vocab_size(with_added_tokens=True)) - int(before)


def _set_padding_token(tokenizer: Any, strategy: str) -> int:
    """Gives the tokenizer a padding token if it has none; returns the id to put into padded input."""
    if tokenizer.pad_token is not None:
        if strategy == "unk-convert-to-eos":
            raise BadConfiguration(
                f"data_conf.missing_pad_token_strategy is unk-convert-to-eos, but the tokenizer has the padding token "
                f"{tokenizer.pad_token!r}; remove the key, since no token is missing"
            )
        return int(tokenizer.pad_token_id)
    kind = strategy.split("-", 1)[0]
    token = getattr(tokenizer, f"{kind}_token")
    needed = {kind: token} | ({"eos": tokenizer.eos_token} if strategy == "unk-convert-to-eos" else {})
    for name, value in needed.items():
        if value is None:
            have = [other for other in ("eos", "bos", "unk") if getattr(tokenizer, f"{other}_token") is not None]
            raise BadConfiguration(
                f"the tokenizer has no padding token, and data_conf.missing_pad_token_strategy {strategy} needs its "
                f"{name.upper()} token, which it lacks too; "
                f"it has {', '.join(other.upper() for other in have) or 'none of EOS, BOS, UNK'}: "
                f"choose {' or '.join(f'{other}-repurpose' for other in have) or 'another tokenizer'}"
            )
    tokenizer.pad_token = token
    return int(tokenizer.eos_token_id if strategy == "unk-convert-to-eos" else tokenizer.pad_token_id)


def _stop_tokens(tokenizer: Any, template: ChatTemplate | None) -> tuple[int, ...]:
    end_of_turn = template.end_of_turn if template else None
    ids = [backend_of(tokenizer).token_to_id(end_of_turn) if end_of_turn else None, tokenizer.eos_token_id]
    return tuple(dict.fromkeys(int(token) for token in ids if token is not None))
