"""What the operator may do, asked of a real API server that has the chart's roles: its table of rights and no more."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_operator.permissions import LEASE_RULES, NETWORK_RULES, RULES

VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
# What would be more than running jobs: secrets, other workloads, nodes, and one's own rights.
FOREIGN = (
    *(("", name) for name in ("secrets", "serviceaccounts", "nodes", "namespaces", "persistentvolumes", "endpoints")),
    *(("", name) for name in ("pods/exec", "pods/log", "pods/attach", "pods/portforward", "pods/eviction")),
    *(("", name) for name in ("serviceaccounts/token", "pods/ephemeralcontainers", "replicationcontrollers")),
    *(("apps", name) for name in ("deployments", "daemonsets", "statefulsets", "replicasets")),
    *(("rbac.authorization.k8s.io", name) for name in ("roles", "rolebindings", "clusterroles", "clusterrolebindings")),
    ("batch", "cronjobs"),
    ("batch", "jobs/status"),
    ("apiextensions.k8s.io", "customresourcedefinitions"),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations"),
    ("certificates.k8s.io", "certificatesigningrequests"),
    ("networking.k8s.io", "networkpolicies"),
    ("scheduling.k8s.io", "priorityclasses"),
    ("finetune-operator.io", "finetunejobs"),
    ("finetune-operator.io", "finetunejobs/status"),
)
Question = tuple[str, str, str, str]  # group, resource[/subresource], verb, namespace ("" for all)


def allowed(kubectl: Any, user: str, questions: list[Question]) -> set[Question]:
    """Those of the questions that the API server's authorizer answers with yes."""

    reviews = []
    for group, resource, verb, namespace in questions:
        name, _, part = resource.partition("/")
        attributes = {"group": group, "resource": name, "subresource": part, "verb": verb, "namespace": namespace}
        spec = {"user": user, "groups": ["system:serviceaccounts"], "resourceAttributes": attributes}
        reviews.append({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec})
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": reviews})
    answers = kubectl("create", "-f", "-", "-o", 'jsonpath={.status.allowed}{"\\n"}', input=text).stdout.split()
    return {one for one, answer in zip(questions, answers, strict=True) if answer == "true"}


def expected(rules: Any, namespace: str) -> set[Question]:
    return {(rule.group, rule.resource, verb, namespace) for rule in rules for verb in rule.verbs}


@pytest.mark.parametrize("policies", [False, True], ids=["plain", "with network policies"])
def test_namespaced_mode_is_its_table_and_nothing_elsewhere(
    kubectl: Any, granted: Any, namespace: str, second_namespace: str, policies: bool
) -> None:
    user = granted(
        "--set", f"watchNamespace={namespace},crds.enabled=false,networkPolicy.enabled={str(policies).lower()}"
    )
    rules = (*RULES, *LEASE_RULES, *(NETWORK_RULES if policies else ()))
    own = expected(rules, namespace)
    foreign = {(group, name, verb, namespace) for group, name in FOREIGN for verb in ("get", "create", "patch")}
    elsewhere = {(group, name, verb, second_namespace) for group, name, verb, _ in own if verb in ("list", "create")}
    everywhere = {(group, name, "list", "") for group, name, _, _ in own}
    asked = own | foreign | elsewhere | everywhere
    assert allowed(kubectl, user, sorted(asked)) == own


def test_cluster_mode_reads_no_secret_anywhere(
    kubectl: Any, granted: Any, namespace: str, second_namespace: str
) -> None:
    user = granted("--set", "crds.enabled=false")
    asked = {("", "secrets", verb, where) for verb in VERBS for where in ("", namespace, second_namespace)}
    asked |= {(group, name, "create", second_namespace) for group, name in FOREIGN}
    asked |= {("rbac.authorization.k8s.io", "clusterroles", verb, "") for verb in ("escalate", "bind")}
    asked |= {("", "users", "impersonate", ""), ("coordination.k8s.io", "leases", "create", second_namespace)}
    assert allowed(kubectl, user, sorted(asked)) == set()
    own = expected(RULES, second_namespace)
    assert allowed(kubectl, user, sorted(own)) == own
