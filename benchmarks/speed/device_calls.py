# SPDX-License-Identifier: Apache-2.0
"""What a request asks of a GPU: ``python benchmarks/speed/device_calls.py`` counts, without one, and prints JSON.

Features and matrices of the demo's shape are computed on a pretended device (`tests/without_gpu`). Array calls are
NumPy's; own kernels are counted and not run, so that the answers are none.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

if __name__ == "__main__":
    ROOT = Path(__file__).parents[2]
    sys.path[:0] = [str(ROOT), str(ROOT / "feature_kernels"), str(ROOT / "tests")]

import numpy as np
from without_gpu import pretended_cupy

from sigmahat_kernels import solvers
from sigmahat_kernels.assemble import assemble
from sigmahat_kernels.cuda import cusolver, device
from sigmahat_kernels.cuda.kernels import Program
from sigmahat_kernels.features import compute_features
from sigmahat_kernels.parameters import N_PARAMETERS, split_parameters
from sigmahat_kernels.portfolios import read_portfolios
from sigmahat_kernels.request import PADDING, Request, read_request
from sigmahat_kernels.risk import measure_portfolios

N_UNIVERSES, SIZES, N_WINDOWS = 2_000, (20, 200), 36
"""The demo's shape: so many universes, of so many assets each, over so many windows."""

N_COLUMNS, N_OBS, STEP = 200, 252, 21
N_PORTFOLIOS = 3

N_OUTPUTS = {
    "assemble": 1,
    "tridiagonalise": 3,
    "tridiagonalise_small": 2,
    "sturm": 1,
    "pair_statistics": 3,
    "matrix_features": 1,
    "complete": 2,
}
"""Kernel -> how many arrays, the last of its arguments, it writes."""


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--universes", type=int, default=N_UNIVERSES)
    parser.add_argument("--sizes", type=int, nargs=2, default=SIZES, metavar=("LEAST", "MOST"))
    parser.add_argument("--windows", type=int, default=N_WINDOWS)
    parser.add_argument("--missing", type=float, default=0.0, help="share of the returns (default %(default)s)")
    parser.add_argument("--risk", action="store_true", help="count the risk of three portfolios too")
    parser.add_argument("--expanding", action="store_true", help="all windows begin with the first row")
    arguments = parser.parse_args()
    request = draw_request(
        arguments.universes, arguments.sizes, arguments.windows, arguments.missing, expanding=arguments.expanding
    )
    steps = {step: count(request, step) for step in STEPS}
    also = {step: count(request, step) for step in ALSO} if arguments.risk else {}
    together = {name: sum(counts[name] for counts in steps.values()) for name in steps["features"]}
    print(json.dumps({**together, **steps, **also}, indent=2))


def draw_request(
    n_universes: int, sizes: Sequence[int], n_windows: int, missing: float = 0.0, *, expanding: bool = False
) -> Request:
    """A request whose universes are spread evenly over sizes and windows, with a share of its returns missing."""
    rng = np.random.default_rng(0)
    returns = 0.01 * rng.standard_normal((N_OBS + STEP * n_windows, N_COLUMNS))
    returns[rng.random(returns.shape) < missing] = np.nan
    universes = np.full((n_universes, sizes[1]), PADDING, np.int32)
    for row, size in zip(universes, rng.integers(sizes[0], sizes[1] + 1, n_universes), strict=True):
        row[:size] = rng.choice(N_COLUMNS, size, replace=False)
    start = STEP * (np.arange(n_universes) * n_windows // n_universes)
    windows = np.stack([np.zeros_like(start) if expanding else start, start + N_OBS], axis=1).astype(np.int32)
    return read_request(returns.astype(np.float32), universes, windows)


def count(request: Request, step: str) -> dict[str, int]:
    """Launches of own kernels, other array calls, copies between host and device, and waits; of one step."""
    launches: list[str] = []

    def compiled(program: Program, number: int) -> Callable[..., None]:
        def launch(grid: Sequence[int], block: Sequence[int], arguments: Sequence[Any], shared_mem: int) -> None:
            launches.append(program.name)
            for output in arguments[-N_OUTPUTS[program.name] :]:
                np.asarray(output)[...] = 10**6 if output.dtype == np.int32 else 1.0

        return launch

    cupy = pretended_cupy.pretended_cupy()
    with (
        mock.patch.dict(sys.modules, cupy=cupy),
        mock.patch.object(device, "compiled", compiled),
        mock.patch.object(cusolver, "check_available"),
        np.errstate(all="ignore"),
    ):
        solvers._steps_on_device.cache_clear()
        panel = cupy.asarray(request.panel)
        pretended_cupy.clear_counts()
        {**STEPS, **ALSO}[step](request._replace(panel=panel))
        solvers._steps_on_device.cache_clear()
    counters = (pretended_cupy.array_calls, pretended_cupy.host_copies, pretended_cupy.waits)
    names = ("array_calls", "host_copies", "waits")
    return {"launches": len(launches)} | {
        name: sum(counter.values()) for name, counter in zip(names, counters, strict=True)
    }


def _matrices(request: Request) -> None:
    n_universes = len(request.universes)
    parameters = split_parameters(np.full((n_universes, N_PARAMETERS), 0.1))
    assemble(request, parameters, np.zeros(n_universes, np.int32))


def _risk(request: Request) -> None:
    n_universes = len(request.universes)
    parameters = split_parameters(np.full((n_universes, N_PARAMETERS), 0.1))
    books = np.random.default_rng(1).standard_normal((N_PORTFOLIOS, N_COLUMNS))
    portfolios = read_portfolios(request, portfolios=books)
    measure_portfolios(request, parameters, np.zeros(n_universes, np.int32), portfolios, threads=1)


STEPS: dict[str, Callable[[Request], object]] = {"features": compute_features, "assemble": _matrices}
ALSO: dict[str, Callable[[Request], object]] = {"risk": _risk}
"""In the place of `assemble`, and not among the sums."""


if __name__ == "__main__":
    main()
