"""Checkpoints: a run that was stopped anywhere ends like one that was not, and nothing half written is ever taken."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.errors import BadConfiguration, InputMissing
from finetune_trainer.train import manifest
from finetune_trainer.train.checkpoint_folder import list_checkpoints, prune

# Dropout draws random numbers in every layer and accumulation makes steps of several micro-batches.
LORA_DROPOUT = {"r": 4, "lora_dropout": 0.2, "target_modules": "all-linear"}


@pytest.mark.parametrize(
    ("lora", "stop_after"),
    [(LORA_DROPOUT, 4), (LORA_DROPOUT, 6), (False, 7)],
    ids=["mid-epoch", "end of epoch", "full"],
)
def test_a_stopped_run_ends_like_an_uninterrupted_one(
    train_here: Any, make_config: Any, validation: Path, lora: Any, stop_after: int
) -> None:
    config = make_config(
        lora=lora, per_device=2, validation=validation, training_args={"eval_strategy": "steps", "eval_steps": 5}
    )
    whole = train_here(config)
    first = train_here(config, stop_after=stop_after)
    assert first.error is not None
    assert [path.name for path in list_checkpoints(first.checkpoints)] == [f"checkpoint-{stop_after}"]
    second = train_here(config, work=first.work)
    assert second.report.resumed_from_step == stop_after
    assert second.losses == whole.losses
    assert second.eval_losses == whole.eval_losses
    for name in ("adapter_model.safetensors", "model.safetensors"):
        if (whole.final / name).exists():
            assert (second.final / name).read_bytes() == (whole.final / name).read_bytes()


@pytest.mark.parametrize(
    ("model", "lora"),
    [
        ({"tie_word_embeddings": True}, False),
        ({"architecture": "gpt2"}, False),
        ({"architecture": "gpt2"}, {"r": 4}),
        ({"architecture": "mixtral", "num_local_experts": 2, "num_experts_per_tok": 1}, False),
        ({}, {"r": 4, "use_dora": True, "bias": "all", "modules_to_save": ["lm_head"]}),
    ],
    ids=["tied", "gpt2", "gpt2-lora", "mixtral", "dora"],
)
def test_every_kind_of_model_resumes_and_loads(
    train_here: Any, make_config: Any, make_model: Any, model: dict[str, Any], lora: Any
) -> None:
    """Weights that are tied, transposed, stored under other names than in memory, or beside an adapter."""
    from transformers import AutoModelForCausalLM

    config = make_config(model=make_model(**model), lora=lora, per_device=4, training_args={"max_steps": 4})
    whole = train_here(config)
    first = train_here(config, stop_after=2)
    assert train_here(config, work=first.work).losses == pytest.approx(whole.losses, rel=1e-6)
    result = whole.checkpoints / ("checkpoint-final-merged" if lora else "checkpoint-final")
    _, loaded = AutoModelForCausalLM.from_pretrained(result, output_loading_info=True)
    assert not loaded["missing_keys"]
    assert not loaded["unexpected_keys"]


def test_resuming_a_finished_run_only_exports_again(train_here: Any, make_config: Any) -> None:
    config = make_config(training_args={"max_steps": 3})
    first = train_here(config)
    weights = (first.final / "model.safetensors").read_bytes()
    shutil.rmtree(first.final)
    second = train_here(config, work=first.work)
    assert second.report.resumed_from_step == 3
    assert (second.final / "model.safetensors").read_bytes() == weights


@pytest.fixture
def two_checkpoints(train_here: Any, make_config: Any) -> Any:
    """A run stopped between the micro-batches of step 5, with checkpoints of steps 2 and 4, and its job."""
    config = make_config(per_device=2, training_args={"save_steps": 2})
    return train_here(config, stop_after=4), config


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: _cut(folder / "model.safetensors"), "bytes"),
        (lambda folder: _flip(folder / "optimizer.pt"), "has changed"),
        (lambda folder: (folder / "trainer_state.json").unlink(), "is missing"),
        (lambda folder: (folder / "_COMPLETE.json").write_text("{"), "no readable _COMPLETE.json"),
    ],
    ids=["cut", "flipped bit", "missing file", "torn manifest"],
)
def test_a_damaged_checkpoint_is_skipped_for_the_one_before(
    two_checkpoints: Any, train_here: Any, damage: Any, reason: str
) -> None:
    run, config = two_checkpoints
    damage(run.checkpoints / "checkpoint-4")
    again = train_here(config, work=run.work, FINETUNE_RESUME="auto")
    assert again.report.resumed_from_step == 2
    assert any("checkpoint-4 was skipped" in notice and reason in notice for notice in again.notices)
    assert max(again.losses) == 12


def test_what_a_killed_process_was_writing_is_swept_up(two_checkpoints: Any, train_here: Any) -> None:
    run, config = two_checkpoints
    (run.checkpoints / f"{manifest.ASIDE}checkpoint-6-abc").mkdir()
    again = train_here(config, work=run.work)
    assert again.report.resumed_from_step == 4
    assert not list(again.checkpoints.glob(f"{manifest.ASIDE}*"))


def test_another_configuration_is_refused_by_name(two_checkpoints: Any, train_here: Any, make_config: Any) -> None:
    run, _ = two_checkpoints
    other = make_config(total=4, training_args={"seed": 7})
    with pytest.raises(BadConfiguration, match=r"total_train_batch_size was 8, is 4; training_args.seed was 42, is 7"):
        train_here(other, work=run.work)


def test_more_epochs_may_be_asked_for(two_checkpoints: Any, train_here: Any, make_config: Any) -> None:
    run, _ = two_checkpoints
    longer = train_here(make_config(training_args={"num_train_epochs": 3}), work=run.work)
    assert longer.report.resumed_from_step == 4
    assert max(longer.losses) == 18


def test_changed_numbers_of_the_optimizer_count_from_the_checkpoint_on(train_here: Any, make_config: Any) -> None:
    """torch's load_state_dict would bring the old ones back without a word."""

    def config(**arguments: Any) -> Any:
        return make_config(per_device=4, training_args={"lr_scheduler_type": "constant", **arguments})

    first = train_here(config(), stop_after=3)
    shutil.copytree(first.work, first.work.with_name("copy"))
    changed = config(learning_rate=1e-4, weight_decay=0.5, adam_beta1=0.5)
    second = train_here(changed, work=first.work)
    rates = {entry["step"]: entry["learning_rate"] for entry in second.history()}
    assert (rates[3], rates[4], rates[12]) == (5e-3, 1e-4, 1e-4)
    losses = second.losses
    assert losses != train_here(config(learning_rate=1e-4), work=first.work.with_name("copy")).losses


