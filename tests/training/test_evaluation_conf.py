"""evaluation_conf: validation together with a checkpoint, the best ones kept, training that stops when it is done."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.train import manifest
from finetune_trainer.train.checkpoint_folder import list_checkpoints, prune_to_best, step_of


def saved(run: Any) -> list[int]:
    """Steps of the checkpoints that are left."""
    return sorted(step_of(path) or 0 for path in list_checkpoints(run.checkpoints))


def script_of(monkeypatch: pytest.MonkeyPatch, losses: list[float]) -> list[float]:
    """Makes the evaluations of runs from now on find these losses, by the number of the evaluation in the run."""
    from finetune_trainer.train import loop
    from finetune_trainer.train.evaluate import evaluate as original

    def scripted(*args: Any, **kwargs: Any) -> Any:
        found = original(*args, **kwargs)
        return None if found is None else loop.Evaluation(left.pop(0))

    left = list(losses)
    monkeypatch.setattr(loop, "evaluate", scripted)
    return left


@pytest.mark.parametrize(
    ("conf", "events"),
    [
        ({"every_n_epochs": 1}, [6, 12, 18]),
        ({"every_n_epochs": 2}, [12, 18]),
        ({"max_events": 4}, [5, 9, 14, 18]),
        ({"every_n_epochs": 1, "max_events": 2}, [12, 18]),
    ],
    ids=str,
)
def test_every_event_is_a_validation_and_a_checkpoint(
    train_here: Any, make_config: Any, validation: Path, conf: dict[str, Any], events: list[int]
) -> None:
    """Three epochs of 6 steps."""
    arguments = {"num_train_epochs": 3, "save_steps": None}
    run = train_here(make_config(validation=validation, training_args=arguments, spec={"evaluation_conf": conf}))
    assert list(run.eval_losses) == saved(run) == events
    for report in run.report.checkpoints:
        assert report.eval_loss == run.eval_losses[report.step]


def test_least_steps_decide_the_epochs(train_here: Any, make_config: Any) -> None:
    """6 steps an epoch: ceil(13 / 6) = 3 epochs."""
    config = make_config(training_args={"num_train_epochs": None}, spec={"overrides": {"min_update_steps": 13}})
    run = train_here(config)
    assert run.report.total_steps == run.report.step == 18
    assert run.report.effective.epochs == 3


# --- retention --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("losses", "count", "kept"),
    [
        ([3.0, 1.0, 2.0, 4.0], 1, [2, 4]),
        ([3.0, 1.0, 2.0, 4.0], 2, [2, 3, 4]),
        ([4.0, 3.0, 2.0, 1.0], 2, [3, 4]),
        ([1.0, 1.0, 1.0], 1, [1, 3]),  # of equal ones the first
        ([2.0, None, 3.0, None], 1, [1, 4]),  # not validated: stays only as the newest
        ([math.nan, 2.0, math.nan], 2, [2, 3]),
        ([1.0], 3, [1]),
    ],
)
def test_the_best_and_the_newest_are_kept(
    tmp_path: Path, losses: list[float | None], count: int, kept: list[int]
) -> None:
    for step, loss in enumerate(losses, 1):
        manifest.write_folder(tmp_path / f"checkpoint-{step}", lambda folder: None, {"step": step, "evalLoss": loss})
    removed = prune_to_best(tmp_path, count, set())
    left = sorted(json.loads(path.read_text())["step"] for path in tmp_path.glob("*/_COMPLETE.json"))
    assert left == kept
    assert sorted([*removed, *left]) == list(range(1, len(losses) + 1))
    assert not list(tmp_path.glob(".*"))


def test_the_best_checkpoints_stay_here_and_in_the_remote_store(
    train_here: Any, make_config: Any, validation: Path, monkeypatch: pytest.MonkeyPatch, s3_server: str
) -> None:
    import boto3

    for name, value in (("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b"), ("AWS_ENDPOINT_URL", s3_server)):
        monkeypatch.setenv(name, value)
    s3 = boto3.client("s3", endpoint_url=s3_server, region_name="us-east-1")
    s3.create_bucket(Bucket="best")
    script_of(monkeypatch, [5.0, 3.0, 4.0, 4.5, 6.0, 5.5])
    spec = {"evaluation_conf": {"max_events": 6, "keep_best": 2}, "checkpointsRemote": "s3://best/run"}
    run = train_here(make_config(validation=validation, training_args={"save_steps": None}, spec=spec))
    assert saved(run) == [4, 6, 12]
    assert [report.step for report in run.report.checkpoints] == [4, 6, 12]
    keys = [entry["Key"] for entry in s3.list_objects_v2(Bucket="best")["Contents"]]
    assert sorted({key.split("/")[1] for key in keys if key.split("/")[1] != "checkpoint-final"}) == [
        "checkpoint-12",
        "checkpoint-4",
        "checkpoint-6",
    ]


def test_a_checkpoint_of_an_interruption_makes_room_again(train_here: Any, make_config: Any, validation: Path) -> None:
    spec = {"evaluation_conf": {"every_n_epochs": 1, "keep_best": 1}}
    config = make_config(validation=validation, per_device=4, training_args={"save_steps": None}, spec=spec)
    first = train_here(config, stop_after=8)
    assert saved(first) == [6, 8], "the newest must be there to go on from"
    second = train_here(config, work=first.work)
    evaluations = second.eval_losses
    best = min(evaluations, key=lambda step: evaluations[step])
    assert saved(second) == sorted({best, 12})


# --- early stopping ---------------------------------------------------------------------------------------------------

STOPPING = {"max_events": 12, "early_stopping_patience": 2}


def _config(make_config: Any, validation: Path, conf: dict[str, Any], **changes: Any) -> Any:
    arguments = {"save_steps": None, **changes.pop("training_args", {})}
    spec = {"evaluation_conf": conf, **changes.pop("spec", {})}
    return make_config(validation=validation, per_device=4, training_args=arguments, spec=spec, **changes)


def test_training_stops_and_the_best_evaluation_is_the_result(
    train_here: Any, make_config: Any, validation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_of(monkeypatch, [5.0, 4.0, 4.5, 4.0, 3.0])
    run = train_here(_config(make_config, validation, {**STOPPING, "keep_best": 1}))
    assert (run.report.step, run.report.total_steps) == (4, 12)
    assert any("stopped early after step 4: 2 evaluations in a row" in notice for notice in run.notices)
    assert any("early stopping: the result is that of step 2 (evaluation loss 4.0000)" in one for one in run.notices)
    assert saved(run) == [2, 4]
    best = (run.checkpoints / "checkpoint-2" / "model.safetensors").read_bytes()
    assert (run.final / "model.safetensors").read_bytes() == best
    facts = json.loads((run.final / "_COMPLETE.json").read_text())
    assert (facts["step"], facts["evalLoss"]) == (2, 4.0)


def test_the_last_words_tell_why_it_stopped(launch: Any, make_config: Any, validation: Path) -> None:
    """A rate that ruins the model; in the pod's own words."""
    ruin = {"learning_rate": 5.0, "lr_scheduler_type": "constant_with_warmup", "warmup_steps": 12, "max_grad_norm": 0}
    launched = launch(_config(make_config, validation, {**STOPPING, "early_stopping_patience": 1}, training_args=ruin))
    assert launched.wait() == 0, launched.text
    report = launched.report
    assert report.reason == "Completed"
    assert report.step < 12
    assert f"trained {report.step} steps" in report.message
    assert f"stopped early after step {report.step}: 1 evaluations in a row" in report.message


