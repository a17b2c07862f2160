"""The train container as Kubernetes sees it: processes, signals, exit codes, the last words."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest


def _step(launched: Any) -> int:
    """The newest complete checkpoint's step."""
    steps = [int(path.parent.name.split("-")[1]) for path in launched.checkpoints.glob("checkpoint-*/_COMPLETE.json")]
    return max(steps, default=0)


def test_two_processes_through_a_crash_and_a_preemption_train_like_one(
    launch: Any, train_here: Any, make_config: Any, validation: Path
) -> None:
    """Batches of 8 as 1 x 4 accumulated x 2 processes; an epoch's last batch has 2 rows: micro-batches are left out."""
    arguments = {
        "num_train_epochs": 10,
        "save_steps": 10,
        "eval_strategy": "steps",
        "eval_steps": 20,
        "learning_rate": 1e-3,
    }
    config = make_config(per_device=1, validation=validation, training_args=arguments, spec={"cpuProcesses": 2})

    crashed = launch(config)
    crashed.wait_for(lambda: _step(crashed) >= 10)
    os.kill(crashed.rank_pids()[1], signal.SIGKILL)
    died = time.monotonic()
    assert crashed.wait() == 70, crashed.text
    assert time.monotonic() - died < 30, "the other process waits for it in vain"
    assert (
        "training process 1 was killed (SIGKILL), most likely because the pod's memory ran out"
        in crashed.report.message
    )

    saved = _step(crashed)
    preempted = launch(config, work=crashed.work, FINETUNE_ATTEMPT="2", FINETUNE_RESUME="auto")
    preempted.wait_for(lambda: f"step {saved + 2}/" in preempted.text)
    preempted.process.send_signal(signal.SIGTERM)
    assert preempted.wait() == 75, preempted.text
    stopped = preempted.report.step
    assert preempted.report.reason == "Interrupted"
    assert f"stopped after step {stopped}, with a checkpoint" in preempted.report.message
    assert saved + 2 <= stopped == _step(preempted) < 60

    finished = launch(config, work=crashed.work, FINETUNE_ATTEMPT="3", FINETUNE_RESUME="auto")
    assert finished.wait() == 0, finished.text
    report = finished.report
    assert (report.reason, report.step, report.attempt, report.resumed_from_step) == ("Completed", 60, 3, stopped)
    assert (report.effective.world_size, report.effective.per_device_batch, report.effective.accumulation) == (2, 1, 4)
    assert json.loads((finished.work / "records" / "attempt-3.json").read_text())["exitCode"] == 0
    assert (finished.checkpoints / "checkpoint-final" / "_COMPLETE.json").exists()

    history = json.loads((finished.checkpoints / "checkpoint-60" / "trainer_state.json").read_text())["history"]
    one = train_here(make_config(validation=validation, training_args=arguments))
    losses = {entry["step"]: entry["loss"] for entry in history if "loss" in entry}
    evaluations = {entry["step"]: entry["eval_loss"] for entry in history if "eval_loss" in entry}
    assert losses == pytest.approx(one.losses, rel=1e-5)
    assert evaluations == pytest.approx(one.eval_losses, rel=1e-5)


def test_a_slow_checkpoint_is_waited_for(launch: Any, make_config: Any) -> None:
    """The process stands still for 4 s after SIGTERM, as on a slow volume; the grace period allows it."""
    launched = launch(make_config(training_args={"num_train_epochs": 1000}), FINETUNE_GRACE_SECONDS="40")
    launched.wait_for(lambda: "step 3/" in launched.text)
    (pid,) = launched.rank_pids()
    os.kill(pid, signal.SIGSTOP)
    launched.process.send_signal(signal.SIGTERM)
    time.sleep(4)
    assert launched.process.poll() is None
    os.kill(pid, signal.SIGCONT)
    assert launched.wait() == 75, launched.text
    assert _step(launched) == launched.report.step > 0


def test_sigterm_while_loading_ends_at_once(launch: Any, make_config: Any) -> None:
    launched = launch(make_config())
    launched.wait_for(lambda: bool(launched.rank_pids()))
    launched.process.send_signal(signal.SIGTERM)
    assert launched.wait(30) == 75, launched.text
    assert "nothing was lost" in launched.report.message


def test_bad_rows_are_65(launch: Any, make_config: Any, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"messages": [{"role": "user", "content": "hi"}\n', encoding="utf-8")
    launched = launch(make_config(data=rows))
    assert launched.wait() == 65, launched.text
    assert launched.report.reason == "BadData"
    assert "rows.jsonl:1" in launched.report.message


def test_missing_files_are_66(launch: Any, make_config: Any, tmp_path: Path) -> None:
    no_model = launch(make_config(model=tmp_path / "nothing"))
    assert no_model.wait() == 66, no_model.text
    assert str(tmp_path / "nothing") in no_model.report.message
    no_data = launch(make_config(data=tmp_path / "absent.jsonl"))
    assert no_data.wait() == 66, no_data.text
    assert "absent.jsonl" in no_data.report.message
    no_config = launch(make_config(), FINETUNE_CONFIG=str(tmp_path / "job.json"))
    assert no_config.wait() == 66, no_config.text


def test_a_configuration_that_cannot_be_is_78(launch: Any, make_config: Any) -> None:
    broken = launch("{}")
    assert broken.wait() == 78, broken.text
    config = make_config()
    config.spec["batchsize_conf"]["total_train_batch_size"] = 7
    config.spec["cpuProcesses"] = 2
    indivisible = launch(config)
    assert indivisible.wait() == 78, indivisible.text
    assert "total_train_batch_size 7 cannot be divided by 2 processes" in indivisible.report.message


def test_what_nobody_expected_is_70_with_a_traceback_in_the_log(launch: Any, make_config: Any, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("not a folder", encoding="utf-8")
    launched = launch(make_config(), work=tmp_path)
    assert launched.wait() == 70, launched.text
    assert launched.report.reason == "InternalError"
    assert "NotADirectoryError" in launched.report.message or "FileExistsError" in launched.report.message
    assert "Traceback" in launched.text
    assert len(launched.message.read_bytes()) <= 4096
