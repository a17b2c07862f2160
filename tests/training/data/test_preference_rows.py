"""Rows of preferences to pairs: what is refused, which tokens count, what is cut, dropped, mixed and said about it."""

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_api.data_conf import ChatTrainValidConfig
from finetune_api.methods import DPOArguments
from finetune_trainer.data import LightTokenizer
from finetune_trainer.data.assembling import AutoSplit, DataPlan, Dataset, WeightedMix
from finetune_trainer.data.files import BadLines, DataFile
from finetune_trainer.data.preference import Preference, load_preferences, read_preferences
from finetune_trainer.errors import BadConfiguration, BadData

USER = {"role": "user", "content": "Hi"}
YES, NO = ({"role": "assistant", "content": answer} for answer in ("Yes", "No"))
GOOD = {"prompt_messages": [USER], "chosen_messages": [YES], "rejected_messages": [NO]}


def row(chosen: str = "Yes", rejected: str = "No", prompt: str = "Hi") -> dict[str, Any]:
    return {
        "prompt_messages": [{"role": "user", "content": prompt}],
        "chosen_messages": [{"role": "assistant", "content": chosen}],
        "rejected_messages": [{"role": "assistant", "content": rejected}],
    }


def write(folder: Path, name: str, rows: list[Any]) -> DataFile:
    path = folder / name
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    return DataFile(name, path)


@pytest.fixture
def load(tokenizers_dir: Path):
    def load_plan(
        *training: DataFile, mix=None, validation=None, most=None, kind="chatty", **arguments: Any
    ) -> Dataset:
        datasets = [{"path": "/rows.jsonl"}]
        conf = ChatTrainValidConfig.model_validate(
            {
                "training_data": {"type": "CONCATENATION", "datasets": datasets},
                "validation_data": {"type": "NONE"},
                "chat_template_name": arguments.pop("template", "chat-ml"),
            }
        )
        plan = DataPlan(training, mix, validation, most)
        return load_preferences(plan, conf, DPOArguments(**arguments), LightTokenizer.load(tokenizers_dir / kind))

    return load_plan


def texts(pair: Preference, tokenizer: LightTokenizer) -> tuple[str, str, str]:
    """Prompt, chosen and rejected answer, as the tokens say."""

    def counted(side: Any) -> str:
        ids = [token for token, label in zip(side.input_ids, side.labels, strict=True) if label != -100]
        return tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=False)

    first = next(place for place, label in enumerate(pair.chosen.labels) if label != -100)
    prompt = tokenizer.backend_tokenizer.decode(pair.chosen.input_ids[:first], skip_special_tokens=False)
    return prompt, counted(pair.chosen), counted(pair.rejected)


# --- rows ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"messages": [USER, YES]}, "no key 'prompt_messages' (found 'messages')"),
        ({"messages": [USER, YES]}, "method sft trains on rows with 'messages'"),
        ({**GOOD, "chosen_messages": None}, "'chosen_messages' must be a list of {role, content}, not null"),
        ({key: GOOD[key] for key in ("prompt_messages", "chosen_messages")}, "no key 'rejected_messages'"),
        ({**GOOD, "prompt_messages": []}, "'prompt_messages' is empty"),
        ({**GOOD, "rejected_messages": [{"role": "assistant", "content": " "}]}, "'rejected_messages': message 1"),
        ({**GOOD, "chosen_messages": [USER, YES]}, "'chosen_messages' must begin with a message of the role assistant"),
        ({**GOOD, "prompt_messages": [{"role": "robot", "content": "x"}]}, "unknown role 'robot'"),
    ],
)
def test_a_bad_row_is_told_with_its_line(tmp_path: Path, bad: dict[str, Any], reason: str) -> None:
    file = write(tmp_path, "pairs.jsonl", [GOOD, bad, GOOD])
    lines = BadLines()
    assert [one.line for one in read_preferences(file, lines)] == [1, 3]
    with pytest.raises(BadData) as caught:
        lines.raise_if_any()
    assert str(caught.value).startswith("1 bad line in the data:\npairs.jsonl:2: ")
    assert reason in str(caught.value)


