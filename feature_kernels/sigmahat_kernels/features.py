# SPDX-License-Identifier: Apache-2.0
"""The published list of features, and the one function that computes them for all universes of a request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sigmahat_kernels import heartbeat, missing, regime, temporal
from sigmahat_kernels.backend import Array, array_namespace, to_numpy
from sigmahat_kernels.correlation import CORRELATION, correlation_features
from sigmahat_kernels.groups import (
    WindowGroup,
    batches_of,
    chunks_by_size,
    gather_index,
    group_by_window,
    membership_of,
    parts_of,
    refuse_columns,
)
from sigmahat_kernels.market import MARKET, market_features
from sigmahat_kernels.missing import MISSING
from sigmahat_kernels.oddities import Warnings, flag_assets, flag_universes
from sigmahat_kernels.pairs import PairStatistics
from sigmahat_kernels.panel import FAST_HALFLIFE, Window, correlation_factor, prepare_window
from sigmahat_kernels.parallel import Pause, available_threads, for_each, for_each_group, go_on
from sigmahat_kernels.regime import REGIME, SPREADS, MarketSeries, asset_series, market_series, regime_features
from sigmahat_kernels.request import Request, check_universes
from sigmahat_kernels.scratch import Scratch
from sigmahat_kernels.shared_window import KeptMoments, Products, SharedWindow, multiply_out
from sigmahat_kernels.solvers import Solver, choose_solver
from sigmahat_kernels.spectrum import SPECTRUM, spectrum_features
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
    warnings: Warnings  # none where the status is not GOOD
    solvers: tuple[str, ...]  # who computed the spectra: "lapack", "kernels-float64" ...


def compute_features(
    request: Request,
    *,
    threads: int | None = None,
    solver: str | None = None,
    kept: KeptMoments | None = None,
    pause: Pause = go_on,
) -> FeatureTable:
    """Compute all features of all universes; one that cannot be read gets a status, its neighbours their answers.

    The panel is standardised and multiplied out once per window, and every universe gathers its block.

    Parameters
    ----------
    request : Request
        As checked by `request.read_request`; on a GPU with a CuPy panel.
    threads : int, optional
        Python threads; default one per available core, on a GPU one: its work is not on this side.
    solver : str, optional
        One of `solvers.SOLVERS`, who computes the spectra; default the best that there is for where the panel lies.
    kept : KeptMoments, optional
        Takes what `assemble.assemble` needs of each window, so that it does not compute it once more.
    pause : callable
        Called between slices of a few universes; no number depends on it.

    Raises
    ------
    SolverError
        If that solver cannot run.
    """
    chosen = choose_solver(request.panel, solver)
    threads = threads or (available_threads() if array_namespace(request.panel) is np else 1)
    status, status_asset = check_universes(request)
    features = np.full((len(status), N_FEATURES), np.nan, np.float32)
    warnings = Warnings(np.zeros(len(status), np.int32), np.zeros(request.universes.shape, np.int32))
    table = FeatureTable(features, status, status_asset, warnings, ())
    groups = list(group_by_window(request, np.flatnonzero(status == Status.GOOD)))
    for_each_group(
        lambda batch, threads: _fill_batch(table, request, batch, chosen, kept, pause, threads),
        list(batches_of(request, groups)),
        threads,
    )
    good = np.flatnonzero(status == Status.GOOD)
    own = flag_universes(request._replace(universes=request.universes[good], windows=request.windows[good]))
    warnings.of_universe[good] = own | np.bitwise_or.reduce(warnings.of_asset[good], axis=1)
    return table._replace(solvers=tuple(sorted(chosen.used)))


class _Summands(NamedTuple):
    """What the features sum over the assets of each universe of a window; m columns, T rows."""

    products: Products
    factor: Array  # (m, T) Z' with Z'Z the correlation
    series: Array  # (k, T, m), see `asset_series`
    averages: Array  # (len(names), m), what is averaged over a universe's assets
    names: tuple[str, ...]


class _Measured(NamedTuple):
    """What the features of n universes are made of, from windows of one length."""

    n_assets: Array  # (n,)
    averages: Array  # (len(names), n)
    series: MarketSeries
    eigenvalues: Array  # (n, width), zeros in front
    pairs: PairStatistics  # row sums with zeros behind


def _summands(window: Window, slow: Array, fast: Array, cuts: Sequence[slice]) -> list[_Summands]:
    """Of several windows whose columns stand side by side, from their correlation factors; of each by itself."""
    xp = array_namespace(slow)
    averages = {
        **regime.asset_averages(window),
        **temporal.asset_averages(window),
        **missing.asset_averages(window),
        "n_observed": window.n_observed,
        "fourth_moment": (slow**2 * slow**2).sum(axis=0),
    }
    for spread, of in SPREADS.items():
        # Around a common centre first: the difference of two large numbers would lose the digits.
        averages[spread] = xp.concatenate([averages[of][cut] - averages[of][cut].mean() for cut in cuts])
        averages[f"{spread}_square"] = averages[spread] ** 2
    heartbeat.beat()
    series, stacked, names = asset_series(window, slow), xp.stack(list(averages.values())), tuple(averages)
    return [
        _Summands(
            multiply_out(slow[:, cut], fast[:, cut]),
            xp.ascontiguousarray(slow[:, cut].T),
            series[..., cut],
            stacked[:, cut],
            names,
        )
        for cut in cuts
    ]


def _fill_batch(
    table: FeatureTable,
    request: Request,
    batch: Sequence[WindowGroup],
    solver: Solver,
    kept: KeptMoments | None,
    pause: Pause,
    threads: int,
) -> None:
    """Compute the features of the universes of some windows, in place; keep what their matrices will need."""
    pause()
    usable = refuse_columns(request, batch, table.status, table.status_asset)
    if not usable.groups:
        return
    window = prepare_window(usable.returns)
    slow, fast = correlation_factor(window), correlation_factor(window, halflife=FAST_HALFLIFE)
    heartbeat.beat()
    summands = _summands(window, slow, fast, usable.cuts)
    for group, cut, own in zip(usable.groups, usable.cuts, summands, strict=True):
        shared = SharedWindow(window.columns(cut), slow[:, cut], own.products)
        if kept is not None:
            kept.keep(group, shared.moments)
        odd = flag_assets(request, group, usable.stale[cut], shared.window, own.products.slow)
        if odd is not None:
            table.warnings.of_asset[group.universes] = odd

    def fill(parts: Sequence[tuple[WindowGroup, _Summands]]) -> None:
        measured = _joined([_measure_part(request, part, own, solver, pause) for part, own in parts])
        values = _features_of(measured, len(slow), summands[0].names)
        universes = np.concatenate([part.universes for part, _ in parts])
        columns = [_COLUMN[name] for name in values]
        table.features[universes[:, None], columns] = to_numpy(xp.stack(list(values.values()), axis=1))
        for part, _ in parts:
            of_window = {**season_features(request.dates, part.stop), **market_features(request.market, part.stop)}
            columns = [_COLUMN[name] for name in of_window]
            table.features[part.universes[:, None], columns] = list(of_window.values())

    xp = array_namespace(request.panel)
    parts = [(part, own) for group, own in zip(usable.groups, summands, strict=True) for part in parts_of(request, group)]
    for_each(fill, [[part] for part in parts] if len(batch) == 1 else [parts], threads)


def _measure_part(
    request: Request, part: WindowGroup, summands: _Summands, solver: Solver, pause: Pause = go_on
) -> _Measured:
    """Sums over the assets of each universe of a part of a window, and over the pairs of them; spectra."""
    xp = array_namespace(summands.factor)
    membership = membership_of(request, part)
    n_assets = membership.sum(axis=0).astype(xp.int64)
    eigenvalues, pairs = _solve_part(request, part, summands, solver, pause)
    averages = summands.averages @ membership / n_assets
    return _Measured(n_assets, averages, market_series(summands.series, membership), eigenvalues, pairs)


def _joined(measured: Sequence[_Measured]) -> _Measured:
    """All universes of several parts in one."""
    first = measured[0]
    if len(measured) == 1:
        return first
    xp = array_namespace(first.n_assets)
    width = max(part.eigenvalues.shape[1] for part in measured)

    def joined(arrays: Sequence[Array], axis: int = 0) -> Array:
        return xp.concatenate(arrays, axis=axis)

    def widened(values: Array, *, in_front: bool) -> Array:
        wide = xp.zeros((len(values), width))
        wide[:, width - values.shape[1] if in_front else 0 :][:, : values.shape[1]] = values
        return wide

    pairs = [part.pairs._replace(row_sum=widened(part.pairs.row_sum, in_front=False)) for part in measured]
    return _Measured(
        joined([part.n_assets for part in measured]),
        joined([part.averages for part in measured], axis=1),
        MarketSeries(*(joined(arrays, axis=-1) for arrays in zip(*(part.series for part in measured), strict=True))),
        joined([widened(part.eigenvalues, in_front=True) for part in measured]),
        PairStatistics(*(joined(arrays) for arrays in zip(*pairs, strict=True))),
    )


def _features_of(measured: _Measured, n_obs: int, names: tuple[str, ...]) -> dict[str, Array]:
    """All features that depend on the universe's returns: name -> (n,)."""
    n_assets, series = measured.n_assets, measured.series
    xp = array_namespace(n_assets)
    averages = dict(zip(names, measured.averages, strict=True))
    for spread in SPREADS:
        averages[spread] = xp.sqrt(xp.maximum(averages.pop(f"{spread}_square") - averages[spread] ** 2, 0.0))
    n_effective = averages.pop("n_observed") - 1.0
    # Ledoit and Wolf's pi-hat over pairs i != j on the correlation scale, before the squared correlations are taken
    # off: (1/n) sum_t (sum_i x_ti^2)^2 less the terms i = j, with x = sqrt(n) z; the double sum over assets factors.
    own = averages.pop("fourth_moment") * n_assets
    sampling_noise = n_effective * ((series.slow_norm**2).sum(axis=0) - own)
    return {
        **spectrum_features(measured.eigenvalues, n_assets, n_obs, n_effective),
        **correlation_features(measured.pairs, n_assets, sampling_noise, n_effective),
        **averages,
        **regime_features(series),
        **temporal_features(series, n_assets),
    }


