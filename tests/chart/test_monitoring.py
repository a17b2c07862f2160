"""Metrics, alert rules and dashboard as Prometheus reads them: promtool is the judge."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_api import constants
from finetune_api.report import ProgressReport
from finetune_operator.census import Census
from finetune_operator.metrics import CATALOGUE, PREFIX, PROCESS, Metrics
from finetune_operator.workers import RESULTS
from finetune_trainer.train.server import metrics_text

ROOT = Path(__file__).resolve().parents[2]
CHART = "finetune-operator"
FILES = ROOT / "charts" / CHART / "files"
EVERYTHING = ["-f", str(ROOT / "charts" / CHART / "ci" / "production-values.yaml")]
REPORT = ProgressReport(
    phase="training",
    attempt=1,
    step=3,
    total_steps=10,
    epoch=0.3,
    loss=2.5,
    eval_loss=2.6,
    learning_rate=1e-5,
    tokens_per_second=120.5,
    eta_seconds=7,
)


@pytest.fixture(scope="session")
def promtool() -> Any:
    """`promtool(*args, input="")`: its output; fails where promtool objects."""
    found = subprocess.run([ROOT / "requirements" / "promtool.sh"], capture_output=True, text=True, check=False)
    if found.returncode == 69:
        pytest.skip(found.stderr.strip().splitlines()[-1])
    path = found.stdout.strip()

    def run(*args: str | Path, input: str = "") -> str:
        done = subprocess.run([path, *args], input=input, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


def operator_page() -> str:
    """/metrics of an operator in which every metric has been written."""
    metrics = Metrics()
    Census(metrics)
    for name, (kind, _) in CATALOGUE.items():
        if kind == "gauge" and name not in ("jobs", "jobs_stalled", "build_info", "watch_age_seconds"):
            metrics.gauge(name, lambda: 1.5)
    metrics.gauge("watch_age_seconds", lambda: {"pods": 1.0}, "resource")
    metrics.observe("reconcile_duration_seconds", 0.1)
    metrics.count("api_requests_total", verb="GET", resource="pods", code="200")
    for result in RESULTS:
        metrics.count("reconcile_total", result=result)
    return metrics.text()


def names(page: str) -> set[str]:
    return {line.split()[2] for line in page.splitlines() if line.startswith("# TYPE")}


def queries() -> list[tuple[str, str]]:
    """(where, expression) of every panel and every alert."""
    panels = json.loads((FILES / "dashboard.json").read_text())["panels"]
    found = [(panel["title"], target["expr"]) for panel in panels for target in panel.get("targets", [])]
    groups = yaml.safe_load((FILES / "alerts.yaml").read_text())["groups"]
    return found + [(rule["alert"], rule["expr"]) for group in groups for rule in group["rules"]]


@pytest.mark.parametrize("page", [operator_page(), metrics_text(REPORT)], ids=["operator", "trainer"])
def test_promtool_reads_the_page_and_finds_no_fault_with_names_and_units(promtool: Any, page: str) -> None:
    assert promtool("check", "metrics", input=page) == ""


def test_the_page_has_every_metric_of_the_catalogue() -> None:
    assert names(operator_page()) == {f"{PREFIX}{name}" for name in CATALOGUE} | set(PROCESS)


@pytest.mark.parametrize(("where", "query"), queries(), ids=[where for where, _ in queries()])
def test_every_query_is_about_metrics_that_exist(where: str, query: str) -> None:
    known = names(operator_page()) | names(metrics_text(REPORT))
    # Labels are not metrics: {…} and by (…) are left out.
    bare = re.sub(r"\{[^}]*\}|(by|on) \([^)]*\)", "", query)
    asked = set(re.findall(r"\b(?:finetune|process)_[a-z_]+", bare))
    assert asked
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked} <= known


def test_promtool_reads_every_query_of_the_dashboard(promtool: Any, tmp_path: Path) -> None:
    """As recording rules, with Grafana's variables replaced."""
    rules = [
        {"record": f"panel:{index}", "expr": query.replace("$__rate_interval", "5m").replace("$namespace", ".*")}
        for index, (_, query) in enumerate(queries())
    ]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"SUCCESS: {len(rules)} rules found" in promtool("check", "rules", file)


def test_the_alert_rules_fire_when_they_should_and_not_otherwise(promtool: Any, render: Any, tmp_path: Path) -> None:
    """What Helm renders is tested, not the file that it is rendered from."""
    rule = render(CHART, *EVERYTHING).one("PrometheusRule")
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rule["spec"]))
    tests = (Path(__file__).parent / "alerts.yaml").read_text()
    (tmp_path / "tests.yaml").write_text(tests.replace("rule_files: [RULES]", "rule_files: [rules.yaml]"))
    promtool("check", "rules", tmp_path / "rules.yaml")
    assert "SUCCESS" in promtool("test", "rules", tmp_path / "tests.yaml")
    alerts = {one["alert"] for group in rule["spec"]["groups"] for one in group["rules"]}
    told = (ROOT / "docs" / "operations.md").read_text()
    assert [alert for alert in sorted(alerts) if f"`{alert}`" not in told] == []
    assert [alert for alert in sorted(alerts) if alert not in tests] == []


def test_monitoring_is_made_only_if_wanted_and_can_be_found(render: Any) -> None:
    kinds = {"ServiceMonitor", "PodMonitor", "PrometheusRule"}
    assert not kinds & {item["kind"] for item in render(CHART)}
    objects = render(CHART, *EVERYTHING)
    assert kinds <= {item["kind"] for item in objects}
    assert objects.one("PrometheusRule")["metadata"]["labels"]["release"] == "prometheus"
    board = objects.one("ConfigMap", "fo-finetune-operator-dashboard")
    assert board["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(board["data"]["finetune-operator.json"])["title"] == "Fine-tuning"
    # The label that the alerts and the dashboard name a job by is the one that the monitor takes from its pods.
    label = re.sub(r"[^a-zA-Z0-9]", "_", constants.LABEL_JOB)
    assert label in (FILES / "alerts.yaml").read_text()
    assert label in board["data"]["finetune-operator.json"]


def test_only_rank_0_s_pod_is_scraped(render: Any) -> None:
    (dropped,) = render(CHART, *EVERYTHING).one("PodMonitor")["spec"]["podMetricsEndpoints"][0]["relabelings"]
    assert dropped["action"] == "drop"
    assert [bool(re.fullmatch(dropped["regex"], index)) for index in ("", "0", "1", "17")] == [False, False, True, True]
