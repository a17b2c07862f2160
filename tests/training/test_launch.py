"""The train container as Kubernetes sees it: processes, signals, exit codes, the last words."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

LORA_DROPOUT = {"r": 4, "lora_dropout": 0.2, "target_modules": "all-linear"}


def _step(launched: Any) -> int:
    """The newest complete checkpoint's step."""
    steps = [int(path.parent.name.split("-")[1]) for path in launched.checkpoints.glob("checkpoint-*/_COMPLETE.json")]
    return max(steps, default=0)


def test_two_processes_train_like_one(launch: Any, train_here: Any, make_config: Any, validation: Path) -> None:
    """Batches of 8 as 2 x 2 accumulated x 2 processes; the last batch of an epoch has 2 rows, so one process has none."""
    arguments = {"eval_strategy": "epoch", "weight_decay": 0.1}
    one = train_here(make_config(validation=validation, training_args=arguments))
    config = make_config(per_device=2, validation=validation, training_args=arguments, spec={"cpuProcesses": 2})
    launched = launch(config)
    assert launched.wait() == 0, launched.text
    two = json.loads((launched.checkpoints / "checkpoint-12" / "trainer_state.json").read_text())["history"]
    losses = {entry["step"]: entry["loss"] for entry in two if "loss" in entry}
    assert losses == pytest.approx(one.losses, rel=1e-5)
    assert {e["step"]: e["eval_loss"] for e in two if "eval_loss" in e} == pytest.approx(one.eval_losses, rel=1e-5)
    report = launched.report
    assert (report.reason, report.exit_code, report.step) == ("Completed", 0, 12)
    assert (report.effective.world_size, report.effective.per_device_batch, report.effective.accumulation) == (2, 2, 2)
    record = json.loads((launched.work / "records" / "attempt-1.json").read_text())
    assert record["exitCode"] == 0
    assert (launched.checkpoints / "checkpoint-final" / "_COMPLETE.json").exists()


def test_sigterm_to_two_processes_then_resume(launch: Any, make_config: Any) -> None:
    """Killed by Kubernetes in the middle, with dropout and accumulation: the second attempt ends like one run."""
    config = make_config(
        lora=LORA_DROPOUT,
        per_device=2,
        training_args={"num_train_epochs": 40, "save_steps": 15},
        spec={"cpuProcesses": 2},
    )
    first = launch(config)
    first.wait_for(lambda: _step(first) >= 15)
    first.process.send_signal(signal.SIGTERM)
    assert first.wait() == 75, first.text
    stopped = first.report.step
    assert first.report.reason == "Interrupted"
    assert f"stopped after step {stopped}, with a checkpoint" in first.report.message
    assert 15 <= stopped < 240
    assert _step(first) == stopped
    config.spec["training_args"]["max_steps"] = config.spec["training_args"].get("max_steps", -1)
    second = launch(config, work=first.work, FINETUNE_ATTEMPT="2", FINETUNE_RESUME="auto")
    whole = launch(config)
    assert second.wait(240) == 0, second.text
    assert whole.wait(240) == 0, whole.text
    assert second.report.resumed_from_step == stopped
    assert second.report.attempt == 2
    name = "checkpoint-final/adapter_model.safetensors"
    assert (second.checkpoints / name).read_bytes() == (whole.checkpoints / name).read_bytes()


def test_sigkill_then_resume(launch: Any, train_here: Any, make_config: Any) -> None:
    """The training process dies without a word, as when memory runs out."""
    config = make_config(lora=LORA_DROPOUT, training_args={"num_train_epochs": 30, "save_steps": 5})
    launched = launch(config)
    launched.wait_for(lambda: _step(launched) >= 10)
    os.kill(launched.rank_pids()[0], signal.SIGKILL)
    assert launched.wait() == 70
    assert "memory ran out; raise memoryPerGpu" in launched.report.message
    resumed = train_here(config, work=launched.work)
    assert resumed.report.resumed_from_step >= 10
    assert resumed.losses == pytest.approx(train_here(config).losses, rel=1e-6)


def test_one_process_dying_ends_the_other_soon(launch: Any, make_config: Any) -> None:
    config = make_config(training_args={"num_train_epochs": 1000}, spec={"cpuProcesses": 2})
    launched = launch(config)
    launched.wait_for(lambda: "step 2/" in launched.text)
    os.kill(launched.rank_pids()[1], signal.SIGKILL)
    died = time.monotonic()
    assert launched.wait() == 70, launched.text
    assert time.monotonic() - died < 15
    assert "training process 1 was killed" in launched.report.message


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
