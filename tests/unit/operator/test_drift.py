"""Server-side apply happens only where a live child differs in what is ours and may change."""

import pytest

from finetune_operator.plan.types import Apply


def applies(decisions):
    return {action.body["metadata"]["name"]: action.body for action in decisions.actions if isinstance(action, Apply)}


def test_a_child_as_it_was_made_is_not_touched(world):
    job = world.train_job()
    decisions = world.training_with(job, pods=(world.pod(job),)).plan()
    assert applies(decisions) == {}


def test_changed_labels_reach_the_running_job_and_nothing_else_of_it(world):
    job = world.train_job()
    world.training_with(job, pods=(world.pod(job),))
    world.spec["labels"] = {"team": "b"}
    found = applies(world.plan())
    assert set(found) == {"demo-1", "demo-checkpoints"}
    assert found["demo-1"]["metadata"]["labels"] == {"team": "b"}
    assert set(found["demo-1"]) == {"apiVersion", "kind", "metadata"}


def test_a_finished_job_is_left_alone(world):
    world.spec["labels"] = {"team": "b"}
    download = world.downloaded().observed["jobs"][0]["metadata"]["name"]
    assert download not in applies(world.plan())


def test_a_label_that_selectors_need_is_put_back_on_the_work_volume(world):
    world.downloaded()
    del world.observed["checkpoints"]["metadata"]["labels"]["finetune-operator.io/job"]
    assert "demo-checkpoints" in applies(world.plan())


@pytest.mark.parametrize("adopt", [False, True])
def test_a_volume_that_an_earlier_job_left_is_never_relabelled(world, adopt):
    """Its labels say whose it is: writing ours onto it would take it."""
    world.spec |= {"adoptCheckpoints": adopt, "labels": {"team": "b"}}
    world.downloaded()
    claim = world.claim(uid="uid-of-an-earlier-job")
    assert applies(world.plan(checkpoints=claim)) == {}
