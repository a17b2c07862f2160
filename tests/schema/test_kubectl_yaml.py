"""Our reader and the real kubectl read the same values from the same YAML."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from finetune_api.manifest import load_manifests

SCALARS = [
    "2e-5",
    "1e-4",
    "1E3",
    "1e+3",
    "3.0",
    ".5",
    "5.",
    "+1",
    "-7",
    "010",
    "08",
    "0o10",
    "0x1F",
    "0b11",
    "1_000",
    "1__0",
    "no",
    "NO",
    "No",
    "nO",
    "off",
    "on",
    "y",
    "n",
    "Y",
    "N",
    "yes",
    "true",
    "True",
    "~",
    "null",
    "Null",
    "1:30",
    "2026-01-01",
    "2026-01-01T00:00:00Z",
    "1.2.3",
    "1e",
    "1e5x",
    "+",
    ".",
    "..",
    "64Gi",
    "0",
    "-0",
    "00",
    "0.1",
    "-.5",
    "12345678901",
    "s3://a/b",
    "a=b",
]


def test_scalars_and_keys(kubectl: Callable[..., Any], tmp_path: Path) -> None:
    lines = ["apiVersion: example.com/v1", "kind: Anything", "metadata: {name: a}", "spec:", "  values:"]
    lines += [f"    - {text}" for text in SCALARS]
    lines += ["  keys:", "    on: 1", "    3: 2", "    1.5: 3", "    'no': 5"]
    lines += ["  base: &base {one: 1, two: 2}", "  merged: {<<: *base, two: 3}", "  text: |", "    no", "    yes"]
    path = tmp_path / "scalars.yaml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    answer = kubectl("annotate", "--local", "-f", str(path), "a=b", "-o", "json")
    (ours,) = load_manifests(path.read_text(encoding="utf-8"))
    assert ours.spec == json.loads(answer.stdout)["spec"]
