"""The five chat templates: the exact text, the exact token ids, and which tokens are trained."""

from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.data import LightTokenizer
from finetune_trainer.data.assembling import DataPlan
from finetune_trainer.data.dataset import Chats, load_dataset
from finetune_trainer.data.example import IGNORED, Example
from finetune_trainer.data.files import DataFile
from finetune_trainer.data.preparing import PreparedTokenizer, backend_of, chat_renderer, prepare
from finetune_trainer.errors import BadConfiguration

TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "What is AI?"},
    {"role": "assistant", "content": '"Machines" that think.'},
    {"role": "user", "content": "Thanks"},
    {"role": "assistant", "content": " You are welcome é\n"},
]
# template -> text without BOS, trained parts
EXPECTED = {
    "mistral-with-system": (
        '<<SYS>>\nBe kind.\n<</SYS>>\n[INST] What is AI? [/INST]"Machines" that think.</s> '
        "[INST] Thanks [/INST] You are welcome é\n</s> ",
        ['"Machines" that think.</s>', " You are welcome é\n</s>"],
    ),
    "chat-ml": (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nWhat is AI?<|im_end|>\n"
        '<|im_start|>assistant\n"Machines" that think.<|im_end|>\n'
        "<|im_start|>user\nThanks<|im_end|>\n<|im_start|>assistant\n You are welcome é\n<|im_end|>\n",
        ['"Machines" that think.<|im_end|>', " You are welcome é\n<|im_end|>"],
    ),
    "poro": (
        '<|system|>\nBe kind.</s><|user|>\nWhat is AI?</s><|assistant|>\n"Machines" that think.</s>'
        "<|user|>\nThanks</s><|assistant|>\n You are welcome é\n</s>",
        ['"Machines" that think.</s>', " You are welcome é\n</s>"],
    ),
    "simplified-llama31": (
        "<|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWhat is AI?<|eot_id|>"
        '<|start_header_id|>assistant<|end_header_id|>\n\n"Machines" that think.<|eot_id|>'
        "<|start_header_id|>user<|end_header_id|>\n\nThanks<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nYou are welcome é<|eot_id|>",
        ['"Machines" that think.<|eot_id|>', "You are welcome é<|eot_id|>"],
    ),
}
GENERATION_PROMPT = {
    "mistral-with-system": "",
    "chat-ml": "<|im_start|>assistant\n",
    "poro": "<|assistant|>\n",
    "simplified-llama31": "<|start_header_id|>assistant<|end_header_id|>\n\n",
}
NAMES = tuple(EXPECTED)


def ready(folder: Path, template: str, tokenizer: Any = None) -> PreparedTokenizer:
    return prepare(
        tokenizer or LightTokenizer.load(folder),
        chat_template_name=template,
        padding_side="right",
        missing_pad_token_strategy="eos-repurpose",
    )


def example_of(messages: list[dict[str, str]], tokenizer: Any, template: str, folder: Path, trained: bool) -> Example:
    import json

    path = folder / "row.jsonl"
    path.write_text(json.dumps({"messages": messages}) + "\n")
    plan = DataPlan((DataFile("row.jsonl", path),))
    return load_dataset(plan, Chats(template, 4096, trained), tokenizer).train[0]


def trained_texts(example: Example, tokenizer: Any) -> list[str]:
    backend, texts, ids = backend_of(tokenizer), [], []
    for token, label in [*zip(example.input_ids, example.labels, strict=True), (None, IGNORED)]:
        if label != IGNORED:
            ids.append(token)
        elif ids:
            texts.append(backend.decode(ids, skip_special_tokens=False))
            ids = []
    return texts


@pytest.mark.parametrize("template", NAMES)
def test_text_ids_and_trained_tokens_are_exact(template: str, tokenizers_dir: Path, tmp_path: Path) -> None:
    tokenizer = ready(tokenizers_dir / "bytes", template).tokenizer
    example = example_of(TALK, tokenizer, template, tmp_path, trained=True)
    text, trained = EXPECTED[template]
    bos = (
        "<s>" if template == "simplified-llama31" else ""
    )  # this tokenizer puts none; that template always begins with it
    expected = backend_of(tokenizer).encode(bos + text, add_special_tokens=False).ids
    assert example.input_ids == expected
    assert trained_texts(example, tokenizer) == trained


