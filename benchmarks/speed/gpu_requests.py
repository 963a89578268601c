# SPDX-License-Identifier: Apache-2.0
"""Whole requests on a GPU, features and matrices, and what crosses the bus, into ``results/gpu_requests.json``.

``python -m benchmarks.speed.gpu_requests`` runs on one GPU in some three minutes, from host memory to host memory, wall
clock unless said otherwise: universes of one size and of mixed sizes, over one window and over many, of one length or
all from the first row on; how much of it the kernels take; risk of portfolios; float32 first, and again in float64
where that does not do; copies.
"""

from __future__ import annotations

import cProfile
import pstats
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.figures import RESULTS
from benchmarks.speed.gpu_measurement import Measurement, draw_panel, draw_universes, needs_gpu, options
from sigmahat_kernels import solvers
from sigmahat_kernels.assemble import assemble
from sigmahat_kernels.backend import to_numpy
from sigmahat_kernels.cuda import device
from sigmahat_kernels.features import compute_features
from sigmahat_kernels.parameters import N_PARAMETERS, split_parameters
from sigmahat_kernels.portfolios import read_portfolios
from sigmahat_kernels.request import PADDING, Request, read_request
from sigmahat_kernels.risk import measure_portfolios

N_OBS, STEP = 252, 21
MIXED = (20, 50, 100, 150, 200)
"""Sizes of a request of mixed sizes; those of its neighbours of one size, whose mean time it is compared with."""

N_WINDOWS = (1, 24)
N_PORTFOLIOS = 3
TRANSFERRED = 4_096 * 100**2
"""float32 cells of the matrices of 4,096 universes of 100: 164 MB."""


