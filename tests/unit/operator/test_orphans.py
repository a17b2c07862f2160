"""What outlived its FineTuneJob is deleted: only that, and only when it is certain."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api import constants
from finetune_operator.orphans import OrphanSweep

Object = dict[str, Any]


class Cluster:
    """The few calls of KubeClient that a sweep makes, over plain objects."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Object] = {}

    def add(self, plural: str, name: str, uid: str = "", owner: str | None = None, **metadata: Any) -> None:
        reference = {"kind": constants.KIND, "apiVersion": constants.API_VERSION, "name": "job", "uid": owner}
        owners = {"ownerReferences": [reference]} if owner else {}
        body = {"name": name, "namespace": "team", "uid": uid or f"uid-{name}", **owners, **metadata}
        self.objects[(plural, name)] = {"metadata": body}

    async def metadata(self, resource: Any, namespace: str, *, labelSelector: str):
        assert labelSelector == "app.kubernetes.io/managed-by=finetune-operator"
        for (plural, _), one in list(self.objects.items()):
            if plural == resource.plural:
                yield one

    async def get(self, resource: Any, namespace: str, name: str) -> Object | None:
        return self.objects.get((resource.plural, name))

    async def delete(self, resource: Any, namespace: str, name: str, uid: str, policy: str) -> None:
        assert self.objects[(resource.plural, name)]["metadata"]["uid"] == uid
        del self.objects[(resource.plural, name)]


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


async def left(cluster: Cluster, *sweeps: set[str]) -> set[str]:
    sweep = OrphanSweep(cluster, "")  # type: ignore[arg-type]
    for alive in sweeps:
        await sweep.sweep(alive)
    return {name for _, name in cluster.objects}


async def test_orphans_go_after_two_sweeps(cluster) -> None:
    for plural in ("jobs", "configmaps", "services"):
        cluster.add(plural, f"of-{plural}", owner="gone")
    cluster.add("jobs", "alive", owner="here")
    assert await left(cluster, {"here"}) == {"of-jobs", "of-configmaps", "of-services", "alive"}
    assert await left(cluster, {"here"}, {"here"}) == {"alive"}


@pytest.mark.parametrize(
    "child",
    [
        {"owner": None},  # orphaned on purpose
        {"owner": "gone", "deletionTimestamp": "now"},  # on its way
    ],
)
async def test_what_is_left_alone(cluster, child) -> None:
    cluster.add("jobs", "child", **child)
    cluster.add("persistentvolumeclaims", "work", owner="gone")
    assert await left(cluster, set(), set(), set()) == {"child", "work"}


async def test_a_job_that_appeared_after_the_list_keeps_its_children(cluster) -> None:
    cluster.add("jobs", "child", owner="new")
    cluster.add(constants.PLURAL, "job", uid="new")
    assert "child" in await left(cluster, set(), set())


async def test_a_child_of_that_name_that_was_made_anew_is_another(cluster) -> None:
    sweep = OrphanSweep(cluster, "")  # type: ignore[arg-type]
    cluster.add("jobs", "child", uid="1", owner="gone")
    await sweep.sweep(set())
    cluster.add("jobs", "child", uid="2", owner="gone")
    assert await sweep.sweep(set()) == 0
    assert await sweep.sweep(set()) == 1