@pytest.mark.parametrize("template", NAMES)
def test_without_completions_only_every_token_is_trained(template: str, tokenizers_dir: Path, tmp_path: Path) -> None:
    tokenizer = ready(tokenizers_dir / "merged", template).tokenizer
    example = example_of(TALK, tokenizer, template, tmp_path, trained=False)
    assert example.labels == example.input_ids


@pytest.mark.parametrize("template", NAMES)
@pytest.mark.parametrize("kind", ["merged", "words"])
def test_one_bos_where_the_tokenizer_puts_one(template: str, kind: str, tokenizers_dir: Path, tmp_path: Path) -> None:
    tokenizer = ready(tokenizers_dir / kind, template).tokenizer
    example = example_of(TALK, tokenizer, template, tmp_path, trained=True)
    assert example.input_ids[0] == tokenizer.bos_token_id
    assert example.input_ids.count(tokenizer.bos_token_id) == 1
    assert example.labels[0] == IGNORED


@pytest.mark.parametrize("template", NAMES)
def test_words_with_a_leading_space_keep_their_first_token(template: str, tokenizers_dir: Path, tmp_path: Path) -> None:
    """A tokenizer that writes the space into the word must not lose the answer's first word to the prompt."""
    tokenizer = ready(tokenizers_dir / "words", template).tokenizer
    talk = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "science thinks"}]
    example = example_of(talk, tokenizer, template, tmp_path, trained=True)
    (text,) = trained_texts(example, tokenizer)
    end = {"chat-ml": "<|im_end|>", "simplified-llama31": "<|eot_id|>"}.get(template, "</s>")
    assert text.replace(" ", "") == f"sciencethinks{end}"


@pytest.mark.parametrize("template", NAMES)
@pytest.mark.parametrize("kind", ["bytes", "merged", "words", "chatty", "padded"])
def test_the_exported_template_gives_the_trained_tokens_in_transformers(
    template: str, kind: str, tokenizers_dir: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizers_dir / kind)
    prepared = ready(tokenizers_dir / kind, template, tokenizer)
    example = example_of(TALK, tokenizer, template, tmp_path, trained=True)
    prepared.tokenizer.save_pretrained(tmp_path / "saved")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert "generation %}" not in loaded.chat_template
    assert loaded.apply_chat_template(TALK, tokenize=True, return_dict=False) == example.input_ids

    prompt = loaded.apply_chat_template(TALK[:4], tokenize=False, add_generation_prompt=True)
    whole = loaded.apply_chat_template(TALK, tokenize=False)
    assert prompt.endswith(GENERATION_PROMPT[template])
    assert whole.startswith(prompt)


