"""The health check for Argo CD, run as Argo CD runs it: `obj` is a global, the chunk returns status and message."""

from pathlib import Path
from typing import Any

import pytest

lupa = pytest.importorskip("lupa", reason="the Lua interpreter lupa is not installed")
SCRIPT = Path(__file__).resolve().parents[3] / "charts" / "finetune-operator" / "files" / "argocd-health.lua"


def health(status: dict[str, Any] | None, generation: int = 2) -> tuple[str, str]:
    lua = lupa.LuaRuntime()
    obj = {"metadata": {"generation": generation}} | ({} if status is None else {"status": status})
    lua.globals().obj = lua.table_from(obj, recursive=True)
    result = lua.execute(SCRIPT.read_text())
    return result["status"], result["message"]


def status(*true: str, **more: Any) -> dict[str, Any]:
    kinds = ("Ready", "Reconciling", "Stalled", "Complete", "Failed", "Suspended")
    conditions = [{"type": kind, "status": str(kind in true), "message": f"{kind}!"} for kind in kinds]
    return {"observedGeneration": 2, "conditions": conditions, **more}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, ("Progressing", "waiting for the operator")),
        (status("Reconciling", phase="Pending"), ("Progressing", "Pending")),
        (
            status("Reconciling", phase="Training", steps="5/10", eta="2m"),
            ("Progressing", "Training, step 5/10, 2m left"),
        ),
        (status("Ready", "Complete", phase="Succeeded"), ("Healthy", "Complete!")),
        (status("Failed", "Stalled", phase="Failed"), ("Degraded", "Failed!")),
        (status("Suspended"), ("Suspended", "Suspended!")),
        (status("Reconciling", "Stalled", phase="Queued"), ("Degraded", "Stalled!")),
        (
            status("Ready", "Complete", observedGeneration=1),
            ("Progressing", "waiting for the operator to see the newest change"),
        ),
    ],
)
def test_health(given: dict[str, Any] | None, expected: tuple[str, str]) -> None:
    assert health(given) == expected
