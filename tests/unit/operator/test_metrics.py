"""/metrics: the text that Prometheus reads, and what is counted. (promtool reads it in tests/chart.)"""

from __future__ import annotations

import pytest

from finetune_operator.census import Census
from finetune_operator.metrics import Metrics
from finetune_operator.workqueue import WorkQueue


def lines(metrics: Metrics, name: str) -> list[str]:
    return [line for line in metrics.text().splitlines() if line.startswith(f"finetune_operator_{name}")]


def job(phase: str | None, stalled: bool = False) -> dict:
    status = {"phase": phase, "conditions": [{"type": "Stalled", "status": str(stalled)}]}
    return {"status": status} if phase else {}


def test_counters_keep_all_their_digits_and_escape_labels() -> None:
    metrics = Metrics()
    metrics.count("api_requests_total", by=12345678, verb="GET", resource='a"b\\c\nd', code="200")
    assert lines(metrics, "api_requests_total") == [
        'finetune_operator_api_requests_total{code="200",resource="a\\"b\\\\c\\nd",verb="GET"} 12345678'
    ]


def test_a_histogram_is_cumulative() -> None:
    metrics = Metrics()
    for seconds in (0.004, 0.02, 0.02, 60):
        metrics.observe("reconcile_duration_seconds", seconds)
    found = lines(metrics, "reconcile_duration_seconds")
    assert 'finetune_operator_reconcile_duration_seconds_bucket{le="0.005"} 1' in found
    assert 'finetune_operator_reconcile_duration_seconds_bucket{le="0.025"} 3' in found
    assert 'finetune_operator_reconcile_duration_seconds_bucket{le="+Inf"} 4' in found
    assert found[-1] == "finetune_operator_reconcile_duration_seconds_count 4"


def test_what_is_not_in_the_catalogue_cannot_be_written() -> None:
    with pytest.raises(KeyError, match="no counter"):
        Metrics().count("requests")
    with pytest.raises(KeyError, match="no gauge"):
        Metrics().gauge("reconcile_total", lambda: 0.0)


def test_jobs_by_phase_follow_the_watch() -> None:
    metrics = Metrics()
    census = Census(metrics)
    census.note(("ns", "a"), job(None))
    census.note(("ns", "b"), job("Training"))
    census.note(("ns", "old"), job("Failed", stalled=True))
    assert lines(metrics, "jobs{") == [
        'finetune_operator_jobs{phase="Failed"} 1',
        'finetune_operator_jobs{phase="New"} 1',
        'finetune_operator_jobs{phase="Succeeded"} 0',
        'finetune_operator_jobs{phase="Training"} 1',
    ]
    census.note(("ns", "a"), job("Pending", stalled=True))
    census.note(("ns", "b"), job("Succeeded"))
    census.note(("ns", "b"), job("Succeeded"))
    census.note(("ns", "old"), None)
    assert census.by_phase() == {"New": 0, "Failed": 0, "Succeeded": 1, "Pending": 1}
    assert lines(metrics, "jobs_stalled") == ["finetune_operator_jobs_stalled 1"]
    # Counted once; the one that had failed before this process looked is not counted.
    assert metrics.value("jobs_ended_total", phase="Succeeded") == 1
    assert metrics.value("jobs_ended_total", phase="Failed") == 0
    census.note(("ns", "a"), None)
    assert lines(metrics, "jobs_stalled") == ["finetune_operator_jobs_stalled 0"]


async def test_the_queue_s_depth_is_what_is_due_and_not_what_is_planned() -> None:
    now = [100.0]
    queue: WorkQueue[str] = WorkQueue(lambda: now[0])
    for key, after in (("a", 0), ("b", 0), ("later", 60)):
        queue.add(key, after=after)
    assert (queue.depth(), queue.working(), len(queue)) == (2, 0, 3)
    await queue.get()
    assert (queue.depth(), queue.working(), len(queue)) == (1, 1, 2)
    now[0] += 60
    assert queue.depth() == 2
