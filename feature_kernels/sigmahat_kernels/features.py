# SPDX-License-Identifier: Apache-2.0
"""The published list of features, and the one function that computes them for all universes of a request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sigmahat_kernels import heartbeat, missing, regime, temporal
from sigmahat_kernels.backend import Array, array_namespace, to_numpy
from sigmahat_kernels.correlation import CORRELATION
from sigmahat_kernels.groups import (
    Memberships,
    Part,
    StackedMemberships,
    WindowGroup,
    batches_of,
    gather_parts,
    group_by_window,
    membership_of,
    packs_of,
    parts_of,
    refuse_columns,
    rows_of,
    rows_of_windows,
    within_memory,
)
from sigmahat_kernels.market import MARKET, market_features
from sigmahat_kernels.missing import MISSING
from sigmahat_kernels.oddities import Warnings, flag_assets, flag_universes, odd_columns
from sigmahat_kernels.pairs import PairStatistics
from sigmahat_kernels.parallel import Pause, for_each, for_each_group, go_on, threads_for
from sigmahat_kernels.regime import LOG_VOLATILITY, REGIME, SPREADS, regime_features
from sigmahat_kernels.request import PADDING, Request, check_universes
from sigmahat_kernels.scratch import Scratch
from sigmahat_kernels.shared_window import KeptMoments, Products, SharedWindows, share_windows
from sigmahat_kernels.solvers import Solver, choose_solver
from sigmahat_kernels.spectrum import SPECTRUM
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
        Python threads; default one per available core. On a GPU there is one: its work is not on this side.
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
    threads = threads_for(request.panel, threads)
    status, status_asset = check_universes(request)
    features = np.full((len(status), N_FEATURES), np.nan, np.float32)
    warnings = Warnings(np.zeros(len(status), np.int32), np.zeros(request.universes.shape, np.int32))
    table = FeatureTable(features, status, status_asset, warnings, ())
    groups = list(group_by_window(request, np.flatnonzero(status == Status.GOOD)))

    def fill(batch: Sequence[WindowGroup], threads: int) -> None:
        def fill_some(groups: Sequence[WindowGroup]) -> None:
            whole = groups is batch  # moments of a part of a window's universes would be of no use to the others
            _fill_batch(table, request, groups, chosen, kept if whole else None, pause, threads)

        within_memory(fill_some, request, batch)

    for_each_group(fill, list(batches_of(request, groups)), threads)
    good = np.flatnonzero(status == Status.GOOD)
    own = flag_universes(request._replace(universes=request.universes[good], windows=request.windows[good]))
    warnings.of_universe[good] = own | np.bitwise_or.reduce(warnings.of_asset[good], axis=1)
    return table._replace(solvers=tuple(sorted(chosen.used)))


class _Summands(NamedTuple):
    """What the features sum over the assets of each universe of some windows; m columns side by side, T rows."""

    products: Products  # (m, m) each, see `SharedWindows.blocks`
    factor: Array  # (m, T) Z' with Z'Z the correlation
    series: Array  # see `Solver.asset_series`
    averages: dict[str, Array]  # name -> (m,), what is averaged over a universe's assets


def _summands(shared: SharedWindows, solver: Solver) -> _Summands:
    window, factor = shared.window, shared.factor
    xp = array_namespace(factor)
    averages = {
        **regime.asset_averages(window),
        **temporal.asset_averages(window),
        **missing.asset_averages(window),
        "n_effective": window.n_effective,
        "fourth_moment": (factor**2 * factor**2).sum(axis=0),
    }
    for spread, of in SPREADS.items():
        # Around a common centre first: the difference of two large numbers would lose the digits.
        averages[spread] = shared.around_means(averages[of])
        averages[f"{spread}_square"] = averages[spread] ** 2
    heartbeat.beat()
    series = solver.asset_series(window, factor)
    return _Summands(shared.blocks(), xp.ascontiguousarray(factor.T), series, averages)


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
    all_shared = share_windows(usable.returns, usable.cuts, rows_of(usable.groups))
    heartbeat.beat()
    for group, odd in zip(usable.groups, odd_columns(all_shared, usable.stale, usable.groups), strict=True):
        if odd is not None:
            table.warnings.of_asset[group.universes] = flag_assets(request, group, odd)
    if kept is not None:
        for group, shared in zip(usable.groups, all_shared.each(), strict=True):
            kept.keep(group, shared.moments)
    summands = _summands(all_shared, solver)

    def fill(parts: Sequence[Part]) -> None:
        values = _measure_parts(request, parts, summands, solver, pause)
        xp = array_namespace(request.panel)
        rows = np.empty((len(values["log_assets"]), N_FEATURES), np.float32)
        measured = [name for name in FEATURE_NAMES if name in values]
        of_universes = to_numpy(xp.stack([values[name] for name in measured], axis=1).astype(xp.float32))
        rows[:, [_COLUMN[name] for name in measured]] = of_universes
        start = 0
        for part, _ in parts:
            of_window = {**season_features(request.dates, part.stop), **market_features(request.market, part.stop)}
            own = rows[start : start + len(part.universes)]
            own[:, [_COLUMN[name] for name in of_window]] = list(of_window.values())
            start += len(own)
        table.features[np.concatenate([part.universes for part, _ in parts])] = rows

    parts = [
        (part, cut) for group, cut in zip(usable.groups, usable.cuts, strict=True) for part in parts_of(request, group)
    ]
    for_each(fill, packs_of(request, parts), threads)


def _measure_parts(
    request: Request, parts: Sequence[Part], summands: _Summands, solver: Solver, pause: Pause = go_on
) -> dict[str, Array]:
    """All features that depend on the universe's returns, of all parts one after the other: name -> (n,)."""
    xp = array_namespace(summands.factor)
    stacked = xp.stack(list(summands.averages.values()))
    index = gather_parts(request, parts)
    n_assets = xp.asarray((index != PADDING).sum(axis=1))
    slow = summands.products.slow
    memberships = (
        Memberships([(cut, membership_of(request, part)) for part, cut in parts])
        if slow.ndim == 2
        else StackedMemberships(index, slow)
    )
    averages = dict(zip(summands.averages, memberships.sum(stacked) / n_assets, strict=True))
    for spread in SPREADS:
        averages[spread] = xp.sqrt(xp.maximum(averages.pop(f"{spread}_square") - averages[spread] ** 2, 0.0))
    n_effective = averages.pop("n_effective") - 1.0
    mean_log_volatility = averages.pop(LOG_VOLATILITY)
    universes = np.concatenate([part.universes for part, _ in parts])
    n_rows = rows_of_windows(request, universes)
    moments = solver.series_moments(summands.series, memberships, index, n_rows)
    # Ledoit and Wolf's pi-hat over pairs i != j on the correlation scale, before the squared correlations are taken
    # off: (1/n) sum_t (sum_i x_ti^2)^2 less the terms i = j, with x = sqrt(n) z; the double sum over assets factors.
    own = averages.pop("fourth_moment") * n_assets
    sampling_noise = n_effective * (moments.norm_square - own)

    eigenvalues, pairs = _solve_parts(request, parts, index, summands, solver, pause)
    n_obs = xp.asarray(n_rows)
    return {
        **solver.matrix_features(eigenvalues, pairs, n_assets, n_obs, n_effective, sampling_noise),
        **averages,
        **regime_features(moments, mean_log_volatility, n_obs),
        **temporal_features(moments, n_assets, n_obs),
    }


