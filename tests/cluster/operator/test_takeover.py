"""High availability with the default lease: a leader that hangs is replaced within 20 s, and nothing is made twice."""

from __future__ import annotations

import json
import re
import signal
import time

MANY = [f"job-{n}" for n in range(4)]
DEFAULT = {"FINETUNE_LEASE_SECONDS": "15"}


def test_a_leader_that_hangs_is_replaced_and_wakes_up_harmless(new_operator, jobs, spec):
    first = new_operator(**DEFAULT).start()
    second = new_operator(**DEFAULT)
    second.launch()
    jobs.wait("the stand-by is ready", lambda: second.metric("leading") == 0.0 and second.page("/readyz")[0] == 200)
    # Nothing can be downloaded: what is counted is what operators make.
    waiting = {**spec, "bucketCredentialsSecret": {"name": "not-there"}}
    for name in MANY[:2]:
        jobs.apply(name, **waiting)
    jobs.wait("the leader has begun", lambda: jobs.children("jobs", MANY[0]) and jobs.children("jobs", MANY[1]))

    first.process.send_signal(signal.SIGSTOP)  # in the middle of whatever it was doing
    hung_at = time.monotonic()
    for name in MANY[2:]:
        jobs.apply(name, **waiting)
    jobs.wait("the stand-by acts", lambda: all(jobs.children("jobs", name) for name in MANY[2:]), timeout=40)
    took = time.monotonic() - hung_at
    print(f"took over in {took:.1f} s")
    assert took < 20

    first.process.send_signal(signal.SIGCONT)
    assert first.process.wait(timeout=30) == 1, first.output
    assert "stopping: no renewal" in first.output
    assert second.metric("leading") == 1.0
    for name in MANY:
        assert len(jobs.children("jobs", name)) == 1
        assert len(jobs.children("pvc", name)) == 1
        assert len(jobs.children("configmaps", name)) == 1
        events = jobs.get("events", field_selector=f"involvedObject.name={name},involvedObject.kind=FineTuneJob")
        told = [(event["reason"], event["message"]) for event in events]
        assert len(told) == len(set(told))


def test_a_rolling_upgrade_touches_nothing_that_runs(new_operator, jobs, spec):
    old = new_operator(**DEFAULT).start()
    jobs.apply("job", **{**spec, "training_args": {**spec["training_args"], "max_steps": 4000, "save_steps": 2000}})
    step = jobs.until_progress("job", 1)
    new = new_operator(**DEFAULT, FINETUNE_TRAINER_IMAGE="finetune-operator/trainer:next", FINETUNE_LOG_FORMAT="json")
    new.launch()
    jobs.wait("the new one is ready", lambda: new.metric("leading") == 0.0 and new.page("/readyz")[0] == 200)
    kinds = ("jobs", "pods", "configmaps")
    before = {kind: {one["metadata"]["uid"] for one in jobs.children(kind, "job")} for kind in kinds}
    frozen = {one["metadata"]["name"]: one["data"] for one in jobs.children("configmaps", "job")}

    stopped_at = time.monotonic()
    assert old.stop() == 0
    new.until_leading()
    print(f"handed over in {time.monotonic() - stopped_at:.1f} s")
    jobs.until_progress("job", step + 1)

    assert {kind: {one["metadata"]["uid"] for one in jobs.children(kind, "job")} for kind in kinds} == before
    assert {one["metadata"]["name"]: one["data"] for one in jobs.children("configmaps", "job")} == frozen
    assert len(jobs.status("job")["attempts"]) == 1
    # All that the new one writes is progress.
    assert {re.search('resource="([a-z]+)"', line)[1] for line in new.writes()} <= {"finetunejobs"}
    lines = [json.loads(line) for line in new.output.splitlines()]
    assert lines[0].keys() >= {"time", "level", "logger", "message"}
