# SPDX-License-Identifier: Apache-2.0
"""Alerts fire where they should and say what to do; the dashboard is what its program writes."""

from __future__ import annotations

import json
import re
import runpy
from typing import Any

import pytest
import yaml
from cluster.conftest import CHART, ROOT, TOOLS, run, tool

MONITORING = ROOT / "deploy" / "monitoring"
RULES = yaml.safe_load((CHART / "monitoring" / "rules.yaml").read_text())
DASHBOARD = json.loads((CHART / "monitoring" / "dashboard.json").read_text())


def alerts() -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for group in RULES["groups"] for rule in group["rules"]}


def expressions() -> list[str]:
    """Every expression of the rules and of the dashboard, its variables filled in."""
    panels = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
    filled = [e.replace("$__rate_interval", "30s").replace("$namespace", ".*") for e in panels]
    return filled + [alert["expr"] for alert in alerts().values()]


RULE_TESTS = [MONITORING / "rules_test.yaml", MONITORING / "drift_test.yaml"]


def test_rules() -> None:
    run(tool("promtool"), "test", "rules", *RULE_TESTS)
    run(tool("promtool"), "check", "config", MONITORING / "prometheus.yml")


def test_every_alert_is_seen_silent_and_firing() -> None:
    tests = [test for file in RULE_TESTS for test in yaml.safe_load(file.read_text())["tests"]]
    seen = [(case["alertname"], bool(case.get("exp_alerts"))) for test in tests for case in test["alert_rule_test"]]
    assert {name for name, fires in seen if fires} == alerts().keys()
    assert {name for name, fires in seen if not fires} == alerts().keys()


def test_every_alert_says_what_to_do() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    assert re.findall(r"(?m)^\| (Sigmahat\w+) \| \S.* \| \S.* \|$", page) == list(alerts())


def test_the_dashboard_is_what_its_program_writes() -> None:
    text = runpy.run_path(str(MONITORING / "make_dashboard.py"))["text"]()
    assert (CHART / "monitoring" / "dashboard.json").read_text() == text


def test_the_dashboard_can_be_drawn() -> None:
    panels = DASHBOARD["panels"]
    places = [panel["gridPos"] for panel in panels]
    cells = [(at["x"] + i, at["y"] + j) for at in places for i in range(at["w"]) for j in range(at["h"])]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in panels}) == len(panels)


@pytest.mark.skipif(not (TOOLS / "python").exists(), reason="no promql-parser here: make test-deploy")
def test_expressions_parse() -> None:
    program = "import json, sys, promql_parser; [promql_parser.parse(e) for e in json.load(sys.stdin)]"
    run(TOOLS / "python", "-c", program, input=json.dumps(expressions()))
