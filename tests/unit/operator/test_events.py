"""Events: one for each transition, bounded, never the same twice, and never a reason to stop."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator import events
from finetune_operator.kube.errors import ApiError, UnreachableError
from finetune_operator.plan.types import Notice


class Client:
    """Takes Events as the API server does: a name once."""

    def __init__(self, error: Exception | None = None) -> None:
        self.posted: dict[str, Any] = {}
        self.tries = 0
        self.error = error

    async def create(self, resource: Any, namespace: str, body: Any) -> Any:
        self.tries += 1
        if self.error:
            raise self.error
        name = body["metadata"]["name"]
        if name in self.posted:
            raise ApiError(409, "AlreadyExists", "it exists")
        self.posted[name] = body
        return body


async def post(client: Client, world: Any, *notices: Notice) -> None:
    await events.post(client, world.job, world.status, notices, world.now)  # type: ignore[arg-type]


async def test_an_event_after_a_crash_is_not_posted_again(world) -> None:
    client = Client()
    notice = Notice("Normal", "Downloading", "model and data are being downloaded")
    await post(client, world, notice)
    world.wait(60)  # the status write was lost with the operator, the transition is seen anew
    await post(client, world, notice)
    assert client.tries == 2
    (event,) = client.posted.values()
    assert event["involvedObject"]["uid"] == "uid-1"
    assert event["firstTimestamp"] == world.at(-60)


async def test_another_attempt_is_another_event(world) -> None:
    client = Client()
    for attempt in (1, 2):
        world.status = {"attempt": attempt, "phase": "Training"}
        await post(client, world, Notice("Normal", "Training", f"attempt {attempt} is training"))
    assert [event["message"] for event in client.posted.values()] == ["attempt 1 is training", "attempt 2 is training"]


@pytest.mark.parametrize("error", [ApiError(403, "Forbidden", "no"), UnreachableError("gone")])
async def test_an_event_that_cannot_be_posted_stops_nothing(world, error) -> None:
    client = Client(error)
    await post(client, world, Notice("Normal", "A", "a"), Notice("Normal", "B", "b"))
    assert client.tries == 2


async def test_the_story_of_a_job_is_short_and_nothing_is_told_twice(world) -> None:
    """To the end by way of a preemption, looked at ten times at each stage while progress goes on."""
    told: list[str] = []

    def look(times: int = 10) -> None:
        for step in range(times):
            if world.observed.get("pods") and world.status.get("phase") == "Training":
                world.observed["progress"] = {"phase": "training", "step": step + 1, "totalSteps": 100}
            told.extend(notice.reason for notice in world.step().notices)
            world.wait(30)

    look()
    download = world.download_job()
    world.with_storage().observed |= {"jobs": (download,), "pods": (world.pod(download),)}
    look()
    world.downloaded()
    look(1)
    first = world.train_job()
    world.training_with(first, pods=(world.pod(first),)).observed["progress"] = {"phase": "training", "step": 1}
    look()
    preempted = world.train_job(end="Failed")
    world.training_with(preempted, pods=(world.pod(preempted, exit_code=75, disrupted=True),))
    world.observed.pop("progress", None)
    look(1)
    second = world.train_job(number=2)
    world.training_with(preempted, second, pods=(world.pod(second, created=0),))
    look()
    done = world.train_job(number=2, end="Complete")
    world.training_with(preempted, done, pods=(world.pod(done, exit_code=0, created=0),))
    look()
    assert told[0] == "Downloading"
    assert told[-1] == "Completed"
    assert told.count("Completed") == 1
    assert len(told) <= 8, told


async def test_a_message_is_bounded(world) -> None:
    world.observed["blocked"] = ()
    world.spec["acceleratorType"] = "x" * 60
    world.set(accelerator_labels={f"kind-{n}": {} for n in range(500)})
    (notice,) = world.step().notices
    assert notice.reason == "InvalidSpec"
    assert len(notice.message) == 1024