def _solve_parts(
    request: Request, parts: Sequence[Part], index: np.ndarray, summands: _Summands, solver: Solver, pause: Pause
) -> tuple[Array, PairStatistics]:
    """Eigenvalues, zeros in front, and pair statistics, row sums with zeros behind, of all universes of the parts."""
    xp = array_namespace(summands.factor)
    together = parts[0][0]._replace(universes=np.concatenate([part.universes for part, _ in parts]))
    n_rows = rows_of_windows(request, together.universes)
    sizes, width = (index != PADDING).sum(axis=1), index.shape[1]
    scratch = Scratch(xp)
    eigenvalues = xp.zeros((len(index), width))
    collected: dict[str, Array] = {}
    for chunk in solver.chunks(request, together):
        pause()
        n_assets, n_obs = int(sizes[chunk].max()), int(n_rows[chunk].max())
        factor = summands.factor[:, -n_obs:]
        values, pairs = solver.measure(summands.products, factor, index[chunk, :n_assets], scratch)
        heartbeat.beat()
        if np.array_equal(chunk, np.arange(len(index))):
            return values, pairs
        where = xp.asarray(chunk)
        eigenvalues[where, width - n_assets :] = values
        for name, value in pairs._asdict().items():
            full_shape = (len(eigenvalues), *((width,) if name == "row_sum" else value.shape[1:]))
            target = collected.setdefault(name, xp.zeros(full_shape))
            target[(where, slice(value.shape[1])) if value.ndim == 2 else where] = value
    return eigenvalues, PairStatistics(**collected)


_COLUMN = {name: column for column, name in enumerate(FEATURE_NAMES)}
