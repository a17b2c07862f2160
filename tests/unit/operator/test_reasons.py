"""Every reason that the operator or the trainer can give is in the table of docs/operations.md."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from finetune_api.reasons import REASONS
from finetune_cli.main import main

ROOT = Path(__file__).resolve().parents[3]
OPERATOR = ROOT / "operator" / "finetune_operator"
TRAINER = ROOT / "trainer_image" / "finetune_trainer"
CAMEL = re.compile(r"(?:[A-Z][a-z]+|MLflow)(?:[A-Z][a-z]*)*")
# Words that look like a reason: kinds, phases and conditions, and what Kubernetes says itself.
OTHERS = {
    *("Action", "Apply", "Create", "Delete", "Background", "Foreground", "Normal", "Warning", "True", "False"),
    *("Job", "Pod", "Service", "ConfigMap", "PersistentVolumeClaim", "NetworkPolicy", "Secret", "Cluster", "Local"),
    *("Pending", "Running", "Failed", "Queued", "Starting", "Ready", "Reconciling", "Stalled", "Complete", "Finished"),
    *("Evicted", "QuotaReserved", "DisruptionTarget", "PodScheduled", "Check", "Retain"),
    *("ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod", "WaitForFirstConsumer", "Insufficient"),
    *("ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"),
    *("CreateContainerConfigError", "CreateContainerError", "FailedMount", "FailedAttachVolume", "FailedCreate"),
    *("Shutdown", "Terminated", "NodeShutdown", "NodeAffinity", "UnexpectedAdmissionError", "AdmissionError"),
    "KeyMissing",  # behind Secret or ConfigMap
    *("OutOf", "OOMKilled", "Inadmissible", "Misconfigured", "NoMatchingFlavor", "ExceedsMaxQuota"),
}


def literals(path: Path) -> set[str]:
    """String constants, docstrings apart, that look like a reason."""
    found = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
    return {value for value in found if isinstance(value, str) and CAMEL.fullmatch(value)}


def given_by_the_trainer() -> set[str]:
    """`reason = "…"` of error classes and `reason="…"` of calls."""
    text = "\n".join(path.read_text() for path in TRAINER.rglob("*.py"))
    return set(re.findall(r'\breason(?:: str)? ?= ?"([A-Z]\w+)"', text))


@pytest.mark.parametrize(
    "path", [*sorted((OPERATOR / "plan").glob("*.py")), OPERATOR / "actions.py"], ids=lambda p: p.stem
)
def test_what_the_operator_may_say_is_explained(path: Path) -> None:
    assert literals(path) - OTHERS - set(REASONS) == set()


def test_what_the_trainer_may_say_is_explained() -> None:
    given = given_by_the_trainer()
    assert "BadData" in given
    assert given - set(REASONS) == set()


def test_nothing_is_explained_that_nobody_says() -> None:
    sources = [*OPERATOR.rglob("*.py"), *TRAINER.rglob("*.py"), ROOT / "crds" / "finetune_api" / "constants.py"]
    said = "\n".join(path.read_text() for path in sources)
    assert [name for name in REASONS if f'"{name}"' not in said and not name.endswith("KeyMissing")] == []


def test_explain_knows_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "VolumeNotOurs"]) == 0
    assert "adoptCheckpoints: true" in capsys.readouterr().out
    assert main(["explain", "VolumeNotOurs", "-o", "json"]) == 0
    assert '"remedy"' in capsys.readouterr().out
