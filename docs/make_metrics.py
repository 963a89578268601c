# SPDX-License-Identifier: Apache-2.0
"""Write ``docs/metrics.md`` from the declarations in the code: ``python docs/make_metrics.py``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from sigmahat_kernels.metrics import STEPS, SUPERVISOR, Metric

PAGE = Path(__file__).with_name("metrics.md")
INTRODUCTION = """\
# Metrics

`sigmahat serve` answers Prometheus at `--metrics-port` (8002), path `/metrics`: its own metrics, its steps', and
[Triton's](https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/metrics.html). One
address, which answers while Triton is started again too; Triton's own port is a free one of loopback.

In Triton's metrics a step is called `estimate`, not `estimate-r2`. It and the ensembles have the release as the label
`release`, in place of `version`: sum over it.
"""
OF_STEPS = """\
They are custom metrics of Triton's Python backend, sent once a second; `step` is a model without its release, so a swap
changes no label. On a CPU there is one model, `estimate`; what it spends on `features`, `members`, `assemble` and
`measure` is counted under these names too. A histogram is written as its counters (`_bucket` with `le`, `_sum`,
`_count`): that of Triton takes one value a call.
"""


def table(metrics: Iterable[Metric]) -> list[str]:
    """Rows for some metrics."""
    rows = [
        f"| `{metric.name}` | {metric.kind} | {', '.join(f'`{label}`' for label in metric.labels)} | {metric.help}"
        f"{'; up to ' * bool(metric.buckets)}{', '.join(f'{bound:g}' for bound in metric.buckets)} |"
        for metric in metrics
    ]
    return ["| metric | kind | labels | what it says |", "| --- | --- | --- | --- |", *rows, ""]


def page() -> str:
    """The whole page."""
    steps = ["## Of the steps", "", OF_STEPS, *table(STEPS)]
    return "\n".join([INTRODUCTION, "## Of the supervisor", "", *table(SUPERVISOR), *steps])


if __name__ == "__main__":
    PAGE.write_text(page())