def _solve_part(
    request: Request, part: WindowGroup, summands: _Summands, solver: Solver, pause: Pause
) -> tuple[Array, PairStatistics]:
    """Eigenvalues, zeros in front, and pair statistics, row sums with zeros behind, of a part's universes."""
    xp = array_namespace(summands.factor)
    chunks = list(chunks_by_size(request, part))
    indices = [xp.asarray(gather_index(request, part, chunk)) for chunk in chunks]
    width = max(index.shape[1] for index in indices)
    scratch = Scratch(xp)
    eigenvalues = xp.zeros((len(part.universes), width))
    collected: dict[str, Array] = {}
    for chunk, index in zip(chunks, indices, strict=True):
        pause()
        where = xp.asarray(chunk)
        n_assets = index.shape[1]
        values, pairs = solver.measure(summands.products, summands.factor, index, scratch)
        heartbeat.beat()
        eigenvalues[where, width - n_assets :] = values
        for name, value in pairs._asdict().items():
            full_shape = (len(eigenvalues), *((width,) if name == "row_sum" else value.shape[1:]))
            target = collected.setdefault(name, xp.zeros(full_shape))
            target[(where, slice(value.shape[1])) if value.ndim == 2 else where] = value
    return eigenvalues, PairStatistics(**collected)


_COLUMN = {name: column for column, name in enumerate(FEATURE_NAMES)}
