"""Who may reach the pods of one job: the operator (progress), and the job's own pods each other. See ADR 0014.

One policy per job, since jobs may live in any namespace and the pods of one job must not reach those of another.
"""

from finetune_api import constants

from ..plan.types import Object
from .request import Request


def wanted(request: Request) -> bool:
    """Whether the administrator has policies made (the chart's networkPolicy.enabled)."""
    return bool(request.settings.progress_from) and bool(request.uid)


def network_policy(request: Request) -> Object:
    """Of all pods of the job, in every phase. Nobody reaches a download pod."""
    own = {"matchLabels": {constants.LABEL_JOB_UID: request.uid}}
    metadata = request.metadata(f"{request.name}-pods", constants.ROLE_TRAIN)
    spec: Object = {
        "podSelector": own,
        "policyTypes": ["Ingress"],
        "ingress": [
            {
                "ports": [{"port": constants.PROGRESS_PORT, "protocol": "TCP"}],
                "from": [dict(peer) for peer in request.settings.progress_from],
            },
            # Rendezvous and collectives between the nodes of a job take ports of their own choice.
            {"from": [{"podSelector": own}]},
        ],
    }
    if blocked := request.settings.blocked_addresses:
        spec["policyTypes"].append("Egress")
        spec["egress"] = [{"to": [{"namespaceSelector": {}}, *_all_but(blocked)]}]
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}


def _all_but(blocked: tuple[str, ...]) -> list[Object]:
    """The whole of both address families, without these networks."""
    blocks = []
    for everything, sign in (("0.0.0.0/0", "."), ("::/0", ":")):
        excepted = [network for network in blocked if sign in network]
        blocks.append({"ipBlock": {"cidr": everything, **({"except": excepted} if excepted else {})}})
    return blocks
