"""Properties of completion spans: whatever people write, the assistant's text is trained, and nothing else is."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from finetune_trainer.data import LightTokenizer
from finetune_trainer.data.preparing import backend_of, chat_renderer, prepare
from finetune_trainer.data.rendering import Rendered
from finetune_trainer.data.tokenizing import trained_tokens

TEMPLATES = ("mistral-with-system", "chat-ml", "poro", "simplified-llama31", "none")
# Models' own templates: without marks, with a prompt for the answer and without one, and with marks.
ORIGINALS = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}<assistant>"
    "{% endif %}",
    "{% for m in messages %}{{ m.role }}: {{ m.content }}</s>{% endfor %}",
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}</s>{% endgeneration %}"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}",
)
# Any text, and text that tempts a tokenizer to join what the template has put next to it.
CONTENT = st.one_of(
    st.text(min_size=1, max_size=40), st.text(alphabet=' \n\t"].a<|é世🙂', min_size=1, max_size=12)
).filter(lambda text: text.strip() != "")
TURNS = st.lists(st.tuples(CONTENT, CONTENT), min_size=1, max_size=3)
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def messages_of(turns: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [
        {"role": role, "content": content}
        for question, answer in turns
        for role, content in (("user", question), ("assistant", answer))
    ]


def tokenizer_for(folder: Path, template: str) -> LightTokenizer:
    tokenizer = LightTokenizer.load(folder)
    prepare(tokenizer, chat_template_name=template, padding_side="right", missing_pad_token_strategy="eos-repurpose")
    return tokenizer


@pytest.mark.parametrize("template", TEMPLATES)
@QUICK
@given(turns=TURNS)
def test_exactly_the_answers_and_their_end_are_trained(
    template: str, turns: list[tuple[str, str]], tokenizers_dir: Path
) -> None:
    """With one token per byte no token can hold text of both sides, so the spans must be exact."""
    tokenizer = tokenizer_for(tokenizers_dir / "bytes", template)
    rendered = chat_renderer(tokenizer, template).with_spans(messages_of(turns))
    encoding = backend_of(tokenizer).encode(rendered.text, add_special_tokens=False)
    end = {"chat-ml": "<|im_end|>", "simplified-llama31": "<|eot_id|>"}.get(template, "</s>")
    wanted = [(a.strip() if template == "simplified-llama31" else a) + end for _, a in turns]
    assert [rendered.text[start:stop] for start, stop in rendered.spans] == wanted
    ranges = trained_tokens(rendered, encoding.offsets)
    decoded = [backend_of(tokenizer).decode(encoding.ids[a:b], skip_special_tokens=False) for a, b in ranges]
    assert decoded == wanted


@pytest.mark.parametrize("kind", ["merged", "words"])
@pytest.mark.parametrize("template", TEMPLATES)
@QUICK
@given(turns=TURNS)
def test_ranges_follow_the_definition_token_by_token(
    kind: str, template: str, turns: list[tuple[str, str]], tokenizers_dir: Path
) -> None:
    """Each token judged alone: it begins inside an answer, or only white space of it lies before the answer."""
    tokenizer = tokenizer_for(tokenizers_dir / kind, template)
    rendered = chat_renderer(tokenizer, template).with_spans(messages_of(turns))
    offsets = backend_of(tokenizer).encode(rendered.text, add_special_tokens=False).offsets
    found = {index for start, stop in trained_tokens(rendered, offsets) for index in range(start, stop)}
    assert found == {index for index, offset in enumerate(offsets) if is_answer(offset, rendered)}


@pytest.mark.parametrize("source", ORIGINALS)
@QUICK
@given(turns=TURNS)
@example(turns=[("q", "a"), ("q", "s"), ("q", "")])  # words that the header has too
def test_a_models_own_template_trains_exactly_the_answers(
    source: str, turns: list[tuple[str, str]], tokenizers_dir: Path
) -> None:
    """An answer may be empty (a pair without an output); white space around it belongs to it where it can be known."""
    tokenizer = LightTokenizer.load(tokenizers_dir / "bytes")
    tokenizer.chat_template = source
    messages = messages_of([(question, answer.strip()) for question, answer in turns])
    messages[-1]["content"] = ""
    rendered = chat_renderer(tokenizer, "keep-original").with_spans(messages)
    encoding = backend_of(tokenizer).encode(rendered.text, add_special_tokens=False)
    ranges = trained_tokens(rendered, encoding.offsets)
    decoded = [backend_of(tokenizer).decode(encoding.ids[a:b], skip_special_tokens=False) for a, b in ranges]
    assert decoded == [message["content"] + "</s>" for message in messages if message["role"] == "assistant"]


def is_answer(offset: tuple[int, int], rendered: Rendered) -> bool:
    start, end = offset
    return any(
        (a <= start < b and end > a) or (start < a < end and not rendered.text[start:a].strip())
        for a, b in rendered.spans
    )


def test_offsets_that_were_cut_to_the_word() -> None:
    """Some byte-level tokenizers report no space in a word's offsets, and empty offsets for a space alone."""
    text = "Q: Hi yes</s>"
    rendered = Rendered(text, ((5, 13),))  # " yes</s>"
    assert trained_tokens(rendered, [(0, 2), (3, 5), (6, 9), (9, 13)]) == [(2, 4)]
    assert trained_tokens(rendered, [(0, 2), (3, 5), (5, 5), (6, 9), (9, 13)]) == [(3, 5)]
