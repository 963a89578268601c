# SPDX-License-Identifier: Apache-2.0
"""Write ``docs/metrics.md`` from the declarations in the code: ``python docs/make_metrics.py``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from sigmahat_kernels.metrics import SUPERVISOR, Metric

PAGE = Path(__file__).with_name("metrics.md")
INTRODUCTION = """\
# Metrics

`sigmahat serve` answers Prometheus at `--metrics-port` (8002), path `/metrics`: its own metrics, and
[Triton's](https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/metrics.html). One
address, which answers while Triton is started again too; Triton's own port is a free one of loopback.

In Triton's metrics a step is called `features`, not `features-r2`, and has its release as the label `release` in place
of `version`: sum over it.
"""


def table(metrics: Iterable[Metric]) -> list[str]:
    """Rows for some metrics."""
    rows = [
        f"| `{metric.name}` | {metric.kind} | {', '.join(f'`{label}`' for label in metric.labels)} | {metric.help} |"
        for metric in metrics
    ]
    return ["| metric | kind | labels | what it says |", "| --- | --- | --- | --- |", *rows, ""]


def page() -> str:
    """The whole page."""
    return "\n".join([INTRODUCTION, "## Of the supervisor", "", *table(SUPERVISOR)])


if __name__ == "__main__":
    PAGE.write_text(page())
