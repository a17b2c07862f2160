"""Status: the merge patch, conditions whose times move only when they change, progress that is due or is not."""

import pytest

from finetune_operator.plan import progress
from finetune_operator.plan.attempts import capped
from finetune_operator.plan.conditions import conditions
from finetune_operator.plan.notices import notices
from finetune_operator.plan.spec_hash import spec_hash
from finetune_operator.plan.types import Verdict
from finetune_operator.status import difference, without_nulls


@pytest.mark.parametrize(
    ("before", "after", "patch"),
    [
        ({}, {}, {}),
        ({"a": 1}, {"a": 1}, {}),
        ({"a": 1}, {"a": 2}, {"a": 2}),
        ({"a": 1, "b": 2}, {"a": 1}, {"b": None}),
        ({"p": {"x": 1, "y": 2}}, {"p": {"x": 1, "y": 3}}, {"p": {"y": 3}}),
        ({"l": [1, 2]}, {"l": [1]}, {"l": [1]}),
    ],
)
def test_only_what_changed_is_sent(before, after, patch):
    assert difference(before, after) == patch


def test_nulls_are_no_difference():
    assert difference({"a": {"x": 1}}, without_nulls({"a": {"x": 1, "y": None}, "b": None})) == {}


RUNNING = Verdict("Training", "Training", "attempt 1 is training")
DONE = Verdict("Succeeded", "Completed", "done")
STUCK = Verdict("Pending", "ImagePullFailed", "no such image", stuck=True)


def truths(verdict):
    return {c["type"]: c["status"] for c in conditions(verdict, {}, [], 1, "t")}


@pytest.mark.parametrize(
    ("verdict", "true"),
    [
        (RUNNING, {"Reconciling"}),
        (STUCK, {"Reconciling", "Stalled"}),
        (DONE, {"Ready", "Complete"}),
        (Verdict("Failed", "BadData", "x"), {"Stalled", "Failed"}),
        (Verdict("Suspended", "SuspendedByUser", "x"), {"Suspended"}),
    ],
)
def test_which_conditions_hold(verdict, true):
    assert {kind for kind, status in truths(verdict).items() if status == "True"} == true


def test_transition_times_move_only_with_the_status():
    first = conditions(RUNNING, {}, [], 1, "10:00")
    later = conditions(Verdict("Training", "Training", "another text"), {}, first, 1, "11:00")
    assert {c["lastTransitionTime"] for c in later} == {"10:00"}
    done = {c["type"]: c["lastTransitionTime"] for c in conditions(DONE, {}, later, 1, "12:00")}
    assert done["Ready"] == done["Complete"] == done["Reconciling"] == "12:00"
    assert done["Failed"] == "10:00"


def test_an_alert_that_is_over_stays_as_false():
    first = conditions(RUNNING, {"MLflowUnavailable": ("Unreachable", "lost")}, [], 1, "10:00")
    after = {c["type"]: c["status"] for c in conditions(RUNNING, {}, first, 1, "11:00")}
    assert after["MLflowUnavailable"] == "False"
    assert "QueueUnavailable" not in after


@pytest.mark.parametrize(
    ("written", "report", "seconds", "due"),
    [
        ({}, {"phase": "loading"}, 0, True),
        ({"phase": "loading"}, {"phase": "training"}, 0, True),
        ({"phase": "training", "step": 0}, {"phase": "training", "step": 1}, 1, True),
        ({"phase": "training", "step": 1}, {"phase": "training", "step": 2}, 14, False),
        ({"phase": "training", "step": 1}, {"phase": "training", "step": 2}, 15, True),
        ({"phase": "training", "step": 1}, {"phase": "training", "step": 1}, 99, False),
    ],
)
def test_progress_is_written_at_most_every_interval(world, written, report, seconds, due):
    status = {"progress": {**written, "updatedAt": world.at(-seconds)}} if written else {}
    assert progress.is_due(status, report, world.now, 15) is due


def test_a_report_without_a_loss_keeps_the_last_known_one():
    before = {"progress": {"loss": 2.5, "step": 9, "totalSteps": 10}}
    fields = progress.merged(before, {"phase": "loading", "step": 5, "totalSteps": 10}, "now")
    assert fields["progress"]["loss"] == 2.5
    assert fields["progress"]["steps"] == "5/10"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59, "59s"), (750, "12m30s"), (11100, "3h05m"), (187200, "2d04h")]
)
def test_durations_as_people_read_them(seconds, text):
    assert progress.duration(seconds) == text


def test_the_history_is_capped_interruptions_first():
    attempts = [{"id": i, "outcome": "retry" if i % 5 == 0 else "resume"} for i in range(1, 41)]
    kept = capped(attempts)
    assert len(kept) == 20
    assert [a["id"] for a in kept if a["outcome"] == "retry"] == [5, 10, 15, 20, 25, 30, 35, 40]
    assert kept[-1]["id"] == 40
    failures = [{"id": i, "outcome": "retry"} for i in range(1, 41)]
    assert [a["id"] for a in capped(failures)] == list(range(21, 41))


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"suspend": True}, True),
        ({"labels": {"a": "b"}}, True),
        ({"ttlSecondsAfterFinished": 5}, True),
        ({"tracking": None}, True),
        ({"maxAttempts": 9}, True),
        ({"stepTimeoutSeconds": 9}, True),
        ({"retryWithSmallerBatch": True}, True),
        ({"terminationGracePeriodSeconds": 60}, False),
        ({"basemodel": "s3://other/model"}, False),
    ],
)
def test_which_changes_ask_for_another_training(world, change, same):
    assert (spec_hash({**world.spec, **change}) == spec_hash(world.spec)) is same


def test_one_event_per_transition_and_none_for_what_goes_on():
    before = {"phase": "Starting", "conditions": conditions(Verdict("Starting", "Loading", "x"), {}, [], 1, "t")}
    after = {"phase": "Training", "conditions": conditions(RUNNING, {}, [], 1, "t")}
    assert [(n.type, n.reason) for n in notices(before, after, RUNNING)] == [("Normal", "Training")]
    assert notices(after, after, RUNNING) == ()
    stuck = {"phase": "Pending", "conditions": conditions(STUCK, {}, [], 1, "t")}
    assert [(n.type, n.reason) for n in notices(after, stuck, STUCK)] == [("Warning", "ImagePullFailed")]