@pytest.mark.parametrize("name", ["optimizer.pt", "trainer_state.json"])
def test_a_checkpoint_that_never_had_all_its_parts_is_refused(
    two_checkpoints: Any, train_here: Any, make_config: Any, name: str
) -> None:
    """Whole by its own manifest, but of no use to go on from: nothing is left out silently."""
    run, _ = two_checkpoints
    folder = run.checkpoints / "checkpoint-2"
    facts = manifest.read_facts(folder)
    assert facts is not None
    del facts["files"][name]
    (folder / name).unlink()
    (folder / "_COMPLETE.json").write_text(json.dumps(facts))
    config = make_config(uid="job-2", per_device=2, spec={"run_conf": {"resume_from_checkpoint": str(folder)}})
    with pytest.raises(BadConfiguration, match=rf"checkpoint-2 has no {name}; it cannot be continued"):
        train_here(config)


def test_starting_over_moves_an_earlier_job_aside(two_checkpoints: Any, train_here: Any, make_config: Any) -> None:
    run, _ = two_checkpoints
    fresh = train_here(make_config(uid="job-2", training_args={"max_steps": 1}), work=run.work)
    assert fresh.report.resumed_from_step is None
    (aside,) = fresh.checkpoints.glob("before-*")
    assert sorted(path.name for path in aside.iterdir()) == ["checkpoint-2", "checkpoint-4"]
    assert any("were moved to" in notice for notice in fresh.notices)