@pytest.mark.parametrize("threshold", [0.0, 0.15, 0.6])
@pytest.mark.parametrize("patience", [1, 2, 3])
def test_patience_is_counted_as_transformers_counts_it(
    make_config: Any, validation: Path, patience: int, threshold: float
) -> None:
    """Against EarlyStoppingCallback with the best metric kept as Trainer keeps it, on many curves."""
    import random

    from transformers import EarlyStoppingCallback, TrainerControl, TrainingArguments
    from transformers import TrainerState as TheirState

    draw = random.Random(7)
    arguments = TrainingArguments(
        output_dir="/nowhere",
        eval_strategy="steps",
        save_strategy="steps",
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        greater_is_better=False,
        report_to="none",
        use_cpu=True,
    )
    for _ in range(40):
        losses = [round(draw.uniform(1, 3), 1) for _ in range(12)]
        callback, theirs = EarlyStoppingCallback(patience, threshold), TheirState()
        expected = None
        for number, loss in enumerate(losses, 1):
            control = TrainerControl()
            callback.on_evaluate(arguments, theirs, control, {"eval_loss": loss})
            if theirs.best_metric is None or loss < theirs.best_metric:
                theirs.best_metric = loss
            if control.should_training_stop:
                expected = number
                break
        assert _stops_after(losses, patience, threshold) == expected, losses


def _stops_after(losses: list[float], patience: int, threshold: float) -> int | None:
    """The evaluation after which our loop stops."""
    from finetune_trainer.train.checkpoint import TrainerState
    from finetune_trainer.train.loop import Loop

    class Settings:
        metric_greater_is_better = False
        least_improvement = threshold

    Settings.patience = patience  # type: ignore[attr-defined]
    loop = Loop.__new__(Loop)
    loop.settings, loop.state, loop.total_steps = Settings(), TrainerState(), 1000  # type: ignore[assignment]
    for number, loss in enumerate(losses, 1):
        loop.state.step = number
        loop._judge(loss)
        if loop.state.stopped_early:
            return number
    return None


