"""The chat templates of document 003, as Jinja that marks what the assistant says, and `none` for pairs joined as they
are.

The text between {% generation %} and {% endgeneration %} is the assistant's content and its end marker: rendering with
the marks gives the spans to train (rendering.py), and without the marks it is the template that the exported model
carries, so that training and inference cannot differ. BOS: simplified-llama31 always begins with it; the others begin
with it exactly if the tokenizer itself puts it before a text, so that there is always one, never two.
"""

import re
from dataclasses import dataclass

KEEP_ORIGINAL = "keep-original"

_BOS = "{{ bos_token }}"
_GENERATION_MARK = re.compile(r"\{%[-+]?\s*(?:end)?generation\s*[-+]?%\}")


@dataclass(frozen=True)
class ChatTemplate:
    """A template and what it needs of a tokenizer."""

    body: str
    always_bos: bool = False
    added_tokens: tuple[str, ...] = ()  # special tokens to add to the vocabulary if it lacks them
    needs_eos: bool = False  # the tokenizer's own EOS ends a turn
    end_of_turn: str | None = None  # what ends a turn if not EOS: generation must stop at it

    def source(self, tokenizer_puts_bos: bool, has_bos: bool) -> str:
        """The Jinja text for one tokenizer, with generation marks."""
        return (_BOS if tokenizer_puts_bos or (self.always_bos and has_bos) else "") + self.body


# message is one of messages; roles are checked when rows are read (rows.py)
_MISTRAL = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ '<<SYS>>\\n' + message['content'] + '\\n<</SYS>>\\n' }}"
    "{% elif message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}{{ ' ' }}"
    "{% else %}{{ raise_exception('mistral-with-system knows the roles system, user and assistant') }}"
    "{% endif %}{% endfor %}"
)
_CHAT_ML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}"
    "{% else %}{{ message['content'] + '<|im_end|>\\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_PORO = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}"
    "{% else %}{{ message['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)
# What a prompt is before a model that knows no roles: the text alone. One turn of a user and one of the assistant.
_NONE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}"
    "{% else %}{{ message['content'] }}{% endif %}"
    "{% endfor %}"
)
_LLAMA31 = (
    "{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] | trim + '<|eot_id|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] | trim + '<|eot_id|>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)

TEMPLATES = {
    "mistral-with-system": ChatTemplate(_MISTRAL, needs_eos=True),
    "chat-ml": ChatTemplate(_CHAT_ML, added_tokens=("<|im_start|>", "<|im_end|>"), end_of_turn="<|im_end|>"),
    "poro": ChatTemplate(_PORO, added_tokens=("<|user|>", "<|assistant|>"), needs_eos=True),
    "simplified-llama31": ChatTemplate(
        _LLAMA31,
        always_bos=True,
        added_tokens=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        end_of_turn="<|eot_id|>",
    ),
    "none": ChatTemplate(_NONE, needs_eos=True),
}


def marks_generation(source: str) -> bool:
    """Whether a template says itself what the assistant generates."""
    return _GENERATION_MARK.search(source) is not None


def without_marks(source: str) -> str:
    """The template for export: not every Jinja engine knows the generation tag, and it changes no rendered text
    here."""
    return _GENERATION_MARK.sub("", source)