def test_auto_takes_what_an_earlier_job_left(two_checkpoints: Any, train_here: Any, make_config: Any) -> None:
    run, _ = two_checkpoints
    config = make_config(uid="job-2", spec={"run_conf": {"resume_from_checkpoint": "auto"}})
    assert train_here(config, work=run.work).report.resumed_from_step == 4


def test_a_path_is_continued(two_checkpoints: Any, train_here: Any, make_config: Any) -> None:
    run, _ = two_checkpoints
    path = str(run.checkpoints / "checkpoint-2")
    config = make_config(uid="job-2", spec={"run_conf": {"resume_from_checkpoint": path}})
    assert train_here(config).report.resumed_from_step == 2


@pytest.mark.parametrize(
    ("resume", "message"),
    [(True, "there is no complete checkpoint in"), ("/nowhere/checkpoint-3", "which does not exist")],
)
def test_what_cannot_be_resumed_is_said(train_here: Any, make_config: Any, resume: Any, message: str) -> None:
    config = make_config(spec={"run_conf": {"resume_from_checkpoint": resume}})
    with pytest.raises(InputMissing, match=message):
        train_here(config)


def test_without_checkpoints_a_stopped_run_starts_over(train_here: Any, make_config: Any) -> None:
    config = make_config(training_args={"save_strategy": "no"})
    first = train_here(config, stop_after=3)
    assert "starts over" in str(first.error)
    assert not list_checkpoints(first.checkpoints)


def test_retention_keeps_the_newest_and_the_best(train_here: Any, make_config: Any, validation: Path) -> None:
    """With a rate that ruins the model after the first steps, the first checkpoint stays the best."""
    config = make_config(
        validation=validation,
        training_args={
            "learning_rate": 0.5,
            "lr_scheduler_type": "constant_with_warmup",
            "warmup_steps": 12,
            "eval_strategy": "steps",
            "eval_steps": 2,
            "save_steps": 2,
            "save_total_limit": 2,
            "load_best_model_at_end": True,
        },
    )
    run = train_here(config)
    evaluations = run.eval_losses
    best = min(evaluations, key=lambda step: evaluations[step])
    assert best < 12
    assert {path.name for path in list_checkpoints(run.checkpoints)} == {f"checkpoint-{best}", "checkpoint-12"}
    assert any(f"the result is that of step {best}" in notice for notice in run.notices)
    best_weights = (run.checkpoints / f"checkpoint-{best}" / "model.safetensors").read_bytes()
    assert (run.final / "model.safetensors").read_bytes() == best_weights


def test_best_strategy_saves_improvements_only(train_here: Any, make_config: Any, validation: Path) -> None:
    config = make_config(
        validation=validation,
        training_args={
            "save_strategy": "best",
            "eval_strategy": "steps",
            "eval_steps": 2,
            "metric_for_best_model": "loss",
        },
    )
    run = train_here(config)
    improving, best = [], float("inf")
    for step, loss in run.eval_losses.items():
        if loss < best:
            improving, best = [*improving, step], loss
    assert [int(path.name.split("-")[1]) for path in reversed(list_checkpoints(run.checkpoints))] == improving


@pytest.mark.parametrize(
    ("steps", "limit", "keep", "left"),
    [
        ([1, 2, 3], None, set(), [1, 2, 3]),
        ([1, 2, 3], 1, set(), [3]),
        ([1, 2, 3], 2, {1}, [1, 3]),
        ([1, 2, 3], 1, {1}, [1, 3]),
        ([1, 2, 3, 4], 3, {2}, [2, 3, 4]),
    ],
)
def test_prune(tmp_path: Path, steps: list[int], limit: int | None, keep: set[int], left: list[int]) -> None:
    for step in steps:
        manifest.write_folder(tmp_path / f"checkpoint-{step}", lambda folder: None, {"step": step})
    (tmp_path / "checkpoint-9").mkdir()  # incomplete: neither counted nor removed
    prune(tmp_path, limit, keep)
    assert sorted(json.loads(path.read_text())["step"] for path in tmp_path.glob("*/_COMPLETE.json")) == left
    assert (tmp_path / "checkpoint-9").exists()


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "checkpoint-1"

    def fail(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        manifest.write_folder(target, fail, {})
    assert list(tmp_path.iterdir()) == []
