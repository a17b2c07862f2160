"""Every key of transformers.TrainingArguments is decided: supported, owned, translated or refused by name."""

from importlib.metadata import version

import pytest

from finetune_api.training_args import (
    ALWAYS_OWNED,
    OWNED,
    REMOVED,
    RENAMED,
    SUPPORTED,
    TrainingArguments,
    default_of,
    refusal,
    snapshot,
    translate,
)

UNSUPPORTED = sorted(set(snapshot()) - set(SUPPORTED) - set(OWNED) - set(RENAMED))


def test_the_tables_do_not_overlap() -> None:
    tables = (set(SUPPORTED), set(OWNED), set(RENAMED), set(REMOVED))
    for index, one in enumerate(tables):
        for other in tables[index + 1 :]:
            assert one & other == set()


def test_supported_and_owned_keys_exist_in_the_library() -> None:
    assert set(SUPPORTED) - set(snapshot()) == set()
    assert set(OWNED) - set(snapshot()) == set()
    assert {renamed.new for renamed in RENAMED.values()} - set(snapshot()) == set()


def test_removed_keys_are_gone_from_the_library() -> None:
    assert set(REMOVED) & set(snapshot()) == set()


def test_the_model_has_every_key_and_no_other() -> None:
    assert set(TrainingArguments.model_fields) == set(snapshot()) | set(RENAMED) | set(REMOVED)


def test_the_snapshot_is_of_the_installed_version() -> None:
    import json
    from importlib import resources

    for name, library in (("training_arguments", "transformers"), ("peft_configs", "peft")):
        stored = json.loads(resources.files("finetune_api").joinpath(f"snapshots/{name}.json").read_text())
        assert stored["version"] == version(library), "run make generate"


@pytest.mark.parametrize("name", sorted(set(snapshot()) - set(ALWAYS_OWNED) - set(RENAMED)))
def test_the_default_asks_for_nothing(name: str) -> None:
    assert refusal(name, default_of(name)) is None


@pytest.mark.parametrize("name", [*UNSUPPORTED, *sorted(OWNED)])
def test_another_value_is_refused_by_name(name: str) -> None:
    reason = refusal(name, "another value")
    assert reason is not None
    assert f"training_args.{name}" in reason


@pytest.mark.parametrize("name", ALWAYS_OWNED)
def test_batch_keys_are_refused_even_with_the_default(name: str) -> None:
    reason = refusal(name, default_of(name))
    assert reason is not None
    assert "batchsize_conf" in reason


def test_translation_leaves_the_given_alone() -> None:
    given = {"warmup_ratio": 0.1, "learning_rate": None}
    assert translate(given) == (
        {"warmup_steps": 0.1},
        ["training_args.warmup_ratio was renamed; taken as warmup_steps: 0.1"],
    )
    assert given == {"warmup_ratio": 0.1, "learning_rate": None}
