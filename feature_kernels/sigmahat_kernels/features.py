# SPDX-License-Identifier: Apache-2.0
"""The published list of features, and the one function that computes them for all universes of a request."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sigmahat_kernels.backend import array_namespace, to_numpy
from sigmahat_kernels.correlation import CORRELATION, correlation_features
from sigmahat_kernels.groups import (
    WindowGroup,
    chunks_by_size,
    gather_index,
    group_by_window,
    group_returns,
    membership_of,
    refuse_columns,
)
from sigmahat_kernels.market import MARKET, market_features
from sigmahat_kernels.missing import MISSING, missing_features
from sigmahat_kernels.panel import FAST_HALFLIFE, correlation_factor, prepare_window
from sigmahat_kernels.parallel import available_threads, for_each, for_each_group
from sigmahat_kernels.regime import REGIME, market_series, regime_features
from sigmahat_kernels.request import Request, check_universes
from sigmahat_kernels.spectrum import SPECTRUM, correlation_spectrum, dual_spectrum, spectrum_features
from sigmahat_kernels.status import Status
from sigmahat_kernels.temporal import SEASON, TEMPORAL, season_features, temporal_features

FEATURES: dict[str, str] = {**SPECTRUM, **CORRELATION, **REGIME, **TEMPORAL, **SEASON, **MARKET, **MISSING}
"""Every feature and its definition, in the order of FEATURES' columns. The order is part of the protocol."""

FEATURE_NAMES = tuple(FEATURES)
N_FEATURES = len(FEATURES)


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
    group = refuse_columns(request, group, table.status, table.status_asset)
    if not len(group.universes):
        return
    window = prepare_window(group_returns(request, group))
    xp = array_namespace(window.returns)
    slow = correlation_factor(window)
    fast = correlation_factor(window, halflife=FAST_HALFLIFE)
    slow_product, fast_product = slow.T @ slow, fast.T @ fast
    n_obs = len(slow)

    membership = xp.asarray(membership_of(request, group))
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
        index = xp.asarray(gather_index(request, group, chunk))
        rows = (index[:, :, None], index[:, None, :])
        where = xp.asarray(chunk)
        correlation = slow_product[rows]
        if n_obs - 1 < index.shape[1]:
            eigenvalues = dual_spectrum(slow[:, index].transpose(1, 0, 2))
        else:
            eigenvalues = correlation_spectrum(correlation)
        values = {
            **spectrum_features(eigenvalues, n_obs, n_effective[where]),
            **correlation_features(correlation, fast_product[rows], sampling_noise[where], n_effective[where]),
        }
        _store(table, group.universes[chunk], {name: to_numpy(value) for name, value in values.items()})

    for_each(fill_chunk, chunks_by_size(request, group), threads)


_COLUMN = {name: column for column, name in enumerate(FEATURE_NAMES)}


def _store(table: FeatureTable, universes: np.ndarray, values: dict[str, np.ndarray] | dict[str, float]) -> None:
    for name, value in values.items():
        table.features[universes, _COLUMN[name]] = value
