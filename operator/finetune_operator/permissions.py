"""The rights that the operator uses, with the reason for each: the chart's Role is compared with this table by a test.

Least privilege: no Secrets, no nodes, nothing cluster-scoped; Events are listed, never watched.
"""

from dataclasses import dataclass

from finetune_api import constants


@dataclass(frozen=True, slots=True)
class Rule:
    """Verbs on one resource of an API group."""

    group: str
    resource: str
    verbs: tuple[str, ...]
    why: str


# In every watched namespace (ClusterRole), or in the one of FINETUNE_WATCH_NAMESPACE (Role).
RULES: tuple[Rule, ...] = (
    Rule(constants.GROUP, constants.PLURAL, ("get", "list", "watch"), "what is asked for"),
    Rule(constants.GROUP, f"{constants.PLURAL}/status", ("patch",), "the one status write of a reconcile"),
    Rule(
        constants.GROUP,
        f"{constants.PLURAL}/finalizers",
        ("update",),
        "blockOwnerDeletion on children, where OwnerReferencesPermissionEnforcement is on",
    ),
    Rule(
        "batch",
        "jobs",
        ("get", "list", "watch", "create", "patch", "delete"),
        "download and train Jobs; suspend deletes",
    ),
    Rule("", "pods", ("get", "list", "watch"), "why a pod waits, its address for /progress, its last words"),
    Rule(
        "",
        "persistentvolumeclaims",
        ("get", "list", "watch", "create", "patch", "delete"),
        "model cache and work volume; deleted only by ttl and only with retention Delete",
    ),
    Rule("", "configmaps", ("get", "list", "create", "delete"), "the frozen configuration of a try; deleted by ttl"),
    Rule("", "services", ("get", "list", "create", "delete"), "names for the pods of several nodes; deleted by ttl"),
    Rule("", "events", ("list", "create"), "reasons why children wait; the job's own story"),
    Rule("kueue.x-k8s.io", "workloads", ("list",), "why a queued Job waits, where there is Kueue"),
)

# Besides, in the same namespaces, where FINETUNE_PROGRESS_FROM is set (the chart's networkPolicy.enabled).
NETWORK_RULES: tuple[Rule, ...] = (
    Rule("networking.k8s.io", "networkpolicies", ("get", "create"), "who may reach a job's pods; goes with the job"),
)

# In the operator's own namespace.
LEASE_RULES: tuple[Rule, ...] = (Rule("coordination.k8s.io", "leases", ("get", "create", "update"), "leader election"),)
