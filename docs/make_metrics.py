# SPDX-License-Identifier: Apache-2.0
"""Write ``docs/metrics.md`` from the declarations in the code: ``python docs/make_metrics.py``."""

from __future__ import annotations

from pathlib import Path

from sigmahat_kernels.metrics import METRICS

PAGE = Path(__file__).with_name("metrics.md")
INTRODUCTION = """\
# Metrics

At `http://<host>:8002/metrics`, beside [Triton's own](https://github.com/triton-inference-server/server/blob/main/docs/user_guide/metrics.md).
They are Triton's custom metrics of its Python backend, so there is one port to watch. They are sent once a second, and
`step` is a model without its release, so a swap changes no label. A histogram is written as its counters (`_bucket`
with `le`, `_sum`, `_count`): the backend's own takes one value a call.

| metric | kind | labels | meaning | buckets |
| --- | --- | --- | --- | --- |
"""


def page() -> str:
    """The whole page."""
    rows = [
        f"| `{m.name}` | {m.kind} | {', '.join(m.labels)} | {m.help} | {', '.join(f'{b:g}' for b in m.buckets)} |"
        for m in METRICS
    ]
    return INTRODUCTION + "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
