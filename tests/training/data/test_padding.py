"""What pads, on which side, and that the mask goes by position even where the padding token is a real one."""

from pathlib import Path

import pytest

from finetune_trainer.data import Example, LightTokenizer, collate
from finetune_trainer.data.preparing import prepare
from finetune_trainer.errors import BadConfiguration


def prepared(folder: Path, strategy: str, template: str = "mistral-with-system"):
    return prepare(
        LightTokenizer.load(folder),
        chat_template_name=template,
        padding_side="left",
        missing_pad_token_strategy=strategy,
    )


@pytest.mark.parametrize(
    ("strategy", "pad", "pad_input"),
    [
        ("eos-repurpose", "</s>", "</s>"),
        ("bos-repurpose", "<s>", "<s>"),
        ("unk-repurpose", "<unk>", "<unk>"),
        ("unk-convert-to-eos", "<unk>", "</s>"),
    ],
)
def test_the_four_strategies(strategy: str, pad: str, pad_input: str, tokenizers_dir: Path) -> None:
    result = prepared(tokenizers_dir / "merged", strategy)
    backend = result.tokenizer.backend_tokenizer
    assert result.tokenizer.pad_token == pad
    assert result.pad_token_id == backend.token_to_id(pad)
    assert result.pad_input_id == backend.token_to_id(pad_input)
    assert result.tokenizer.padding_side == "left"


def test_a_padding_token_that_exists_stays(tokenizers_dir: Path) -> None:
    result = prepared(tokenizers_dir / "padded", "bos-repurpose")
    assert result.tokenizer.pad_token == "<pad>"
    with pytest.raises(BadConfiguration, match=r"unk-convert-to-eos.*has the padding token '<pad>'"):
        prepared(tokenizers_dir / "padded", "unk-convert-to-eos")


def test_a_strategy_whose_token_is_missing_names_the_others(tokenizers_dir: Path) -> None:
    tokenizer = LightTokenizer.load(tokenizers_dir / "merged")
    del tokenizer.special_tokens_map["bos_token"]
    with pytest.raises(BadConfiguration, match=r"needs its BOS token.*eos-repurpose or unk-repurpose"):
        prepare(
            tokenizer,
            chat_template_name="chat-ml",
            padding_side="right",
            missing_pad_token_strategy="bos-repurpose",
        )


@pytest.mark.parametrize("side", ["left", "right"])
def test_mask_and_labels_go_by_position(side: str) -> None:
    """The padding id 1 also stands in the text, begins it, and is trained."""
    long, short = Example([1, 5, 1, 6], [-100, 5, 1, 6]), Example([1, 7], [1, 7])
    batch = collate([long, short], 1, side)
    right = {"input_ids": [1, 7, 1, 1], "labels": [1, 7, -100, -100], "attention_mask": [1, 1, 0, 0]}
    left = {"input_ids": [1, 1, 1, 7], "labels": [-100, -100, 1, 7], "attention_mask": [0, 0, 1, 1]}
    rows = {"left": left, "right": right}[side]
    assert {name: tensor[1].tolist() for name, tensor in batch.items()} == rows
    assert batch["attention_mask"][0].tolist() == [1, 1, 1, 1]
    assert batch["labels"][0].tolist() == [-100, 5, 1, 6]


def test_pad_to_gives_the_length_and_never_cuts() -> None:
    example = Example([1, 2, 3], [1, 2, 3])
    assert collate([example], 0, "right", pad_to=5)["input_ids"].tolist() == [[1, 2, 3, 0, 0]]
    with pytest.raises(ValueError, match="3 tokens does not fit"):
        collate([example], 0, "right", pad_to=2)


def test_an_example_keeps_ids_and_labels() -> None:
    example = Example([4, 5, 6, 7], [-100, 5, -100, 7])
    assert (example.input_ids, example.labels) == ([4, 5, 6, 7], [-100, 5, -100, 7])
    assert (len(example), example.trained_tokens) == (4, 2)
    with pytest.raises(ValueError, match="neither the token id"):
        Example([4], [5])
    with pytest.raises(ValueError, match="1 token ids but 2 labels"):
        Example([4], [4, 4])
