"""Plain text to examples: every format, every way to deal with length, bad rows named."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.data import Example, LightTokenizer, load_training_data, prepare_tokenizer
from finetune_trainer.data.text import pack, special_tokens
from finetune_trainer.errors import BadConfiguration, BadData

Load = Callable[..., Any]


@pytest.fixture
def load(clm_job: Any, gpt2: Path) -> Load:
    """load(file, …) -> the data of a job, as the download pod reads it and as training does: both must agree."""

    def read(data: Path | list[Path], **given: Any) -> Any:
        from transformers import AutoTokenizer

        config = clm_job(gpt2, data, **given)
        found = []
        for tokenizer in (LightTokenizer.load(gpt2), AutoTokenizer.from_pretrained(gpt2)):
            found.append(load_training_data(config, prepare_tokenizer(config, tokenizer).tokenizer, Path("/nowhere")))
        light, full = found
        assert (light.train, light.eval, light.notices) == (full.train, full.eval, full.notices)
        assert light.report == full.report
        return full

    return read


@pytest.fixture
def encode(gpt2: Path) -> Callable[[str], list[int]]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gpt2)
    return lambda text: tokenizer(text)["input_ids"]


END = 0  # <|endoftext|>
TEXTS = ["the cat sat on the mat", "one bird", "who saw my house and the red hat with one blue bird on it I am fine"]


def write(path: Path, texts: list[str], key: str = "text") -> Path:
    """The texts in the format that the path's ending means."""
    if path.suffix == ".txt":
        path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({key: text, "id": 1}) + "\n" for text in texts), encoding="utf-8")
    elif path.suffix == ".csv":
        path.write_text(f"id,{key}\n" + "".join(f'1,"{text}"\n' for text in texts), encoding="utf-8")
    else:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.table({"id": [1] * len(texts), key: texts}), path)
    return path


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.parquet"])
def test_every_format_gives_the_same_rows(load: Load, encode: Any, tmp_path: Path, name: str) -> None:
    data = load(write(tmp_path / name, TEXTS), overlength="truncate", block_size=40)
    assert [row.input_ids for row in data.train] == [encode(text) for text in TEXTS]
    assert all(row.labels == row.input_ids for row in data.train)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
def test_text_key_names_the_key_or_column(load: Load, tmp_path: Path, name: str) -> None:
    data = load(write(tmp_path / name, TEXTS, key="body"), text_key="body", overlength="truncate", block_size=40)
    assert len(data.train) == 3
    with pytest.raises(
        BadData, match=r"a\.\w+:\d: no 'text' \(found .*'body'.*\); name the key of the text in clm_args"
    ):
        load(tmp_path / name, overlength="truncate", block_size=40)


def test_truncate_cuts_as_the_tokenizer_does(load: Load, encode: Any, tmp_path: Path) -> None:
    data = load(write(tmp_path / "a.txt", TEXTS), overlength="truncate", block_size=5)
    assert [row.input_ids for row in data.train] == [encode(text)[:5] for text in TEXTS]
    long = sum(len(encode(text)) > 5 for text in TEXTS)
    assert data.report.truncated == long == 2
    assert data.report.longest == 5
    assert f"{long} of 3 texts were cut to clm_args.block_size (5 tokens)" in data.notices


def test_drop_leaves_out_what_is_longer(load: Load, encode: Any, tmp_path: Path) -> None:
    data = load(write(tmp_path / "a.txt", TEXTS), overlength="drop", block_size=5)
    assert [row.input_ids for row in data.train] == [encode(TEXTS[1])]
    assert data.report.dropped == 2
    assert "2 of 3 texts were left out, since they are longer than clm_args.block_size (5 tokens)" in data.notices
    with pytest.raises(BadData, match=r"every row of data_conf.training_data is longer than block_size \(2 tokens\)"):
        load(tmp_path / "a.txt", overlength="drop", block_size=2)


