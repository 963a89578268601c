# SPDX-License-Identifier: Apache-2.0
"""Launches every kernel in every size class once: ``compute-sanitizer --tool racecheck python run_every_kernel.py``.

Numbers on its command line are sizes to take instead.
"""

from __future__ import annotations

import sys

import numpy as np

from sigmahat_kernels.cuda import device, kernels
from sigmahat_kernels.gaps import missing_cells
from sigmahat_kernels.shared_window import share_window
from sigmahat_kernels.solvers import OwnKernels


def main() -> None:
    """Launch, wait, and say so."""
    import cupy

    returns = np.random.default_rng(0).standard_normal((700, 330))
    product = cupy.asarray(np.corrcoef(returns.T))
    for precision in (np.float32, np.float64):
        own = OwnKernels(device.launch, precision, device.shared_memory_limit())
        for size in map(int, sys.argv[1:] or (2, 20, 40, 100, 200, 228, 300)):
            index = cupy.arange(2 * size).reshape(2, size) % 330
            if own.takes(size):
                own.eigvalsh(product, index)
    for size in (60, 300):
        pairs = own.pair_statistics((product, product, product), cupy.arange(2 * size).reshape(2, size) % 330)
        ones, sizes = cupy.ones((2, size)), cupy.full(2, size)
        own.matrix_features(ones, pairs, sizes, cupy.full(2, 700), cupy.full(2, 699.0), cupy.ones(2))
    index = np.array([[*range(60)], [*range(330, 350), *[-1] * 40]])  # of two windows and sizes
    of_columns = cupy.zeros((8, 660)), cupy.ones(12)
    stack = cupy.stack([product, product])
    with_gaps = returns.copy()
    with_gaps[:50, 3] = np.nan
    twice = share_window(cupy.asarray(np.concatenate([with_gaps, with_gaps], axis=1))).window
    cells = missing_cells(twice)
    completed = kernels.complete(
        device.launch, (stack, stack), cells, index, np.array([True, False]), np.array([700, 600])
    )
    heads, intensity = np.full((2, 34), 0.1), np.full((2, 60), 0.5)
    kernels.assemble(device.launch, (stack, stack), *of_columns, index, heads, intensity, completed)
    cupy.cuda.Device().synchronize()
    print("every kernel ran")


if __name__ == "__main__":
    main()
