# SPDX-License-Identifier: Apache-2.0
"""From parameters to covariance matrices on a GPU: universes of all sizes and windows in one launch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sigmahat_kernels import heartbeat
from sigmahat_kernels.asset_statistics import ASSET_STATISTICS
from sigmahat_kernels.backend import Array, array_namespace, to_numpy
from sigmahat_kernels.cuda import device, kernels
from sigmahat_kernels.gaps import missing_cells
from sigmahat_kernels.groups import (
    WindowGroup,
    batches_of,
    gather_parts,
    returns_together,
    rows_of,
    rows_of_windows,
    side_by_side,
    within_memory,
)
from sigmahat_kernels.parallel import Pause
from sigmahat_kernels.parameters import Parameters
from sigmahat_kernels.request import PADDING, Request
from sigmahat_kernels.shared_window import share_windows
from sigmahat_kernels.stale import without_stale

_LAUNCH_BYTES = 2**30
"""What the matrices of one launch may take, with the correlations that their kernel gathers or completes."""


def assemble_on_device(
    covariance: Array,
    request: Request,
    groups: Sequence[WindowGroup],
    parameters: Parameters,
    intensity: np.ndarray,
    winsor_limit: float | None,
    padding: float,
    pause: Pause,
) -> list[WindowGroup]:
    """Estimate the universes of some windows, in place; see `assemble.assemble`.

    Returns
    -------
    list of WindowGroup
        What is left to the array form: universes too large for a block's shared memory, or over too long a window.
    """
    left: list[WindowGroup] = []
    heads = _heads(parameters)

    def fill(batch: Sequence[WindowGroup]) -> None:
        pause()
        left.extend(_fill_batch(covariance, request, batch, heads, intensity, winsor_limit, padding))

    for batch in batches_of(request, groups):
        within_memory(fill, request, batch)
    return left


def _fill_batch(
    covariance: Array,
    request: Request,
    batch: Sequence[WindowGroup],
    heads: np.ndarray,
    intensity: np.ndarray,
    winsor_limit: float | None,
    padding: float,
) -> list[WindowGroup]:
    cuts = side_by_side(batch)
    returns, _ = without_stale(returns_together(request, batch))
    shared = share_windows(returns, cuts, rows_of(batch), winsor_limit=winsor_limit)
    window, products = shared.window, shared.blocks()
    xp = array_namespace(window.returns)
    incomplete = to_numpy(window.n_observed < window.n_rows)
    universes = np.concatenate([group.universes for group in batch])
    n_rows = rows_of_windows(request, universes)
    index = np.full((len(universes), covariance.shape[1]), PADDING, np.int32)
    positions = gather_parts(request, list(zip(batch, cuts, strict=True)))
    index[:, : positions.shape[1]] = positions
    held = index != PADDING
    with_gaps = (held & incomplete[index]).any(axis=1) if incomplete.any() else np.zeros(len(universes), bool)
    sizes, limit = held.sum(axis=1), device.shared_memory_limit()
    fits = kernels.assemble_shared_bytes(sizes) <= limit
    fits &= ~with_gaps | (kernels.complete_shared_bytes(len(returns), sizes) <= limit)
    taken = np.flatnonzero(fits)
    correlations = products.slow, products.fast
    cells = missing_cells(window) if with_gaps[taken].any() else None
    logs = xp.log(xp.concatenate([window.volatilities, window.kurtosis[None]]))
    scales = xp.asarray(list(ASSET_STATISTICS.values()))
    n_bytes = (
        covariance.itemsize * covariance.shape[1] ** 2
        + np.where(with_gaps, 16, 8)[taken] * sizes[taken].astype(np.int64) ** 2
    )
    launches = n_bytes.cumsum() // _LAUNCH_BYTES
    for some in np.split(taken, np.flatnonzero(np.diff(launches)) + 1) if len(taken) else []:
        rows, missing = universes[some], with_gaps[some]
        completed = (
            kernels.complete(device.launch, correlations, cells, index[some], missing, n_rows[some])
            if cells is not None and missing.any()
            else None
        )
        covariance[xp.asarray(rows)] = kernels.assemble(
            *(device.launch, correlations, logs, scales, index[some], heads[rows], intensity[rows], completed),
            dtype=covariance.dtype,
            padding=padding,
        )
        heartbeat.beat()
    done = np.zeros(len(covariance), bool)
    done[universes[taken]] = True
    remaining = (group._replace(universes=group.universes[~done[group.universes]]) for group in batch)
    return [group for group in remaining if len(group.universes)]


def _heads(parameters: Parameters) -> np.ndarray:
    """What the kernel reads of each universe's parameters, (n, 34) float64."""
    of = Parameters(*(np.asarray(head, np.float64) for head in parameters))
    weights = of.target_weights * of.target_intensity
    total = weights.sum(axis=1, keepdims=True)
    # All weights zero: nothing is shrunk, and any mix of targets does; see `covariance.shrink_correlation`.
    weights = np.where(total > 0, weights / np.where(total > 0, total, 1.0), 1.0 / weights.shape[1])
    tilts = (of.intensity_tilt, of.volatility_tilt)
    return np.concatenate([of.memory, of.factor_memory, weights[:, 1:], of.volatility, *tilts, of.level], axis=1)