def test_pack_joins_everything_and_loses_no_token(load: Load, encode: Any, tmp_path: Path) -> None:
    """EOS after each text, blocks cut wherever they end, the rest as a shorter block."""
    joined = [token for text in TEXTS for token in (*encode(text), END)]
    data = load(write(tmp_path / "a.txt", TEXTS), block_size=8)
    blocks = [row.input_ids for row in data.train]
    assert blocks == [joined[at : at + 8] for at in range(0, len(joined), 8)]
    assert all(row.labels == row.input_ids for row in data.train)
    assert data.report.packed_into == len(blocks)
    assert data.report.examples == 3
    assert data.report.tokens == len(joined)


def test_a_rest_of_one_token_is_left_out(load: Load, encode: Any, tmp_path: Path) -> None:
    whole = len(encode(TEXTS[0])) + 1
    data = load(write(tmp_path / "a.txt", TEXTS[:1]), block_size=whole - 1)
    assert [len(row) for row in data.train] == [whole - 1]


def test_packing_comes_after_split_mix_and_limit(load: Load, encode: Any, tmp_path: Path) -> None:
    """Texts are split and counted, not blocks: no text stands in both, max_examples counts texts."""
    texts = [f"{word} {word} the cat" for word in ("red", "blue", "green", "one", "fine", "house", "bird", "hat")]
    path = write(tmp_path / "a.txt", texts)
    data = load(path, block_size=16, validation={"type": "AUTO_SPLIT", "ratio": 0.25})
    rows = [[token for row in part for token in row.input_ids] for part in (data.train, data.eval)]
    pieces = [[*encode(text), END] for text in texts]

    def split_again(tokens: list[int]) -> list[list[int]]:
        found: list[list[int]] = [[]]
        for token in tokens:
            found[-1].append(token)
            if token == END:
                found.append([])
        return found[:-1]

    train, checked = map(split_again, rows)
    assert sorted(train + checked) == sorted(pieces)
    assert len(checked) == 2 == data.report.validation_examples
    few = load(path, block_size=16, data_conf={"max_examples": 3})
    assert [token for row in few.train for token in row.input_ids] == [t for piece in pieces[:3] for t in piece]


