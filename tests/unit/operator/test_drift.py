"""Server-side apply happens only where a live child differs in what is ours and may change."""

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


def test_an_adopted_volume_stays_as_it_is(world):
    world.spec |= {"adoptCheckpoints": True, "labels": {"team": "b"}}
    assert applies(world.downloaded().plan()) == {}