def request_of(
    m: Measurement, panel: np.ndarray, sizes: Sequence[int], n_windows: int, seed: int, *, expanding: bool = False
) -> Request:
    """Universes spread evenly over sizes and windows, in no order; the panel in host memory.

    Windows of one length, or, `expanding`, all from the first row on.
    """
    n = m.scale.universes
    each = np.random.default_rng(seed).permutation(np.resize(sizes, n))
    universes = np.full((n, max(sizes)), PADDING, np.int32)
    for size in sorted(set(sizes)):
        rows = np.flatnonzero(each == size)
        universes[rows, :size] = draw_universes(len(rows), size, panel.shape[1], seed)
    n_obs = min(N_OBS, len(panel) - STEP * (n_windows - 1))
    start = STEP * (np.arange(n) * n_windows // n)
    first = np.zeros_like(start) if expanding else start
    return read_request(panel, universes, np.stack([first, start + n_obs], axis=1).astype(np.int32))


def there(m: Measurement, request: Request) -> Request:
    """The request with its panel on the device."""
    return request._replace(panel=m.cupy.asarray(request.panel))


def wall_seconds(m: Measurement, work: Callable[[int], object]) -> float:
    """Median time of `work(turn)` after two warm-ups; all of it must be done when it returns."""
    times = []
    for turn in range(m.scale.repeats + 2):
        begin = time.perf_counter()
        work(turn)
        m.cupy.cuda.Device().synchronize()
        times.append(time.perf_counter() - begin)
    return float(np.median(times[2:]))


@contextmanager
def timed_kernels(m: Measurement) -> Iterator[dict[str, float]]:
    """Seconds on the device of every own kernel that is launched meanwhile, by name; known at the end."""
    launches: list[tuple[str, Any, Any]] = []
    real = device.compiled

    def compiled(program: Any, number: int) -> Callable[..., None]:
        def launch(*arguments: Any, **keywords: Any) -> None:
            begin, end = m.cupy.cuda.Event(), m.cupy.cuda.Event()
            begin.record()
            real(program, number)(*arguments, **keywords)
            end.record()
            launches.append((program.name, begin, end))

        return launch

    found: dict[str, float] = {}
    with mock.patch.object(device, "compiled", compiled):
        yield found
    m.cupy.cuda.Device().synchronize()
    total = Counter[str]()
    for name, begin, end in launches:
        total[name] += 1e-3 * m.cupy.cuda.get_elapsed_time(begin, end)
    found.update(total)


def measure_requests(
    m: Measurement, panel: np.ndarray, name: str, sizes: Sequence[int], n_windows: int, *, expanding: bool = False
) -> None:
    """Features, then matrices."""
    seeds = range(m.scale.rotations)
    requests = [request_of(m, panel, sizes, n_windows, seed, expanding=expanding) for seed in seeds]
    measure_step(m, f"features_{name}", requests, compute_features)
    print("Where the host's time of one call of features goes:")
    with cProfile.Profile() as profile:
        compute_features(there(m, requests[0]))
    pstats.Stats(profile, stream=sys.stdout).sort_stats("tottime").print_stats(10)
    requests = [_within_limit(request) for request in requests]
    n = len(requests[0].universes)
    parameters, good = split_parameters(np.full((n, N_PARAMETERS), 0.2)), np.zeros(n, np.int32)
    measure_step(m, f"matrices_{name}", requests, lambda request: to_numpy(assemble(request, parameters, good)))


def measure_step(m: Measurement, name: str, requests: Sequence[Request], work: Callable[[Request], object]) -> None:
    """Universes a second, and how long the kernels of one request take."""
    seconds = wall_seconds(m, lambda turn: work(there(m, requests[turn % len(requests)])))
    m.record(f"{name}_per_second", len(requests[0].universes) / seconds)
    with timed_kernels(m) as of_kernels:
        work(there(m, requests[0]))
    for kernel, taken in of_kernels.items():
        m.record(f"{name}_{kernel}_seconds", taken)
    m.record(f"{name}_share_of_kernels", sum(of_kernels.values()) / seconds)


def _within_limit(request: Request, cells: int = 2**28) -> Request:
    """So many universes that their matrices are 1 GB."""
    n = min(len(request.universes), cells // request.universes.shape[1] ** 2)
    return request._replace(universes=request.universes[:n], windows=request.windows[:n])


def measure_risk(m: Measurement, panel: np.ndarray, name: str, sizes: Sequence[int], n_windows: int) -> None:
    """Risk of some portfolios, then with those of least variance."""
    request = _within_limit(request_of(m, panel, sizes, n_windows, seed=0))
    n, n_columns = len(request.universes), panel.shape[1]
    parameters, good = split_parameters(np.full((n, N_PARAMETERS), 0.2)), np.zeros(n, np.int32)
    books = np.random.default_rng(1).standard_normal((N_PORTFOLIOS, n_columns))
    portfolios = read_portfolios(request, portfolios=books)

    def measured(request: Request, minimum_variance: bool) -> object:
        return measure_portfolios(request, parameters, good, portfolios, minimum_variance=minimum_variance)

    measure_step(m, f"risk_{name}", [request], partial(measured, minimum_variance=False))
    measure_step(m, f"least_variance_{name}", [request], partial(measured, minimum_variance=True))


def compare_mixed(m: Measurement, sizes: Sequence[int], n_windows: int) -> None:
    """Time of mixed sizes over the mean of the times of one size each: 1 is as good as it gets."""
    of_one = [1.0 / m.figures[f"features_n{size}_w{n_windows}_per_second"] for size in sizes]
    mixed = 1.0 / m.figures[f"features_mixed_w{n_windows}_per_second"]
    m.record(f"mixed_over_equal_w{n_windows}", mixed / float(np.mean(of_one)))
    if (expanding := f"features_expanding_w{n_windows}_per_second") in m.figures:
        m.record(f"expanding_over_one_length_w{n_windows}", 1.0 / m.figures[expanding] / mixed)


def measure_refinement(m: Measurement, panel: np.ndarray, size: int, n_obs: int) -> None:
    """Features with float32 first, as on a card whose float64 is slow, over those in float64 throughout."""
    request = request_of(m, panel[-n_obs:], [size], 1, seed=0)
    seconds = []
    for ratio in (2, 64):
        solvers._steps_on_device.cache_clear()
        with mock.patch.object(device, "single_to_double_ratio", lambda ratio=ratio: ratio):
            seconds.append(wall_seconds(m, lambda turn: compute_features(there(m, request))))
    solvers._steps_on_device.cache_clear()
    m.record(f"float32_first_over_float64_n{size}_t{n_obs}", seconds[1] / seconds[0])


def measure_transfers(m: Measurement) -> None:
    """GB a second between host and device, of ordinary and of page-locked memory."""
    cells = min(TRANSFERRED, m.scale.cells)
    ordinary = np.random.default_rng(0).random(cells, np.float32)
    pinned = np.frombuffer(m.cupy.cuda.alloc_pinned_memory(ordinary.nbytes), np.float32, cells)
    pinned[...] = ordinary
    on_device = m.cupy.asarray(ordinary)
    ways: dict[str, Callable[[int], object]] = {
        "to_device_ordinary": lambda _: m.cupy.asarray(ordinary),
        "to_device_pinned": lambda _: m.cupy.asarray(pinned),
        "to_host_new": lambda _: on_device.get(),
        "to_host_ordinary": lambda _: on_device.get(out=ordinary),
        "to_host_pinned": lambda _: on_device.get(out=pinned),
    }
    for name, copy in ways.items():
        m.record(f"{name}_gb_per_second", ordinary.nbytes / wall_seconds(m, copy) / 1e9)


def main() -> int:
    """Measure, print, write; 1 if a part failed."""
    parser = options(__doc__, RESULTS / "gpu_requests.json", seconds=240.0)
    parser.add_argument("--sizes", type=int, nargs="+", default=MIXED, help="assets of a universe")
    parser.add_argument("--windows", type=int, nargs="+", default=N_WINDOWS, help="windows of a request")
    arguments = parser.parse_args()
    needs_gpu(parser)
    m = Measurement(arguments)
    panel = draw_panel(m.scale.rows, m.scale.columns)
    m.part("transfers", measure_transfers, m)
    for n_windows in arguments.windows:
        of_mixed = f"mixed_w{n_windows}"
        m.part(of_mixed, measure_requests, m, panel, of_mixed, arguments.sizes, n_windows)
        for size in arguments.sizes:
            name = f"n{size}_w{n_windows}"
            m.part(name, measure_requests, m, panel, name, [size], n_windows)
        if n_windows > 1:
            expanding = f"expanding_w{n_windows}"
            from_the_first_row = partial(measure_requests, expanding=True)
            m.part(expanding, from_the_first_row, m, panel, expanding, arguments.sizes, n_windows)
        m.part(f"risk_{of_mixed}", measure_risk, m, panel, of_mixed, arguments.sizes, n_windows)
        m.part(f"comparison_w{n_windows}", compare_mixed, m, arguments.sizes, n_windows)
    size = sorted(arguments.sizes)[len(arguments.sizes) // 2]
    for n_obs in (size + 4, min(N_OBS, m.scale.rows)):
        m.part(f"refinement_t{n_obs}", measure_refinement, m, panel, size, n_obs)
    return m.finish()


if __name__ == "__main__":
    sys.exit(main())
