"""docs/security.md shows the rights that the chart grants."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def rights() -> ModuleType:
    spec = importlib.util.spec_from_file_location("rights", ROOT / "charts" / "rights.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_has_the_chart_s_rights(rights: ModuleType) -> None:
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    table = rights.table()
    assert table in page, "run python charts/rights.py"
    assert "secrets" not in table
    lines = [line for line in table.splitlines() if line.startswith("| `") and line.count("|") == 4]
    assert lines
    assert not [line for line in lines if line.endswith("|  |")], "each right has its reason"
    assert rights.page_with(page, "x").count("x") >= 1
