# SPDX-License-Identifier: Apache-2.0
"""Write the Grafana dashboard, which is in the chart: python deploy/monitoring/make_dashboard.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

DASHBOARD = Path(__file__).parents[1] / "helm" / "sigmahat" / "monitoring" / "dashboard.json"

_OF = '{job="sigmahat", namespace=~"$namespace", %s}'
_UPSTREAM = '{job="sigmahat-envoy", envoy_cluster_name="servers"}'
_ENSEMBLES, _STEPS = 'model=~"shrinkage|covariance|risk"', 'model!~"shrinkage|covariance|risk"'
_QUANTILES = f'{_ENSEMBLES}, quantile=~"0.5|0.95|0.99"'


class Panel(NamedTuple):
    """One picture: PromQL expressions and their legends."""

    title: str
    unit: str
    queries: dict[str, str]  # legend -> expression


def _rate(metric: str, by: str, which: str) -> str:
    return f"sum by ({by}) (rate({metric}{_OF % which}[$__rate_interval]))"


def _ratio(numerator: str, denominator: str, by: str, which: str) -> str:
    return f"{_rate(numerator, by, which)} / {_rate(denominator, by, which)}"


def _step(part: str) -> str:
    return _ratio(f"nv_inference_{part}_duration_us", "nv_inference_request_success", "model", _STEPS)


def _engine(metric: str, by: str) -> str:
    return f'sum by ({by}) (rate({metric}{{job="sigmahat", namespace=~"$namespace"}}[$__rate_interval]))'


def _daily_mean(histogram: str, by: str) -> str:
    sums, counts = (
        f'sum by ({by}) (rate({histogram}_{part}{{job="sigmahat", namespace=~"$namespace"}}[1d]))'
        for part in ("sum", "count")
    )
    return f"{sums} / {counts}"


def _quantile(q: float, metric: str, by: str) -> str:
    return f"histogram_quantile({q}, {_engine(metric, by)})"


ROWS = {
    "Objectives": [
        Panel("Answers a second", "reqps", {"{{model}}": _rate("nv_inference_request_success", "model", _ENSEMBLES)}),
        Panel(
            "Failures a second, by reason",
            "reqps",
            {"{{model}} {{reason}}": _rate("nv_inference_request_failure", "model, reason", _ENSEMBLES)},
        ),
        Panel(
            "Mean time of an answer",
            "µs",
            {
                "{{model}}": _ratio(
                    "nv_inference_request_duration_us", "nv_inference_request_success", "model", _ENSEMBLES
                )
            },
        ),
        Panel(  # quantiles of several servers make no quantile of all
            "50, 95 and 99 % of answers within, at the slowest server",
            "µs",
            {"{{model}} {{quantile}}": f"max by (model, quantile) (nv_inference_request_summary_us{_OF % _QUANTILES})"},
        ),
    ],
    "Steps": [
        Panel("Waiting", "µs", {"{{model}}": _step("queue")}),
        Panel("Computing", "µs", {"{{model}}": _step("compute_infer")}),
        Panel(
            "Copying in and out",
            "µs",
            {"{{model}} in": _step("compute_input"), "{{model}} out": _step("compute_output")},
        ),
        Panel(
            "Requests in queues",
            "short",
            {"{{model}}": f"sum by (model) (nv_inference_pending_request_count{_OF % _STEPS})"},
        ),
        Panel(
            "Requests an execution",
            "short",
            {"{{model}}": _ratio("nv_inference_count", "nv_inference_exec_count", "model", _STEPS)},
        ),
    ],
    "Estimates": [
        Panel("Universes a second, by STATUS", "short", {"{{status}}": _engine("sigmahat_universes_total", "status")}),
        Panel(
            "Universes a second, by WARNINGS", "short", {"{{warning}}": _engine("sigmahat_warnings_total", "warning")}
        ),
        Panel(
            "Refusals a second, by reason",
            "reqps",
            {"{{step}} {{reason}}": _engine("sigmahat_requests_refused_total", "step, reason")},
        ),
        Panel(
            "Cost that waits or is computed",
            "ms",
            {"{{instance}} {{step}}": 'sigmahat_queued_cost_ms{job="sigmahat", namespace=~"$namespace"}'},
        ),
        Panel(
            "Shrinkage intensity: 10 %, median, 90 %",
            "short",
            {f"{q:.0%}": _quantile(q, "sigmahat_intensity_bucket", "le") for q in (0.1, 0.5, 0.9)},
        ),
        Panel(
            "Uncertainty: median",
            "short",
            {"{{kind}}": _quantile(0.5, "sigmahat_uncertainty_bucket", "le, kind")},
        ),
        Panel(
            "Drift: means of a day",
            "short",
            {
                "intensity": _daily_mean("sigmahat_intensity", "namespace"),
                "{{kind}} uncertainty": _daily_mean("sigmahat_uncertainty", "namespace, kind"),
            },
        ),
    ],
    "Servers": [
        Panel("Up", "short", {"{{instance}}": 'up{job="sigmahat", namespace=~"$namespace"}'}),
        Panel(
            "Ready, and release",
            "short",
            {
                "{{instance}} ready": 'sigmahat_ready{job="sigmahat", namespace=~"$namespace"}',
                "{{instance}} release": 'sigmahat_release{job="sigmahat", namespace=~"$namespace"}',
            },
        ),
        Panel(
            "Deaths in an hour",
            "short",
            {"{{instance}}": 'increase(sigmahat_deaths_total{job="sigmahat", namespace=~"$namespace"}[1h])'},
        ),
        Panel(
            "Share of requests",
            "reqps",
            {"{{instance}}": _rate("nv_inference_request_success", "instance", _ENSEMBLES)},
        ),
        Panel(
            "CPU and memory in use",
            "percentunit",
            {
                "{{instance}} CPU": 'nv_cpu_utilization{job="sigmahat", namespace=~"$namespace"}',
                "{{instance}} memory": 'nv_cpu_memory_used_bytes{job="sigmahat", namespace=~"$namespace"} / '
                'nv_cpu_memory_total_bytes{job="sigmahat", namespace=~"$namespace"}',
            },
        ),
    ],
    "Envoy": [
        Panel(
            "Requests and retries",
            "reqps",
            {
                "requests": f"sum(rate(envoy_cluster_upstream_rq_total{_UPSTREAM}[$__rate_interval]))",
                "retries": f"sum(rate(envoy_cluster_upstream_rq_retry{_UPSTREAM}[$__rate_interval]))",
            },
        ),
        Panel(
            "99 % of answers within",
            "ms",
            {
                "{{instance}}": "histogram_quantile(0.99, sum by (le, instance) "
                f"(rate(envoy_cluster_upstream_rq_time_bucket{_UPSTREAM}[$__rate_interval])))"
            },
        ),
        Panel(
            "Healthy servers",
            "short",
            {"{{instance}}": f"envoy_cluster_membership_healthy{_UPSTREAM}"},
        ),
    ],
    "GPU": [
        Panel("Utilisation", "percent", {"{{exported_pod}}": 'DCGM_FI_DEV_GPU_UTIL{exported_pod=~".*sigmahat.*"}'}),
        Panel("Memory", "decmbytes", {"{{exported_pod}}": 'DCGM_FI_DEV_FB_USED{exported_pod=~".*sigmahat.*"}'}),
        Panel("Power", "watt", {"{{exported_pod}}": 'DCGM_FI_DEV_POWER_USAGE{exported_pod=~".*sigmahat.*"}'}),
    ],
}

_SOURCE = {"type": "prometheus", "uid": "${source}"}
_WIDTH, _HEIGHT = 8, 7


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS.items():
        panels.append({"type": "row", "title": title, "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}, "panels": []})
        y += 1
        for i, panel in enumerate(row):
            at = {"x": i % 3 * _WIDTH, "y": y + i // 3 * _HEIGHT, "w": _WIDTH, "h": _HEIGHT}
            panels.append(_panel(panel, at))
        y += -(-len(row) // 3) * _HEIGHT
    for number, entry in enumerate(panels, 1):
        entry["id"] = number
    return {
        "title": "sigmahat",
        "uid": "sigmahat",
        "schemaVersion": 39,
        "editable": True,
        "time": {"from": "now-1h", "to": "now"},
        "refresh": "30s",
        "templating": {
            "list": [
                {"name": "source", "type": "datasource", "query": "prometheus", "label": "Prometheus"},
                {
                    "name": "namespace",
                    "type": "query",
                    "datasource": _SOURCE,
                    "query": 'label_values(up{job="sigmahat"}, namespace)',
                    "includeAll": True,
                    "allValue": ".*",
                    "multi": True,
                    "refresh": 2,
                },
            ]
        },
        "panels": panels,
    }


def _panel(panel: Panel, at: dict[str, int]) -> dict[str, Any]:
    return {
        "type": "timeseries",
        "title": panel.title,
        "datasource": _SOURCE,
        "gridPos": at,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + i), "datasource": _SOURCE, "expr": expression, "legendFormat": legend}
            for i, (legend, expression) in enumerate(panel.queries.items())
        ],
    }


def text() -> str:
    """Its JSON."""
    return json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    DASHBOARD.write_text(text())
