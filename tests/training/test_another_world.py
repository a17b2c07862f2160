"""A queue may grant another number of nodes to the next attempt: it goes on from the checkpoint as if nothing were."""

import signal
from typing import Any

import pytest


def test_an_attempt_with_half_the_processes_goes_on_with_the_same_losses(
    launch: Any, train_here: Any, make_config: Any
) -> None:
    """Batches of 8: 2 x 4 accumulated x 1 process each, then 1 x 8; the optimizer's numbers and the order of rows are
    those of the training, not of a process."""
    arguments = {"num_train_epochs": 8, "save_steps": 5, "learning_rate": 1e-3}
    first = launch(make_config(per_device=1, training_args=arguments, spec={"cpuProcesses": 2}))
    first.wait_for((first.checkpoints / "checkpoint-5" / "_COMPLETE.json").exists)
    first.process.send_signal(signal.SIGTERM)
    assert first.wait() == 75, first.text
    assert first.report.effective.world_size == 2

    resumed = train_here(
        make_config(training_args=arguments), work=first.work, FINETUNE_ATTEMPT="2", FINETUNE_RESUME="auto"
    )
    whole = train_here(make_config(training_args=arguments))
    assert resumed.report.resumed_from_step == first.report.step >= 5
    assert resumed.report.effective.world_size == 1
    assert resumed.losses == pytest.approx(whole.losses, rel=1e-5)
