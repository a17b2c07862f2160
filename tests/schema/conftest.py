"""The table of manifests (manifests.yaml) as parameters, for `finetune validate` and for the apiserver alike."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

TABLE = yaml.safe_load((Path(__file__).parent / "manifests.yaml").read_text(encoding="utf-8"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for kind in ("accepted", "refused"):
        if kind in metafunc.fixturenames:
            cases = TABLE[kind]
            metafunc.parametrize(kind, cases, ids=[case["case"] for case in cases], indirect=True)


@pytest.fixture
def base() -> dict[str, Any]:
    return copy.deepcopy(TABLE["base"])


@pytest.fixture
def accepted(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {**request.param, "manifest": build(request.param)}


@pytest.fixture
def refused(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {**request.param, "manifest": build(request.param)}


def build(case: dict[str, Any]) -> dict[str, Any]:
    """The base with a case's changes."""
    manifest = copy.deepcopy(TABLE["base"])
    for path, value in case.get("set", {}).items():
        *parents, key = path.split(".")
        target: Any = manifest
        for step in parents:
            target = target[int(step)] if isinstance(target, list) else target.setdefault(step, {})
        target[key] = copy.deepcopy(value)
    for path in case.get("unset", ()):
        *parents, key = path.split(".")
        target = manifest
        for step in parents:
            target = target[step]
        del target[key]
    return manifest
