"""A hostile spec gains nothing: `finetune validate` and the operator refuse it alike, or its objects are harmless."""

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from finetune_api import constants
from finetune_api.locations import redirects
from finetune_api.manifest import load_manifests
from finetune_api.rules import RESERVED_ENV_PREFIXES
from finetune_api.validation import validate_manifest
from finetune_operator.builders.config_map import download_config, try_config
from finetune_operator.builders.download_job import download_job
from finetune_operator.builders.network_policy import network_policy
from finetune_operator.builders.train_job import train_job
from finetune_operator.builders.volumes import cache_claim, checkpoints_claim
from finetune_operator.plan.validate import InvalidSpecError, request
from finetune_operator.settings import Settings

SETTINGS = Settings(trainer_image="trainer:1", progress_from=({"podSelector": {}},))
OWN_LABELS = {
    constants.LABEL_MANAGED_BY: constants.MANAGED_BY,
    constants.LABEL_JOB: "demo",
    constants.LABEL_JOB_UID: "uid-1",
}
MOUNTS = re.compile(
    r"/etc/finetune|/etc/finetune-ca|/workdir|/tmp|/dev/shm|/local_resources/(cache|basemodel)|"
    r"/mnt/(pvc|configmap|dataset)/[-a-z0-9.]+"
)


def manifest_of(case: Any) -> dict[str, Any]:
    metadata = {"name": case.job, "namespace": "team"}
    return {
        "apiVersion": constants.API_VERSION,
        "kind": constants.KIND,
        "metadata": metadata,
        "spec": case.spec,
    }


def children(case: Any) -> Iterator[dict[str, Any]]:
    wanted = request(case.spec, case.job, "team", "uid-1", SETTINGS)
    if wanted.uses_cache:
        yield cache_claim(wanted)
    yield checkpoints_claim(wanted)
    yield network_policy(wanted)
    yield download_config(wanted)
    yield download_job(wanted)
    yield try_config(wanted, 1, None)
    yield train_job(wanted, 1, False, None)


def test_there_are_enough_of_them(cases: Any) -> None:
    assert len(cases) >= 60
    assert len({case.name for case in cases}) == len(cases)


def test_it_is_refused_where_it_is_wrong(refused: Any) -> None:
    case = refused
    problems = [problem for problem in validate_manifest(manifest_of(case)) if problem.severity == "error"]
    at = case.at or next(iter(case.set))
    wanted = at if at.startswith("metadata") else f"spec.{at}"
    assert case.says is not None
    said = [problem for problem in problems if problem.path.startswith(wanted) and case.says in str(problem)]
    assert said, f"not at {wanted}: {[str(problem)[:300] for problem in problems]}"
    assert all(len(str(problem)) < 2000 for problem in problems)
    if not at.startswith("metadata"):  # a name is refused at admission, by the CRD's own rule
        with pytest.raises(InvalidSpecError) as refusal:
            request(case.spec, "demo", "team", "uid-1", SETTINGS)
        assert len(str(refusal.value)) < 20_000


def test_its_objects_are_harmless(harmless: Any) -> None:
    case = harmless
    assert [str(one) for one in validate_manifest(manifest_of(case)) if one.severity == "error"] == []
    for child in children(case):
        kind, metadata = child["kind"], child["metadata"]
        assert kind in ("PersistentVolumeClaim", "ConfigMap", "Job", "NetworkPolicy")
        assert metadata["namespace"] == "team"
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", metadata["name"])
        assert len(json.dumps(child)) < 1_000_000
        if kind == "ConfigMap":
            assert set(child["data"]) <= {"job.json", "accelerate.yaml"}
            given = json.loads(child["data"]["job.json"])["spec"].get("env", [])
            assert all(redirects(variable["name"]) for variable in given)
        if metadata["labels"][constants.LABEL_ROLE] != constants.ROLE_CACHE:  # which belongs to no job
            assert ({**OWN_LABELS, constants.LABEL_JOB: case.job}).items() <= metadata["labels"].items()
        if kind == "Job":
            check_pod(case, child["spec"]["template"], metadata["labels"][constants.LABEL_ROLE])


def check_pod(case: Any, template: dict[str, Any], role: str) -> None:
    labels, pod = template["metadata"]["labels"], template["spec"]
    assert ({**OWN_LABELS, constants.LABEL_JOB: case.job, constants.LABEL_ROLE: role}).items() <= labels.items()
    assert set(pod) <= {
        *("restartPolicy", "automountServiceAccountToken", "enableServiceLinks", "securityContext", "containers"),
        *("volumes", "nodeSelector", "tolerations", "affinity", "imagePullSecrets", "serviceAccountName"),
        *("runtimeClassName", "priorityClassName", "terminationGracePeriodSeconds", "subdomain"),
    }
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert {kind for volume in pod["volumes"] for kind in volume} <= {
        *("name", "configMap", "persistentVolumeClaim", "emptyDir"),
    }
    (container,) = pod["containers"]
    module = "finetune_trainer.launch" if role == constants.ROLE_TRAIN else "finetune_trainer.download"
    assert container["command"] == ["python", "-m", module]
    assert set(container) <= {
        *("name", "image", "command", "env", "ports", "resources", "volumeMounts", "securityContext"),
        *("terminationMessagePath", "terminationMessagePolicy"),
    }
    assert container["image"] == (case.set.get("finetuningImage") or SETTINGS.trainer_image)
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    paths = [mount["mountPath"] for mount in container["volumeMounts"]]
    assert all(MOUNTS.fullmatch(path) for path in paths)
    assert len(set(paths)) == len(paths)
    assert all(".." not in mount.get("subPath", "").split("/") for mount in container["volumeMounts"])
    assert not any(mount.get("subPath", "").startswith("/") for mount in container["volumeMounts"])
    check_environment(case, container["env"])


def check_environment(case: Any, entries: list[dict[str, Any]]) -> None:
    names = [entry["name"] for entry in entries]
    assert len(set(names)) == len(names)
    theirs = {entry["name"] for entry in case.set.get("env", [])}
    assert not any(name.startswith(RESERVED_ENV_PREFIXES) for name in theirs)
    for entry in entries:
        if entry["name"] not in theirs:  # no other variable's value is put into ours
            assert "$(" not in entry.get("value", "").replace("$$(", "")


def test_all_keys_of_text_take_no_commands() -> None:
    """Every string of the largest example as a shell command: refused, or harmless like the cases above."""
    text = (Path(__file__).resolve().parents[3] / "examples/every-key.yaml").read_text(encoding="utf-8")
    spec = load_manifests(text)[0].document["spec"]
    tried = 0
    for path in list(text_paths(spec)):
        changed = copy.deepcopy(spec)
        target = changed
        for step in path[:-1]:
            target = target[step]
        target[path[-1]] = "x; $(touch /tmp/owned) `id` | sh"
        tried += 1
        try:
            wanted = request(changed, "demo", "team", "uid-1", SETTINGS)
        except InvalidSpecError:
            continue
        given = {"finetuningImage": wanted.spec.finetuning_image, "env": changed.get("env", [])}
        case = SimpleNamespace(set=given, job="demo")
        check_pod(case, download_job(wanted)["spec"]["template"], constants.ROLE_DOWNLOAD)
        check_pod(case, train_job(wanted, 1, False, None)["spec"]["template"], constants.ROLE_TRAIN)
    assert tried > 40


def text_paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, str):
        yield path
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from text_paths(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from text_paths(item, (*path, index))