def test_mixed_files_are_packed_in_the_mixs_order(load: Load, encode: Any, tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.txt", ["the cat", "one dog"]), write(tmp_path / "b.jsonl", ["red hat", "blue bird"])
    mix = {
        "type": "PRECOMPUTE_WEIGHTED_MIX",
        "datasets": [{"path": str(a), "sampling_weight": 1.0}, {"path": str(b), "sampling_weight": 1.0}],
    }
    data = load(a, block_size=64, data_conf={"training_data": mix})
    order = ["the cat", "red hat", "one dog", "blue bird"]
    assert [row.input_ids for row in data.train] == [[t for text in order for t in (*encode(text), END)]]


def test_empty_texts_are_left_out_and_counted(load: Load, tmp_path: Path) -> None:
    """As wikitext has them between its paragraphs."""
    path = tmp_path / "a.txt"
    path.write_text("\n = Title = \n\n \nthe cat sat\n", encoding="utf-8")
    assert "3 texts were left out, since they are empty or a single token" in load(path).notices
    records = write(tmp_path / "b.parquet", ["", "the cat", " "])
    data = load(records, overlength="truncate")
    assert "2 texts were left out, since they are empty or a single token" in data.notices
    assert len(data.train) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"body": "x"}', r"a.jsonl:2: no 'text' \(found 'body'\); name the key of the text in clm_args.text_key"),
        ('{"text": 3}', "a.jsonl:2: 'text' must be text, not number"),
        ('{"text": null}', "a.jsonl:2: 'text' must be text, not null"),
        ('{"text": ["a"]}', "a.jsonl:2: 'text' must be text, not list"),
        ('{"text": "\\ud800"}', "a.jsonl:2: 'text' holds half of a surrogate pair"),
        ("{", "a.jsonl:2: broken JSON"),
    ],
)
def test_bad_rows_are_named_by_file_and_line(load: Load, tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": "the cat"}}\n{line}\n', encoding="utf-8")
    with pytest.raises(BadData, match=message):
        load(path)


def test_text_that_is_not_utf8(load: Load, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"the cat\n\xff\xfe\n")
    with pytest.raises(BadData, match=r"a.txt:2: not UTF-8"):
        load(path)


def test_a_block_without_room_is_refused(load: Load, tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match=r"clm_args.block_size is 1, which leaves no room for text: make it 2"):
        load(write(tmp_path / "a.txt", TEXTS), block_size=1)


@pytest.mark.parametrize(
    ("around", "expected"),
    [("$A", ([], [])), ("<s> $A", ([1], [])), ("<s> $A </s>", ([1], [2])), ("$A </s>", ([], [2]))],
)
def test_special_tokens_of_the_tokenizer_itself(
    clm_job: Any, make_model: Any, tmp_path: Path, around: str, expected: tuple[list[int], list[int]]
) -> None:
    """The download pod and training put the same tokens around a text; cutting leaves them; EOS is never doubled."""
    from tokenizers import Tokenizer, processors
    from transformers import AutoTokenizer

    backend = Tokenizer.from_file(str(make_model() / "tokenizer.json"))
    backend.post_processor = processors.TemplateProcessing(single=around, special_tokens=[("<s>", 1), ("</s>", 2)])
    backend.save(str(tmp_path / "tokenizer.json"))
    named = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**named, "add_bos_token": True}))
    full, light = AutoTokenizer.from_pretrained(tmp_path), LightTokenizer.load(tmp_path)
    assert special_tokens(light) == special_tokens(full) == expected
    path = write(tmp_path / "a.txt", TEXTS)
    cut = load_training_data(clm_job(tmp_path, path, overlength="truncate", block_size=6), full, Path("/nowhere"))
    assert [row.input_ids for row in cut.train] == [
        full(text, truncation=True, max_length=6)["input_ids"] for text in TEXTS
    ]
    packed = load_training_data(clm_job(tmp_path, path, block_size=500), light, Path("/nowhere"))
    whole = [full(text)["input_ids"] for text in TEXTS]
    assert packed.train[0].input_ids == [token for ids in whole for token in (*ids, *([] if expected[1] else [2]))]


def test_padding_of_gpt2_is_masked_by_position(clm_job: Any, gpt2: Path, tmp_path: Path) -> None:
    """Its padding token is its EOS, which packed texts are trained on; every batch as long as block_size."""
    from transformers import AutoTokenizer

    from finetune_trainer.data import padded_length
    from finetune_trainer.train.batches import Examples, Padding

    config = clm_job(gpt2, write(tmp_path / "a.txt", ["the cat", "one dog"]), block_size=12, padding="max_length")
    tokenizer = prepare_tokenizer(config, AutoTokenizer.from_pretrained(gpt2))
    assert tokenizer.pad_input_id == tokenizer.tokenizer.eos_token_id == END
    rows = load_training_data(config, tokenizer.tokenizer, Path("/nowhere")).train
    examples = Examples(rows, Padding(END, "right", True, padded_length(config.parsed_spec())))
    batch = examples.collate(rows)
    assert batch.input_ids.shape == (1, 12)
    assert batch.target_ids.tolist() == rows[0].input_ids[1:]
    assert batch.target_ids.tolist().count(END) == 2


@given(
    lengths=st.lists(st.integers(min_value=1, max_value=40), max_size=30),
    block_size=st.integers(min_value=2, max_value=20),
)
def test_packing_neither_loses_nor_doubles_a_token(lengths: list[int], block_size: int) -> None:
    counter = itertools.count()
    texts = [Example(ids, ids) for ids in ([next(counter) for _ in range(length)] for length in lengths)]
    blocks = [block.input_ids for block in pack(texts, block_size)]
    packed = [token for block in blocks for token in block]
    rest = sum(lengths) - len(packed)
    assert packed == list(range(len(packed)))
    assert rest == (1 if sum(lengths) % block_size == 1 else 0)
    assert all(len(block) == block_size for block in blocks[:-1])
    assert all(2 <= len(block) <= block_size for block in blocks)
