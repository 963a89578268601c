# SPDX-License-Identifier: Apache-2.0
"""Does an engine answer as ONNX Runtime does on the same file?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from sigmahat_deploy.engines.errors import EngineError
from sigmahat_deploy.engines.graph import Graph
from sigmahat_kernels.members import MEAN_LIMIT, P99_LIMIT, session_on_cpu


def reference(graph: Graph, features: np.ndarray) -> dict[str, np.ndarray]:
    """The file's answers in ONNX Runtime on the CPU, outputs by name."""
    session = session_on_cpu(graph.path)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {graph.input: features}), strict=True))


def check_accuracy(
    graph: Graph,
    features: np.ndarray,
    run: Callable[[np.ndarray], dict[str, np.ndarray]],
    batches: Sequence[int],
) -> dict[str, dict[str, float]]:
    """Run the engine on the first rows of `features`, at each batch size, and compare with ONNX Runtime.

    Returns
    -------
    dict
        Batch size -> mean and 99 % quantile of the absolute difference, over rows and columns.

    Raises
    ------
    EngineError
        If an answer is missing, misshapen, not finite, or further away than the limits.
    """
    expected = reference(graph, features)
    found: dict[str, dict[str, float]] = {}
    for n in sorted({min(n, len(features)) for n in batches}):
        answers = run(features[:n])
        for name, values in expected.items():
            got = answers.get(name)
            if got is None or got.shape != values[:n].shape:
                raise EngineError(
                    f"the engine of {graph.path.name} answers {n} rows with {name} of shape "
                    f"{None if got is None else got.shape}, {values[:n].shape} wanted"
                )
            difference = np.abs(got - values[:n])
            mean, p99 = float(difference.mean()), float(np.quantile(difference, 0.99))
            if not (mean <= MEAN_LIMIT and p99 <= P99_LIMIT):  # so that NaN is refused too
                raise EngineError(
                    f"the engine of {graph.path.name} differs from ONNX Runtime on {n} rows: {name} by {mean:.4f} on "
                    f"average and {p99:.4f} in the worst hundredth, {MEAN_LIMIT} and {P99_LIMIT} allowed"
                )
            found[str(n)] = {"mean": mean, "p99": p99}
    return found
