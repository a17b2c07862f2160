"""Structured logs: one JSON object a line, which names the job that the line is about."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest

from finetune_operator import logs
from finetune_operator.metrics import Metrics
from finetune_operator.settings import SettingsError, load
from finetune_operator.workers import work
from finetune_operator.workqueue import WorkQueue


@pytest.fixture
def root():
    """The root logger, put back as it was."""
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    yield logger
    logger.handlers[:], logger.level = handlers, level


class Broken:
    """A reconciler that fails and then ends the queue's use."""

    def __init__(self) -> None:
        self.calls = 0

    async def reconcile(self, key):
        self.calls += 1
        if self.calls == 2:
            raise KeyboardInterrupt
        logging.getLogger("finetune_operator.some").warning("a line with\nits own break")
        raise RuntimeError("boom")


async def test_each_line_about_a_job_has_its_key(root, capfd) -> None:
    logs.configure("INFO", "json")
    queue: WorkQueue = WorkQueue(lambda: 0.0)
    queue.add(("team", "job"))
    broken = Broken()
    logging.getLogger("finetune_operator").info("no job here")
    task = asyncio.create_task(work(queue, broken, Metrics()))  # type: ignore[arg-type]
    while broken.calls == 0:
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    found = [json.loads(line) for line in capfd.readouterr().err.splitlines()]

    assert [(one.get("namespace"), one.get("job")) for one in found] == [(None, None), ("team", "job"), ("team", "job")]
    assert found[1]["message"] == "a line with\nits own break"
    assert found[1]["logger"] == "finetune_operator.some"
    assert (found[2]["level"], found[2]["error"].splitlines()[-1]) == ("ERROR", "RuntimeError: boom")
    assert found[0]["time"].endswith("Z")


def test_the_format_is_a_setting() -> None:
    assert load({"FINETUNE_LOG_FORMAT": "json"}).log_format == "json"
    assert load({}).log_format == "text"
    with pytest.raises(SettingsError, match="FINETUNE_LOG_FORMAT='xml' is unknown; give one of text, json"):
        load({"FINETUNE_LOG_FORMAT": "xml"})
