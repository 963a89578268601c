# SPDX-License-Identifier: Apache-2.0
"""Check custom resources, JSON on standard input, against models of their definitions; runs beside the tools.

The models let unknown fields pass, so what they read is written again and must hold every field that came in.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

from cloudcoil.models.keda.v1alpha1 import ScaledObject
from cloudcoil.models.prometheus_operator.v1 import PrometheusRule, ServiceMonitor

MODELS = {"ScaledObject": ScaledObject, "PrometheusRule": PrometheusRule, "ServiceMonitor": ServiceMonitor}


def unknown(given: Any, understood: Any, path: str) -> Iterator[str]:
    """Paths of what was given and not understood."""
    if isinstance(given, dict):
        for key in given:
            if key in understood:
                yield from unknown(given[key], understood[key], f"{path}.{key}")
            else:
                yield f"{path}.{key}"
    elif isinstance(given, list):
        for i, (one, same) in enumerate(zip(given, understood, strict=True)):
            yield from unknown(one, same, f"{path}[{i}]")


if __name__ == "__main__":
    for document in json.load(sys.stdin):
        model = MODELS[document["kind"]].model_validate(document)
        written = json.loads(model.model_dump_json(by_alias=True, exclude_none=True))
        left_over = list(unknown(document, written, document["kind"]))
        if left_over:
            sys.exit(f"unknown fields: {', '.join(left_over)}")
