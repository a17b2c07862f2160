"""Templates on the three kinds of tokenizers that models have: every token of a conversation, and which are trained.

The tokenizers are written down here, token by token, so that the table can be read and checked by hand: byte-level BPE
without BOS (Qwen, GPT-2), BPE over words that puts BOS (Llama 2, Mistral), and a sentencepiece unigram (Gemma's kind).
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from finetune_trainer.data import IGNORED, LightTokenizer
from finetune_trainer.data.assembling import DataPlan
from finetune_trainer.data.dataset import Chats, load_dataset
from finetune_trainer.data.files import DataFile
from finetune_trainer.data.preparing import backend_of, prepare

TALK = [
    {"role": "system", "content": "Be"},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Ok"},
    {"role": "user", "content": "Go"},
    {"role": "assistant", "content": " Go\n"},
]
CHARACTERS = sorted(set("<<SYS>>\nBe\n<</SYS>>\n[INST] Hi [/INST]Ok |system|user|assistant|Go"))
SPECIAL = ["<unk>", "<s>", "</s>"]
WORDS = ["Be", "Hi", "Ok", "Go"]

# Each token; Ċ is a line end, Ġ and ▁ a space; what stands between ⟦ and ⟧ is trained.
TOKENS = {
    ("mistral-with-system", "byte-level"): (
        "< < S Y S > > Ċ Be Ċ < < / S Y S > > Ċ [ I N S T ] ĠHi Ġ [ / I N S T ] ⟦ Ok </s> ⟧ Ġ [ I N S T ] "
        "ĠGo Ġ [ / I N S T ] ⟦ ĠGo Ċ </s> ⟧ Ġ"
    ),
    ("mistral-with-system", "llama"): (
        "<s> ▁ < < S Y S > > Ċ Be Ċ < < / S Y S > > Ċ [ I N S T ] ▁Hi ▁ [ / I N S T ] ⟦ Ok </s> ⟧ ▁ ▁ [ I N "
        "S T ] ▁Go ▁ [ / I N S T ] ⟦ ▁Go Ċ </s> ⟧ ▁ ▁"
    ),
    ("mistral-with-system", "unigram"): (
        "▁ < < S Y S > > Ċ Be Ċ < < / S Y S > > Ċ [ I N S T ] ▁Hi ▁ [ / I N S T ] ⟦ Ok </s> ⟧ ▁ [ I N S T ] "
        "▁Go ▁ [ / I N S T ] ⟦ ▁Go Ċ </s> ⟧ ▁"
    ),
    ("chat-ml", "byte-level"): (
        "<|im_start|> s y s t e m Ċ Be <|im_end|> Ċ <|im_start|> u s e r Ċ Hi <|im_end|> Ċ <|im_start|> a s "
        "s i s t a n t Ċ ⟦ Ok <|im_end|> ⟧ Ċ <|im_start|> u s e r Ċ Go <|im_end|> Ċ <|im_start|> a s s i s "
        "t a n t Ċ ⟦ ĠGo Ċ <|im_end|> ⟧ Ċ"
    ),
    ("chat-ml", "llama"): (
        "<s> <|im_start|> ▁ s y s t e m Ċ Be <|im_end|> ▁ Ċ <|im_start|> ▁ u s e r Ċ Hi <|im_end|> ▁ Ċ "
        "<|im_start|> ▁ a s s i s t a n t Ċ ⟦ Ok <|im_end|> ⟧ ▁ Ċ <|im_start|> ▁ u s e r Ċ Go <|im_end|> ▁ "
        "Ċ <|im_start|> ▁ a s s i s t a n t Ċ ⟦ ▁Go Ċ <|im_end|> ⟧ ▁ Ċ"
    ),
    ("chat-ml", "unigram"): (
        "<|im_start|> ▁ s y s t e m Ċ Be <|im_end|> ▁ Ċ <|im_start|> ▁ u s e r Ċ Hi <|im_end|> ▁ Ċ "
        "<|im_start|> ▁ a s s i s t a n t Ċ ⟦ Ok <|im_end|> ⟧ ▁ Ċ <|im_start|> ▁ u s e r Ċ Go <|im_end|> ▁ "
        "Ċ <|im_start|> ▁ a s s i s t a n t Ċ ⟦ ▁Go Ċ <|im_end|> ⟧ ▁ Ċ"
    ),
    ("poro", "byte-level"): (
        "< | s y s t e m | > Ċ Be </s> <|user|> Ċ Hi </s> <|assistant|> Ċ ⟦ Ok </s> ⟧ <|user|> Ċ Go </s> "
        "<|assistant|> Ċ ⟦ ĠGo Ċ </s> ⟧"
    ),
    ("poro", "llama"): (
        "<s> ▁ < | s y s t e m | > Ċ Be </s> <|user|> ▁ Ċ Hi </s> <|assistant|> ▁ Ċ ⟦ Ok </s> ⟧ <|user|> ▁ "
        "Ċ Go </s> <|assistant|> ▁ Ċ ⟦ ▁Go Ċ </s> ⟧"
    ),
    ("poro", "unigram"): (
        "▁ < | s y s t e m | > Ċ Be </s> <|user|> ▁ Ċ Hi </s> <|assistant|> ▁ Ċ ⟦ Ok </s> ⟧ <|user|> ▁ Ċ Go "
        "</s> <|assistant|> ▁ Ċ ⟦ ▁Go Ċ </s> ⟧"
    ),
    ("simplified-llama31", "byte-level"): (
        "<s> <|start_header_id|> s y s t e m <|end_header_id|> Ċ Ċ Be <|eot_id|> <|start_header_id|> u s e "
        "r <|end_header_id|> Ċ Ċ Hi <|eot_id|> <|start_header_id|> a s s i s t a n t <|end_header_id|> Ċ Ċ "
        "⟦ Ok <|eot_id|> ⟧ <|start_header_id|> u s e r <|end_header_id|> Ċ Ċ Go <|eot_id|> "
        "<|start_header_id|> a s s i s t a n t <|end_header_id|> Ċ Ċ ⟦ Go <|eot_id|> ⟧"
    ),
    ("simplified-llama31", "llama"): (
        "<s> <|start_header_id|> ▁ s y s t e m <|end_header_id|> ▁ Ċ Ċ Be <|eot_id|> <|start_header_id|> ▁ "
        "u s e r <|end_header_id|> ▁ Ċ Ċ Hi <|eot_id|> <|start_header_id|> ▁ a s s i s t a n t "
        "<|end_header_id|> ▁ Ċ Ċ ⟦ Ok <|eot_id|> ⟧ <|start_header_id|> ▁ u s e r <|end_header_id|> ▁ Ċ Ċ Go "
        "<|eot_id|> <|start_header_id|> ▁ a s s i s t a n t <|end_header_id|> ▁ Ċ Ċ ⟦ Go <|eot_id|> ⟧"
    ),
    ("simplified-llama31", "unigram"): (
        "<s> <|start_header_id|> ▁ s y s t e m <|end_header_id|> ▁ Ċ Ċ Be <|eot_id|> <|start_header_id|> ▁ "
        "u s e r <|end_header_id|> ▁ Ċ Ċ Hi <|eot_id|> <|start_header_id|> ▁ a s s i s t a n t "
        "<|end_header_id|> ▁ Ċ Ċ ⟦ Ok <|eot_id|> ⟧ <|start_header_id|> ▁ u s e r <|end_header_id|> ▁ Ċ Ċ Go "
        "<|eot_id|> <|start_header_id|> ▁ a s s i s t a n t <|end_header_id|> ▁ Ċ Ċ ⟦ Go <|eot_id|> ⟧"
    ),
    ("none", "byte-level"): ("Be Hi ⟦ Ok </s> ⟧ Go ⟦ ĠGo Ċ </s> ⟧"),
    ("none", "llama"): ("<s> ▁Be Hi ⟦ Ok </s> ⟧ ▁Go ⟦ ▁Go Ċ </s> ⟧"),
    ("none", "unigram"): ("▁Be Hi ⟦ Ok </s> ⟧ ▁Go ⟦ ▁Go Ċ </s> ⟧"),
}


def byte_level() -> Tokenizer:
    backend = _bpe({" ": "Ġ", "\n": "Ċ"}, "Ġ")
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def llama() -> Tokenizer:
    backend = _bpe({" ": "▁"}, "▁")
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    return backend


def _bpe(written: dict[str, str], space: str) -> Tokenizer:
    merges = [(word[0], word[1]) for word in WORDS] + [(space, word) for word in WORDS]
    tokens = [*SPECIAL, *(written.get(one, one) for one in CHARACTERS), *("".join(merge) for merge in merges)]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    return Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>"))


def unigram() -> Tokenizer:
    letters = [("▁" if one == " " else one, -9.0) for one in CHARACTERS]
    words = [(form, -3.0) for word in WORDS for form in (word, f"▁{word}")]
    backend = Tokenizer(models.Unigram([*((token, 0.0) for token in SPECIAL), *letters, *words], unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Metaspace(prepend_scheme="always")
    return backend


KINDS: dict[str, Callable[[], Tokenizer]] = {"byte-level": byte_level, "llama": llama, "unigram": unigram}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tokenizers as a model's folder has them."""
    from transformers import PreTrainedTokenizerFast

    found = {}
    for kind, make in KINDS.items():
        backend = make()
        backend.add_special_tokens(SPECIAL)
        fast = PreTrainedTokenizerFast(
            tokenizer_object=backend,
            bos_token="<s>",
            eos_token="</s>",
            unk_token="<unk>",
            clean_up_tokenization_spaces=False,
        )
        found[kind] = tmp_path_factory.mktemp(kind)
        fast.save_pretrained(found[kind])
    return found


