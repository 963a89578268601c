# SPDX-License-Identifier: Apache-2.0
"""The published list of features, and the one function that computes them for all universes of a request."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from sigmahat_kernels.backend import Array, array_namespace, to_numpy
from sigmahat_kernels.correlation import CORRELATION, correlation_features
from sigmahat_kernels.market import MARKET, market_features
from sigmahat_kernels.missing import MISSING, missing_features
from sigmahat_kernels.panel import FAST_HALFLIFE, column_status, correlation_factor, prepare_window
from sigmahat_kernels.parallel import available_threads, for_each, for_each_group
from sigmahat_kernels.regime import REGIME, market_series, regime_features
from sigmahat_kernels.request import PADDING, Request, WindowGroup, check_universes, group_by_window
from sigmahat_kernels.spectrum import SPECTRUM, correlation_spectrum, dual_spectrum, spectrum_features
from sigmahat_kernels.status import Status
from sigmahat_kernels.temporal import SEASON, TEMPORAL, season_features, temporal_features

FEATURES: dict[str, str] = {**SPECTRUM, **CORRELATION, **REGIME, **TEMPORAL, **SEASON, **MARKET, **MISSING}
"""Every feature and its definition, in the order of FEATURES' columns. The order is part of the protocol."""

FEATURE_NAMES = tuple(FEATURES)
N_FEATURES = len(FEATURES)

_CHUNK_CELLS = 128 * 1024
"""Cells of one stack of correlation matrices (1 MB in float64): the passes over it stay in the cache."""


class FeatureTable(NamedTuple):
    """Features of `n` universes."""

    features: np.ndarray  # (n, N_FEATURES) float32; NaN rows where the status is not GOOD
    status: np.ndarray  # (n,) int32, `Status` codes
    status_asset: np.ndarray  # (n,) int32, the offending entry of UNIVERSES, -1 where there is none


def compute_features(request: Request, *, threads: int | None = None) -> FeatureTable:
    """Compute all features of all universes; one that cannot be read gets a status, its neighbours their answers.

    The panel is standardised and multiplied out once per window, and every universe gathers its block.

    Parameters
    ----------
    request : Request
        As checked by `request.read_request`; on a GPU with a CuPy panel.
    threads : int, optional
        Python threads; default one per available core.
    """
    threads = threads or available_threads()
    status, status_asset = check_universes(request)
    features = np.full((len(status), N_FEATURES), np.nan, np.float32)
    table = FeatureTable(features, status, status_asset)
    groups = list(group_by_window(request, np.flatnonzero(status == Status.GOOD)))
    for_each_group(lambda group, threads: _fill_group(table, request, group, threads), groups, threads)
    return table


def _fill_group(table: FeatureTable, request: Request, group: WindowGroup, threads: int) -> None:
    """Compute the features of the universes of one window, in place."""
    returns = request.panel[group.start : group.stop][:, group.columns]
    group = refuse_columns(returns, request, group, table.status, table.status_asset)
    if not len(group.universes):
        return
    window = prepare_window(request.panel[group.start : group.stop][:, group.columns])
    xp = array_namespace(window.returns)
    slow = correlation_factor(window)
    fast = correlation_factor(window, halflife=FAST_HALFLIFE)
    slow_product, fast_product = slow.T @ slow, fast.T @ fast
    n_obs = len(slow)

    membership = xp.asarray(_membership(request, group))
    n_assets = membership.sum(axis=0)
    n_effective = window.n_observed @ membership / n_assets - 1.0
    series = market_series(window, slow, membership)
    # Ledoit and Wolf's pi-hat over pairs i != j on the correlation scale, before the squared correlations are taken
    # off: (1/n) sum_t (sum_i x_ti^2)^2 less the terms i = j, with x = sqrt(n) z; the double sum over assets factors.
    own = (slow**4).sum(axis=0) @ membership
    sampling_noise = n_effective * ((series.slow_norm**2).sum(axis=0) - own)

    shared = {
        **regime_features(window, series, membership),
        **temporal_features(series, n_assets),
        **missing_features(window, membership),
    }
    _store(table, group.universes, {name: to_numpy(values) for name, values in shared.items()})
    _store(table, group.universes, season_features(request.dates, group.stop))
    _store(table, group.universes, market_features(request.market, group.stop))

    def fill_chunk(chunk: np.ndarray) -> None:
        index = gather_index(request, group, chunk)
        rows = (index[:, :, None], index[:, None, :])
        correlation = slow_product[rows]
        if n_obs - 1 < index.shape[1]:
            eigenvalues = dual_spectrum(slow[:, index].transpose(1, 0, 2))
        else:
            eigenvalues = correlation_spectrum(correlation)
        values = {
            **spectrum_features(eigenvalues, n_obs, n_effective[chunk]),
            **correlation_features(correlation, fast_product[rows], sampling_noise[chunk], n_effective[chunk]),
        }
        _store(table, group.universes[chunk], {name: to_numpy(value) for name, value in values.items()})

    for_each(fill_chunk, chunks_by_size(request, group), threads)


def refuse_columns(
    returns: Array, request: Request, group: WindowGroup, status: np.ndarray, status_asset: np.ndarray
) -> WindowGroup:
    """Give universes that hold an unusable column its status, in place; return the group of those that remain."""
    codes = to_numpy(column_status(returns))
    if not codes.any():
        return group
    rows = request.universes[group.universes]
    held = rows != PADDING
    bad = np.where(held, codes[np.searchsorted(group.columns, np.where(held, rows, group.columns[0]))], 0)
    first = np.argmax(bad != 0, axis=1)
    picked = np.arange(len(rows)), first
    refused = bad[picked] != Status.GOOD
    status[group.universes[refused]] = bad[picked][refused]
    status_asset[group.universes[refused]] = rows[picked][refused]
    remaining = rows[~refused]
    return group._replace(
        universes=group.universes[~refused], columns=np.unique(remaining[remaining != PADDING]).astype(int)
    )


def chunks_by_size(request: Request, group: WindowGroup) -> Iterator[np.ndarray]:
    """Positions within the group, in chunks of universes of one size, so that their matrices stack."""
    sizes = (request.universes[group.universes] != PADDING).sum(axis=1)
    for size in np.unique(sizes)[::-1]:  # the large ones first: no thread is left with a long one at the end
        members = np.flatnonzero(sizes == size)
        per_chunk = max(1, _CHUNK_CELLS // int(size) ** 2)
        yield from (members[i : i + per_chunk] for i in range(0, len(members), per_chunk))


def gather_index(request: Request, group: WindowGroup, chunk: np.ndarray) -> np.ndarray:
    """Where the assets of a chunk of universes (all of one size) stand among the group's columns; (n, N)."""
    rows = request.universes[group.universes[chunk]]
    size = int((rows[0] != PADDING).sum())
    return np.searchsorted(group.columns, rows[:, :size])


def _membership(request: Request, group: WindowGroup) -> np.ndarray:
    """(m, n) matrix, 1.0 where a universe holds a column."""
    rows = request.universes[group.universes]
    universe, position = np.nonzero(rows != PADDING)
    membership = np.zeros((len(group.columns), len(rows)))
    membership[np.searchsorted(group.columns, rows[universe, position]), universe] = 1.0
    return membership


_COLUMN = {name: column for column, name in enumerate(FEATURE_NAMES)}


def _store(table: FeatureTable, universes: np.ndarray, values: dict[str, np.ndarray] | dict[str, float]) -> None:
    for name, value in values.items():
        table.features[universes, _COLUMN[name]] = value
