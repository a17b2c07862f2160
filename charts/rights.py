"""Writes the rights that the operator's chart grants into docs/security.md: `python charts/rights.py [--check]`.

The roles are taken from the chart as Helm renders it; why the operator needs each comes from its own table
(finetune_operator.permissions), which a test holds to the same roles.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune_api.manifest import load_manifests
from finetune_operator.permissions import LEASE_RULES, NETWORK_RULES, RULES

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "security.md"
BEGIN, END = "<!-- rights: written by charts/rights.py -->", "<!-- end of rights -->"
NAME = "finetune-operator"
REASONS = {(rule.group, rule.resource): rule.why for rule in (*RULES, *NETWORK_RULES, *LEASE_RULES)}


def roles(*values: str) -> dict[str, list[dict[str, Any]]]:
    """Name -> rules of every Role and ClusterRole of the chart."""
    helm = ROOT / ".cache" / "localcluster" / "localcluster"
    command = ["helm", "template", NAME, "charts/finetune-operator", "--namespace", "finetune-system"]
    arguments = [argument for value in values for argument in ("--set", value)]
    done = subprocess.run(
        [*command, *arguments], executable=str(helm), capture_output=True, text=True, check=True, cwd=ROOT
    )
    objects = [manifest.document for manifest in load_manifests(done.stdout)]
    return {one["metadata"]["name"]: one["rules"] for one in objects if one["kind"] in ("Role", "ClusterRole")}


def rows(rules: list[dict[str, Any]], note: str = "") -> Iterator[str]:
    """A line of the table for each resource."""
    for rule in rules:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                name = f"`{resource}`" + (f" ({group})" if group else "")
                why = REASONS.get((group, resource), "")
                yield f"| {name} | {', '.join(rule['verbs'])} | {why}{note} |"


def _in_words(rules: list[dict[str, Any]]) -> str:
    return "; ".join(f"{', '.join(rule['verbs'])} `{', '.join(rule['resources'])}`" for rule in rules)


def table() -> str:
    """The three tables, between their markers."""
    plain, all_of_it = roles(), roles("networkPolicy.enabled=true")
    head = ["| resource | verbs | why |", "|---|---|---|"]
    more = [rule for rule in all_of_it[NAME] if rule not in plain[NAME]]
    parts = ((name.removeprefix(f"{NAME}-"), rules) for name, rules in plain.items())
    users = [f"| `{part}` | {_in_words(rules)} |" for part, rules in parts if part in ("view", "edit", "admin")]
    lines = [
        BEGIN,
        "In every watched namespace (a ClusterRole; with `watchNamespace` a Role there, and nothing elsewhere):",
        "",
        *head,
        *rows(plain[NAME]),
        *rows(more, "; with `networkPolicy.enabled` only"),
        "",
        "In the operator's own namespace (a Role):",
        "",
        *head,
        *rows(plain[f"{NAME}-lease"]),
        "",
        "Given to users through the cluster's own roles (`rbac.aggregatedRoles`):",
        "",
        "| who has | may also, in FineTuneJobs |",
        "|---|---|",
        *users,
        END,
    ]
    return "\n".join(lines)


def page_with(text: str, rights: str) -> str:
    """The page with its table replaced."""
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    return before + rights + after


def main(arguments: list[str]) -> int:
    """Exit status 0, or 1 if --check found drift."""
    text = PAGE.read_text(encoding="utf-8")
    wanted = page_with(text, table())
    if "--check" in arguments:
        if wanted != text:
            print("docs/security.md is not what the chart grants; run python charts/rights.py", file=sys.stderr)
        return int(wanted != text)
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
