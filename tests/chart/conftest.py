"""What the chart tests share: rendering a chart with the real Helm into plain objects."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_api.manifest import load_manifests

ROOT = Path(__file__).resolve().parents[2]
Object = dict[str, Any]


class Rendered(list[Object]):
    """The objects of one `helm template`, in order."""

    def of(self, kind: str) -> list[Object]:
        return [item for item in self if item["kind"] == kind]

    def one(self, kind: str, name: str | None = None) -> Object:
        found = [item for item in self.of(kind) if name in (None, item["metadata"]["name"])]
        assert len(found) == 1, f"{len(found)} objects {kind} {name or ''}"
        return found[0]

    def pods(self) -> Iterator[tuple[str, Object]]:
        """(name, pod spec) of everything that becomes a pod."""
        for item in self:
            if item["kind"] == "Pod":
                yield item["metadata"]["name"], item["spec"]
            elif "template" in item.get("spec", {}):
                yield item["metadata"]["name"], item["spec"]["template"]["spec"]


@pytest.fixture(scope="session")
def render(helm: Callable[..., Any]) -> Callable[..., Rendered]:
    """`render(chart, *helm_args, release="fo", namespace="finetune-system")`: the objects that Helm would send.

    Parsed as Kubernetes parses YAML: to PyYAML alone, Helm's 5e-05 is text.
    """

    def run(chart: str, *args: str, release: str = "fo", namespace: str = "finetune-system") -> Rendered:
        output = helm("template", release, f"charts/{chart}", "--namespace", namespace, *args).stdout
        return Rendered(manifest.document for manifest in load_manifests(output))

    return run


@pytest.fixture(scope="session")
def refusal(helm: Callable[..., Any]) -> Callable[..., str]:
    """`refusal(chart, *helm_args)`: what Helm says when it refuses the values; fails if it accepts them."""

    def run(chart: str, *args: str, release: str = "fo") -> str:
        result = helm("template", release, f"charts/{chart}", *args, check=False)
        assert result.returncode != 0, f"accepted: {args}"
        return str(result.stderr)

    return run
