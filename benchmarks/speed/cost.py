# SPDX-License-Identifier: Apache-2.0
"""Fit the constants of `sigmahat_kernels.cost` to this machine, into ``results/cost.json``.

``OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python -m benchmarks.speed.cost`` prints the constants, to be written into
that module by hand, and how far its present ones are off.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from rich.console import Console
from scipy.optimize import nnls

from benchmarks.figures import RESULTS, Figures, four_digits, write_figures
from sigmahat_kernels.assemble import assemble
from sigmahat_kernels.combine import combine
from sigmahat_kernels.cost import UniverseTerms, WindowTerms, features_cost, matrices_cost
from sigmahat_kernels.features import compute_features
from sigmahat_kernels.parameters import N_PARAMETERS, split_parameters
from sigmahat_kernels.request import Request, read_request
from sigmahat_kernels.scratch import keep_freed_memory

RESULT = RESULTS / "cost.json"
ROUNDS = 3


class Shape(NamedTuple):
    """Of a request."""

    n_universes: int
    n_assets: int
    n_obs: int
    n_columns: int
    n_windows: int = 1


SHAPES = (
    *(Shape(n, 20, 252, 100) for n in (1, 64, 1024)),
    *(Shape(64, 20, n_obs, 100, 64) for n_obs in (60, 252, 1000)),
    *(Shape(64, n, 252, 500) for n in (50, 100, 200)),
    *(Shape(8, n, 1000, 500) for n in (100, 250, 500)),
    *(Shape(4, n, 1000, 1000) for n in (400, 700, 1000)),
    *(Shape(8, 500, n_obs, 500) for n_obs in (60, 120, 252)),
    *(Shape(8, 20, n_obs, 400, 1) for n_obs in (2_000, 20_000)),
    Shape(16, 20, 252, 1000, 16),
    Shape(4, 100, 50_000, 100),
)


def main() -> None:
    """Measure, fit, write."""
    keep_freed_memory()
    measured = [(shape, *measure(draw(shape))) for shape in SHAPES]
    rows = np.array([terms(shape) for shape, *_ in measured])
    seconds = np.array([features for _, features, _ in measured])
    # Relative errors: a term is worth as much in a small request as in a large one.
    found, _ = nnls(rows / seconds[:, None], np.ones(len(rows)))
    requests = [(draw(shape), features, matrices) for shape, features, matrices in measured]
    names = [f"universe_{n}" for n in UniverseTerms._fields] + [f"window_{n}" for n in WindowTerms._fields]
    figures: Figures = {
        "fitted": {name: four_digits(value) for name, value in zip(names, found, strict=True)},
        "fitted_over_measured": ratios(rows @ found / seconds),
        "constants_over_measured": ratios([features_cost(request) / ms for request, ms, _ in requests]),
        "matrices_constants_over_measured": ratios([matrices_cost(request) / ms for request, _, ms in requests]),
    }
    write_figures(RESULT, figures)
    Console().print(figures)


def draw(shape: Shape) -> Request:
    """A request of normal returns."""
    rng = np.random.default_rng(0)
    panel = rng.normal(0.0, 0.01, (shape.n_obs + shape.n_windows - 1, shape.n_columns)).astype(np.float32)
    lists = [rng.choice(shape.n_columns, shape.n_assets, replace=False) for _ in range(shape.n_universes)]
    starts = np.arange(shape.n_universes) % shape.n_windows
    windows = np.stack([starts, starts + shape.n_obs], axis=1)
    return read_request(panel, np.array(lists, np.int32), windows.astype(np.int32))


def measure(request: Request) -> tuple[float, float]:
    """Milliseconds of one core, of features and of matrices; the best of some rounds."""
    rows = np.zeros((len(request.universes), N_PARAMETERS), np.float32)
    parameters = split_parameters(combine([rows], np.zeros((len(rows), 1), np.int32)).parameters)
    status = np.zeros(len(request.universes), np.int32)
    features = min(_ms(lambda: compute_features(request, threads=1)) for _ in range(ROUNDS))
    return features, min(_ms(lambda: assemble(request, parameters, status, threads=1)) for _ in range(ROUNDS))


def _ms(work: Callable[[], object]) -> float:
    begin = time.process_time()
    work()
    return 1e3 * (time.process_time() - begin)


def terms(shape: Shape) -> list[float]:
    """What multiplies each constant, in the order of `UniverseTerms`, then `WindowTerms`."""
    n, t = shape.n_assets, shape.n_obs
    m = min(shape.n_columns, n * -(-shape.n_universes // shape.n_windows))
    universe = [1, n**2, n**2 * min(n, t), t * m]
    return [float(shape.n_universes * x) for x in universe] + [float(shape.n_windows * x) for x in (1, t * m, t * m**2)]


def ratios(values: object) -> Figures:
    """Smallest, median and largest."""
    low, middle, high = np.quantile(np.asarray(values, float), [0.0, 0.5, 1.0])
    return {"smallest": four_digits(low), "median": four_digits(middle), "largest": four_digits(high)}


if __name__ == "__main__":
    main()