def test_parquet_rows_are_read_too(load, tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "pairs.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([GOOD, row("a", "b")]), path)
    file = write(tmp_path, "pairs.jsonl", [GOOD, row("a", "b")])
    assert load(DataFile("pairs.parquet", path)).train == load(file).train


# --- tokens ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["chatty", "words", "merged"])
@pytest.mark.parametrize("template", ["chat-ml", "mistral-with-system", "poro", "simplified-llama31"])
def test_only_the_answers_count_after_the_same_prompt(
    load, tmp_path: Path, tokenizers_dir: Path, template: str, kind: str
) -> None:
    many = {**row("Machines think.", "No!"), "prompt_messages": [USER, YES, {"role": "user", "content": "Why?"}]}
    data = load(write(tmp_path, "a", [row(), row("x", "x y"), many]), template=template, kind=kind)
    tokenizer = LightTokenizer.load(tokenizers_dir / kind)
    from finetune_trainer.data.preparing import add_template_tokens

    add_template_tokens(tokenizer, template)
    for pair, (chosen, rejected) in zip(
        data.train, (("Yes", "No"), ("x", "x y"), ("Machines think.", "No!")), strict=True
    ):
        sides = pair.chosen, pair.rejected
        firsts = [next(place for place, label in enumerate(side.labels) if label != -100) for side in sides]
        assert firsts[0] == firsts[1]
        assert sides[0].input_ids[: firsts[0]] == sides[1].input_ids[: firsts[0]]
        assert sides[0].input_ids.count(tokenizer.bos_token_id) <= 1
        _, said, unsaid = texts(pair, tokenizer)
        assert said.strip().startswith(chosen)
        assert unsaid.strip().startswith(rejected)
        assert said.strip() != chosen, "the end marker is learnt"


def test_an_answer_begins_where_it_parts_from_the_other(load, tmp_path: Path) -> None:
    """mistral's prompt ends with "]" right before the answer: an answer that begins with "]" takes it into its token.
    Both answers then begin with what became of the "]", so that their prompts are the same tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=259, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(["]] ]]"] * 9, trainer)
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
    file = write(tmp_path, "a", [row("]x", "y")])
    (pair,) = load(file, template="mistral-with-system", kind=folder).train
    prompt, chosen, rejected = texts(pair, LightTokenizer.load(folder))
    assert (prompt, chosen, rejected) == ("[INST] Hi [/INST", "]]x</s>", "]y</s>")


def test_several_turns_of_an_answer_count_where_the_assistant_speaks(
    load, tmp_path: Path, tokenizers_dir: Path
) -> None:
    long = {
        **GOOD,
        "chosen_messages": [YES, {"role": "user", "content": "Why"}, {"role": "assistant", "content": "So"}],
    }
    (pair,) = load(write(tmp_path, "a", [long])).train
    assert texts(pair, LightTokenizer.load(tokenizers_dir / "chatty"))[1:] == (
        "Yes<|im_end|>So<|im_end|>",
        "No<|im_end|>",
    )


def test_a_template_that_does_not_tell_where_answers_lie_is_refused(load, tmp_path: Path, tokenizers_dir: Path) -> None:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    for path in (tokenizers_dir / "chatty").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    # rewrites what came before as the conversation goes on, as templates do that cut earlier thoughts
    template = "{{ messages | length }}{% for message in messages %}{{ message['content'] }}|{% endfor %}"
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(BadConfiguration, match="method dpo needs to know where an answer lies"):
        load(write(tmp_path, "a", [GOOD]), template="keep-original", kind=folder)


# --- length ----------------------------------------------------------------------------------------------------------


def test_long_pairs_are_dropped_and_counted(load, tmp_path: Path) -> None:
    file = write(tmp_path, "a", [row(), row("x" * 50), row(rejected="y" * 50)])
    whole = load(file)
    limit = len(whole.train[0].chosen)
    data = load(file, max_seq_length=limit)
    assert len(data.train) == 1
    assert (data.account.dropped, data.account.truncated, data.account.longest_usable) == (2, 0, limit)
    assert (
        "2 of 3 pairs were left out, since prompt and answer are longer than max_seq_length" in data.account.notices[0]
    )
    with pytest.raises(BadData, match=r"raise dpo_args.max_seq_length or shorten the rows"):
        load(file, max_seq_length=3)


def test_long_pairs_are_cut_at_their_end_if_asked_for(load, tmp_path: Path) -> None:
    file = write(tmp_path, "a", [row(), row("x" * 50), row(prompt="z" * 80)])
    whole = load(file)
    limit = len(whole.train[0].chosen) + 10
    data = load(file, max_seq_length=limit, overlength="truncate")
    assert len(data.train) == 2
    cut, before = data.train[1].chosen, whole.train[1].chosen
    assert (cut.input_ids, cut.labels) == (before.input_ids[:limit], before.labels[:limit])
    assert data.train[1].rejected == whole.train[1].rejected
    assert (data.account.truncated, data.account.dropped) == (1, 1)
    said = " ".join(data.account.notices)
    assert "1 of 3 pairs were cut at their end" in said
    assert "1 of 3 pairs were left out, since nothing of an answer would be left within max_seq_length" in said


# --- files -----------------------------------------------------------------------------------------------------------


def test_files_are_mixed_split_and_limited_as_for_other_methods(load, tmp_path: Path) -> None:
    one = write(tmp_path, "a", [row(f"a{number}") for number in range(6)])
    other = write(tmp_path, "b", [row(f"b{number}") for number in range(2)])
    mixed = load(one, other, mix=WeightedMix((1.0, 1.0), 1))
    assert len(mixed.train) == 12
    assert mixed.train[1] == mixed.train[5] == mixed.train[9]
    split = load(one, other, validation=AutoSplit(0.25, 1))
    assert (len(split.train), len(split.eval or [])) == (6, 2)
    assert not set(split.train) & set(split.eval or [])
    assert load(one, other, most=3).train == load(one, other).train[:3]
    checked = load(one, validation=(write(tmp_path, "v", [row("a1"), row("c")]),))
    assert checked.account.leaks == 1


def test_pairs_that_teach_nothing_are_named(load, tmp_path: Path) -> None:
    data = load(write(tmp_path, "a", [row(), row("same", "same"), row()]))
    assert data.account.duplicates == 1
    assert "1 of 3 pairs have the same answer twice; they teach no preference" in data.account.notices


# --- the account -----------------------------------------------------------------------------------------------------


def test_the_download_counts_the_tokens_of_both_answers(tmp_path: Path, tokenizers_dir: Path) -> None:
    import shutil

    from finetune_api.job_config import JobConfig
    from finetune_api.resolve import resolve
    from finetune_api.spec import FineTuneJobSpec
    from finetune_trainer.data import load_training_data, prepare_tokenizer

    folder = tmp_path / "model"
    shutil.copytree(tokenizers_dir / "chatty", folder)
    file = write(tmp_path, "a.jsonl", [row(), row("x" * 40), row("y" * 400)])
    spec = {
        "basemodel": str(folder),
        "method": "dpo",
        "finetuningGpus": 0,
        "data_conf": {
            "training_data": {"type": "CONCATENATION", "datasets": [{"path": str(file.path)}]},
            "validation_data": {"type": "NONE"},
            "chat_template_name": "chat-ml",
        },
        "training_args": {},
        "batchsize_conf": {"total_train_batch_size": 2, "max_per_device_train_batch_size": 2},
        "peft_conf": {"peft_type": "NO_PEFT"},
        "run_conf": {},
        "dpo_args": {"max_seq_length": 128},
    }
    config = JobConfig(name="job", spec=resolve(FineTuneJobSpec.model_validate(spec)).spec.to_dict())
    tokenizer = LightTokenizer.load(folder)
    prepare_tokenizer(config, tokenizer)
    data = load_training_data(config, tokenizer, tmp_path)
    assert (data.report.examples, data.report.dropped) == (2, 1)
    assert data.report.tokens == sum(len(pair.chosen) + len(pair.rejected) for pair in data.train)
    assert data.report.target_tokens == sum(
        pair.chosen.trained_tokens + pair.rejected.trained_tokens for pair in data.train
    )
    assert data.report.longest == len(data.train[1].chosen)