def expected(template: str, kind: str, tokenizer: Any) -> tuple[list[int], list[int]]:
    """Ids and labels of the table's row."""
    ids, labels, trained = [], [], False
    for token in TOKENS[template, kind].split():
        if token in "⟦⟧":
            trained = token == "⟦"
            continue
        written = token if kind == "byte-level" else token.replace("Ċ", "\n")
        ids.append(backend_of(tokenizer).token_to_id(written))
        labels.append(ids[-1] if trained else IGNORED)
    return ids, labels


def ready(tokenizer: Any, template: str) -> Any:
    prepare(tokenizer, chat_template_name=template, padding_side="right", missing_pad_token_strategy="eos-repurpose")
    return tokenizer


@pytest.mark.parametrize(("template", "kind"), TOKENS)
def test_every_token_and_every_label(template: str, kind: str, folders: dict[str, Path], tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    (tmp_path / "row").write_text(json.dumps({"messages": TALK}))
    light, full = LightTokenizer.load(folders[kind]), AutoTokenizer.from_pretrained(folders[kind])
    for tokenizer in (ready(light, template), ready(full, template)):
        plan = DataPlan((DataFile("row", tmp_path / "row"),))
        (example,) = load_dataset(plan, Chats(template, 4096, True), tokenizer).train
        assert (example.input_ids, example.labels) == expected(template, kind, tokenizer)
        assert example.input_ids.count(tokenizer.bos_token_id) == ("<s>" in TOKENS[template, kind].split())


@pytest.mark.parametrize(("template", "kind"), TOKENS)
def test_inference_begins_with_the_same_tokens(template: str, kind: str, folders: dict[str, Path]) -> None:
    """The exported template, as a server uses it: the whole conversation, and the prompt of its first answer."""
    from transformers import AutoTokenizer

    tokenizer = ready(AutoTokenizer.from_pretrained(folders[kind]), template)
    ids, labels = expected(template, kind, tokenizer)
    assert tokenizer.apply_chat_template(TALK, return_dict=False) == ids
    prompt = tokenizer.apply_chat_template(TALK[:2], add_generation_prompt=True, return_dict=False)
    assert prompt == ids[: labels.index(next(label for label in labels if label != IGNORED))]


@pytest.mark.parametrize(
    ("template", "usual"),
    [
        (
            "chat-ml",  # as Qwen and many others have it
            "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] "
            "+ '<|im_end|>' + '\n'}}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        ),
        (
            "simplified-llama31",  # Llama 3's own
            "{% set loop_messages = messages %}{% for message in loop_messages %}"
            "{% set content = '<|start_header_id|>' "
            "+ message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}"
            "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
        ),
    ],
)
def test_as_the_model_makers_templates(template: str, usual: str, folders: dict[str, Path]) -> None:
    from transformers import AutoTokenizer

    kind = "byte-level"
    tokenizer = ready(AutoTokenizer.from_pretrained(folders[kind]), template)
    for messages, prompt in ((TALK, False), (TALK[:2], True)):
        ours, theirs = (
            tokenizer.apply_chat_template(
                messages, chat_template=source, add_generation_prompt=prompt, return_dict=False
            )
            for source in (None, usual)
        )
        assert ours == theirs