@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_patience_survives_an_interruption(
    train_here: Any, make_config: Any, validation: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int
) -> None:
    config = _config(make_config, validation, STOPPING)
    losses = [5.0, 4.0, 4.5, 4.2, 1.0]
    script_of(monkeypatch, losses)
    whole = train_here(config)
    script_of(monkeypatch, losses)
    first = train_here(config, stop_after=stop_after)
    assert first.error is not None
    script_of(monkeypatch, losses[stop_after - 1 :])  # the evaluation that was cut off is made up
    second = train_here(config, work=first.work)
    assert (second.report.step, second.eval_losses) == (whole.report.step, whole.eval_losses)
    assert (second.final / "model.safetensors").read_bytes() == (whole.final / "model.safetensors").read_bytes()


def test_an_attempt_after_the_stop_only_exports(
    train_here: Any, make_config: Any, validation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _config(make_config, validation, STOPPING)
    script_of(monkeypatch, [5.0, 4.0, 4.5, 4.2])
    first = train_here(config)
    weights = (first.final / "model.safetensors").read_bytes()
    shutil.rmtree(first.final)
    second = train_here(config, work=first.work)
    assert second.report.step == 4
    assert (second.final / "model.safetensors").read_bytes() == weights
    assert any("stopped early after step 4" in notice for notice in second.notices)


def test_the_best_checkpoint_is_brought_to_a_new_volume(
    train_here: Any, make_config: Any, validation: Path, monkeypatch: pytest.MonkeyPatch, s3_server: str
) -> None:
    import boto3

    for name, value in (("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b"), ("AWS_ENDPOINT_URL", s3_server)):
        monkeypatch.setenv(name, value)
    boto3.client("s3", endpoint_url=s3_server, region_name="us-east-1").create_bucket(Bucket="volumes")
    config = _config(make_config, validation, STOPPING, spec={"checkpointsRemote": "s3://volumes/run"})
    losses = [5.0, 4.0, 4.5, 4.2]
    script_of(monkeypatch, losses)
    first = train_here(config, stop_after=3)
    script_of(monkeypatch, losses[2:])
    second = train_here(config, FINETUNE_RESUME="auto")  # with a work folder of its own
    assert second.report.resumed_from_step == 3
    best = (first.checkpoints / "checkpoint-2" / "model.safetensors").read_bytes()
    assert (second.final / "model.safetensors").read_bytes() == best


def test_early_stopping_with_the_strategies_of_training_args(
    train_here: Any, make_config: Any, validation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best evaluation gets a checkpoint, whatever save_steps says."""
    script_of(monkeypatch, [5.0, 4.0, 4.5, 4.2])
    arguments = {"eval_strategy": "steps", "eval_steps": 2, "save_steps": 100}
    run = train_here(_config(make_config, validation, {"early_stopping_patience": 2}, training_args=arguments))
    assert run.report.step == 8
    assert saved(run) == [2, 4, 8]
    assert any("the result is that of step 4" in notice for notice in run.notices)


def test_an_evaluation_that_was_cut_off_is_made_up(
    train_here: Any, make_config: Any, validation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM while the model is validated: the checkpoint is written, and the next attempt validates first."""
    from finetune_trainer.train import loop

    config = _config(make_config, validation, {"every_n_epochs": 1, "keep_best": 2})
    whole = train_here(config)
    original = loop.evaluate

    def cut_off(*args: Any, **kwargs: Any) -> Any:
        kwargs["stopping"].__self__.stop.requested = True
        return original(*args, **kwargs)

    monkeypatch.setattr(loop, "evaluate", cut_off)
    first = train_here(config)
    assert first.error is not None
    monkeypatch.setattr(loop, "evaluate", original)
    assert (saved(first), first.eval_losses) == ([6], {})
    second = train_here(config, work=first.work)
    assert second.eval_losses == whole.eval_losses
    assert {one.step: one.eval_loss for one in second.report.checkpoints} == whole.eval_losses


def test_the_evaluation_before_training_is_no_rival(
    train_here: Any, make_config: Any, validation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no checkpoint of it, and every run would end with patience 1 otherwise."""
    script_of(monkeypatch, [1.0, 5.0, 4.0, 4.5])
    conf = {**STOPPING, "early_stopping_patience": 1}
    run = train_here(_config(make_config, validation, conf, training_args={"eval_on_start": True}))
    assert any("the result is that of step 2" in notice for notice in run.notices)