@pytest.mark.parametrize("template", NAMES)
def test_the_light_tokenizer_and_transformers_agree(template: str, tokenizers_dir: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    for kind in ("bytes", "merged", "words", "padded", "chatty"):
        light = ready(tokenizers_dir / kind, template)
        full = ready(tokenizers_dir / kind, template, AutoTokenizer.from_pretrained(tokenizers_dir / kind))
        assert example_of(TALK, light.tokenizer, template, tmp_path, True) == example_of(
            TALK, full.tokenizer, template, tmp_path, True
        )
        assert (light.pad_token_id, light.pad_input_id, light.added_tokens, light.chat_template) == (
            full.pad_token_id,
            full.pad_input_id,
            full.added_tokens,
            full.chat_template,
        )
        assert light.stop_token_ids == full.stop_token_ids


def test_chat_ml_is_the_usual_chat_ml(tokenizers_dir: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    usual = (
        "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + "
        "message['content'] + '<|im_end|>' + '\n'}}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    tokenizer = AutoTokenizer.from_pretrained(tokenizers_dir / "padded")
    prepared = ready(tokenizers_dir / "padded", "chat-ml", tokenizer)
    example = example_of(TALK, tokenizer, "chat-ml", tmp_path, trained=True)
    ids = tokenizer.apply_chat_template(TALK, chat_template=usual, tokenize=True, return_dict=False)
    assert example.input_ids == ids
    assert prepared.stop_token_ids[0] == tokenizer.convert_tokens_to_ids("<|im_end|>")


@pytest.mark.parametrize(
    ("template", "kind", "added"),
    [
        ("chat-ml", "merged", 2),
        ("chat-ml", "chatty", 0),
        ("poro", "merged", 2),
        ("simplified-llama31", "merged", 3),
        ("mistral-with-system", "merged", 0),
    ],
)
def test_added_tokens_are_counted_and_whole(template: str, kind: str, added: int, tokenizers_dir: Path) -> None:
    prepared = ready(tokenizers_dir / kind, template)
    assert prepared.added_tokens == added
    assert ready(tokenizers_dir / kind, template, prepared.tokenizer).added_tokens == 0  # nothing is added twice


class TestKeepOriginal:
    CHAT_ML = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    NO_PROMPT = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
    MARKED = (
        "{% for m in messages %}{% if m.role == 'assistant' %}A:{% generation %}{{ m.content }}!{% endgeneration %}"
        "{% else %}Q:{{ m.content }}{% endif %}{% endfor %}"
    )
    LAST_ONLY = "{% for m in messages %}{% if loop.last %}>{% endif %}{{ m.content }}{% endfor %}"

    def example(self, source: str | None, folder: Path, tmp_path: Path, trained: bool = True) -> list[str]:
        tokenizer = LightTokenizer.load(folder)
        tokenizer.chat_template = source
        prepared = ready(folder, "keep-original", tokenizer)
        assert prepared.chat_template == source
        return trained_texts(example_of(TALK, tokenizer, "keep-original", tmp_path, trained), tokenizer)

    @pytest.mark.parametrize(
        ("source", "trained"),
        [
            (CHAT_ML, ['"Machines" that think.<|im_end|>', " You are welcome é\n<|im_end|>"]),
            (NO_PROMPT, ['"Machines" that think.</s>', "You are welcome é\n</s>"]),
            (MARKED, ['"Machines" that think.!', " You are welcome é\n!"]),
        ],
    )
    def test_completion_spans(self, source: str, trained: list[str], tokenizers_dir: Path, tmp_path: Path) -> None:
        assert self.example(source, tokenizers_dir / "bytes", tmp_path) == trained

    def test_a_template_that_rewrites_the_past_is_refused_with_completions_only(
        self, tokenizers_dir: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(BadConfiguration, match=r"train_on_completions_only.*row\.jsonl:1"):
            self.example(self.LAST_ONLY, tokenizers_dir / "bytes", tmp_path)
        assert self.example(self.LAST_ONLY, tokenizers_dir / "bytes", tmp_path, trained=False)

    def test_a_tokenizer_without_template_is_refused(self, tokenizers_dir: Path) -> None:
        with pytest.raises(BadConfiguration, match=r"keep-original.*no chat template"):
            ready(tokenizers_dir / "bytes", "keep-original")

    def test_renders_as_transformers_does(self, tokenizers_dir: Path) -> None:
        from transformers import AutoTokenizer

        source = (
            "{%- set ns = namespace(n=0) %}\n{% for m in messages %}\n    "
            "{% if loop.index > 4 %}{% break %}{% endif %}\n"
            "    {% set ns.n = ns.n + 1 %}\n{{ ns.n }}:{{ m['content'] | trim | tojson }}\n{% endfor %}{{ bos_token }}"
        )
        tokenizer = AutoTokenizer.from_pretrained(tokenizers_dir / "merged")
        tokenizer.chat_template = source
        ours = chat_renderer(tokenizer, "keep-original").text(TALK)
        assert ours == tokenizer.apply_chat_template(TALK, tokenize=False)
