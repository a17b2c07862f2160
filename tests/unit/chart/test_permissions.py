"""The chart grants what the operator says it needs, no more and no less, in both of its modes."""

from collections.abc import Iterable
from typing import Any

import pytest

from finetune_api.manifest import load_manifests
from finetune_operator import permissions

Right = tuple[str, str, str]  # group, resource, verb


def granted(rules: Iterable[dict[str, Any]]) -> set[Right]:
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def needed(rules: Iterable[permissions.Rule]) -> set[Right]:
    return {(rule.group, rule.resource, verb) for rule in rules for verb in rule.verbs}


@pytest.mark.parametrize(
    ("values", "kind", "namespace", "rules"),
    [
        ([], "ClusterRole", None, permissions.RULES),
        (["--set", "watchNamespace=team-a"], "Role", "team-a", permissions.RULES),
        (
            ["--set", "networkPolicy.enabled=true"],
            "ClusterRole",
            None,
            (*permissions.RULES, *permissions.NETWORK_RULES),
        ),
    ],
    ids=["cluster", "namespace", "network policies"],
)
def test_the_chart_grants_what_the_operator_needs(
    helm: Any, values: list[str], kind: str, namespace: str | None, rules: tuple[permissions.Rule, ...]
) -> None:
    output = helm("template", "fo", "charts/finetune-operator", "--namespace", "finetune-system", *values).stdout
    roles = {
        (item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"]): granted(item["rules"])
        for item in (manifest.document for manifest in load_manifests(output))
        if item["kind"] in ("Role", "ClusterRole")
    }
    assert roles[kind, namespace, "fo-finetune-operator"] == needed(rules)
    assert roles["Role", "finetune-system", "fo-finetune-operator-lease"] == needed(permissions.LEASE_RULES)
