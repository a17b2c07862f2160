"""A job on several nodes, as objects and decisions: names to meet by, volumes that all can mount, one story."""

import pytest

from finetune_operator import render
from finetune_operator.plan.endings import classify
from finetune_operator.settings import Settings


@pytest.fixture
def several(world):
    """The objects of a job on 3 nodes, by kind and name."""
    found = render({**world.spec, "nodes": 3, "batchsize_conf": BATCH}, "demo", "team", Settings())
    return {f"{one['kind']}/{one['metadata']['name']}": one for one in found}


BATCH = {"total_train_batch_size": 6, "max_per_device_train_batch_size": 1}


def train_env(objects):
    container = objects["Job/demo-1"]["spec"]["template"]["spec"]["containers"][0]
    return {entry["name"]: entry.get("value") for entry in container["env"]}


def test_pods_meet_at_the_first_by_a_name_of_their_service(several):
    service, job = several["Service/demo-1"]["spec"], several["Job/demo-1"]["spec"]
    assert (service["clusterIP"], service["publishNotReadyAddresses"]) == ("None", True)
    assert service["selector"] == {"batch.kubernetes.io/job-name": "demo-1"}
    assert (job["completionMode"], job["completions"], job["parallelism"]) == ("Indexed", 3, 3)
    assert job["template"]["spec"]["subdomain"] == "demo-1"
    env = train_env(several)
    assert (env["FINETUNE_NODES"], env["FINETUNE_RENDEZVOUS"]) == ("3", "demo-1-0.demo-1")


def test_the_service_is_there_before_the_pods(several, world):
    names = list(several)
    assert names.index("Service/demo-1") < names.index("Job/demo-1")
    alone = render(world.spec, "demo", "team", Settings())
    assert not [one for one in alone if one["kind"] == "Service"]


def test_a_lost_pod_fails_the_whole_job(several):
    """The operator starts all of them again: a pod that came back alone would find nobody to train with."""
    rules = several["Job/demo-1"]["spec"]["podFailurePolicy"]["rules"]
    disrupted = next(rule for rule in rules if "onPodConditions" in rule)
    assert disrupted["action"] == "FailJob"
    assert several["Job/demo-1"]["spec"]["backoffLimit"] == 0


def test_every_node_can_mount_model_and_checkpoints(several):
    claims = {name: one["spec"] for name, one in several.items() if name.startswith("PersistentVolumeClaim/")}
    assert {tuple(spec["accessModes"]) for spec in claims.values()} == {("ReadWriteMany",)}
    (cache,) = [name for name in claims if "model-cache" in name]
    assert cache.endswith("-shared"), "a cache that one node has made may be ReadWriteOnce"


def test_checkpoints_of_one_node_are_no_place_for_several(world, condition):
    world.spec |= {"nodes": 2, "adoptCheckpoints": True}
    world.with_storage()
    for name in ("checkpoints", "cache"):
        world.observed[name]["spec"]["accessModes"] = ["ReadWriteMany"]
    assert condition(world.plan(), "Ready")[1] != "VolumeNotShared"
    world.observed["checkpoints"]["spec"]["accessModes"] = ["ReadWriteOnce"]
    decisions = world.plan()
    assert condition(decisions, "Ready") == ("False", "VolumeNotShared")
    assert condition(decisions, "Stalled")[0] == "True"
    assert (
        "2 nodes must mount it"
        in next(one for one in decisions.status["conditions"] if one["type"] == "Ready")["message"]
    )


@pytest.mark.parametrize(
    ("codes", "kind", "code"),
    [
        ({0: 75, 1: 70}, "retry", 70),  # node 0 lost node 1, which has failed
        ({0: 75, 1: 75}, "resume", 75),
        ({0: 75, 1: 78}, "fatal", 78),
        ({0: 75, 1: 137}, "retry", 137),
    ],
)
def test_the_node_that_failed_counts_not_the_one_that_lost_it(world, codes, kind, code):
    job = world.train_job(end="Failed")
    pods = tuple(
        world.pod(job, exit_code=number, index=index, finishedAt=world.at(-9 + index))
        for index, number in codes.items()
    )
    end = classify(job, pods, "train")
    assert (end.kind, end.exit_code) == (kind, code)
