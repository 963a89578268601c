# SPDX-License-Identifier: Apache-2.0
"""Training samples: features, correlations and volatilities of a universe, and the returns that followed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console

from sigmahat_kernels.asset_statistics import asset_statistics
from sigmahat_kernels.fast_factors import leading_factors
from sigmahat_kernels.features import compute_features
from sigmahat_kernels.parameters import VOLATILITY_BASES
from sigmahat_kernels.request import read_request
from sigmahat_kernels.scratch import Scratch
from sigmahat_kernels.shared_window import share_window
from sigmahat_kernels.stale import without_stale
from sigmahat_kernels.status import Status
from sigmahat_trainer.data.baskets import LEAST_ASSETS, draw_baskets
from sigmahat_trainer.data.markets import panel_shares
from sigmahat_trainer.data.panels import ReturnPanel
from sigmahat_trainer.data.simulate import TRAINING_DESIGNS
from sigmahat_trainer.progress import track

SIZES = (5, 10, 20, 35, 50, 75, 100, 150, 200, 300, 500)
SIZE_WEIGHTS = np.array([1, 2, 3, 3, 4, 4, 5, 2, 1, 0.25, 0.08])
"""Large universes are rare here because each costs as much as hundreds of small ones."""

WINDOW_LENGTHS = (30, 42, 63, 126, 189, 252, 252, 252, 378, 504, 756, 1000)
UNIVERSES_PER_WINDOW = 6
BASKET_SHARE = 0.15
"""Share of the draws of real returns whose universes are funds made of the panel's assets."""

MIN_COVERAGE = 0.95
LOOSE_COVERAGE = 0.4
"""Share of the window's rows in which an asset needs a return; the loose one in every tenth window."""


class Sample(NamedTuple):
    """What training learns from: one universe in one window, and the `H` periods after it; `N` assets."""

    features: np.ndarray  # (F,) float32
    slow: np.ndarray  # (N, N) float32, correlation by `panel.Window.weights`
    fast: np.ndarray  # (N, N) float32, exponentially weighted
    loadings: np.ndarray  # (N, 3) float32, of `fast` on its leading factors, `fast_factors.leading_factors`
    log_volatility: np.ndarray  # (3, N) float32, in the order of `parameters.VOLATILITY_BASES`
    asset_statistics: np.ndarray  # (N, N_ASSET_STATISTICS) float32, `asset_statistics`
    forward: np.ndarray  # (H, N) float32, simple returns of the holding period; after an asset's last trade 0.
    # Of simulated returns (N, N): not what came but what could have come, `equivalent_returns` of the true covariance.
    regime: np.ndarray  # () int64, `regime_label` of the holding period
    period: np.ndarray  # () int64, months since 1970 of the window's end: the unit that the bootstrap draws


class Size(NamedTuple):
    """What samples of one stack have in common."""

    n_assets: int
    n_ahead: int  # rows of `forward`

    def __str__(self) -> str:
        return f"{self.n_assets}x{self.n_ahead}"


class Dataset(NamedTuple):
    """Samples by size."""

    by_size: dict[Size, Sample]  # each field stacked along a first axis

    def __len__(self) -> int:
        return sum(len(stack.features) for stack in self.by_size.values())

    def features(self) -> np.ndarray:
        """All features, shape (samples, F)."""
        return np.concatenate([stack.features for stack in self.by_size.values()])

    def periods(self) -> np.ndarray:
        """The distinct months of the samples."""
        return np.unique(np.concatenate([stack.period for stack in self.by_size.values()]))


def save_dataset(dataset: Dataset, folder: Path) -> None:
    """Write one ``.npy`` file a size and field."""
    folder.mkdir(parents=True, exist_ok=True)
    for size, stack in dataset.by_size.items():
        for name, values in stack._asdict().items():
            np.save(folder / f"{size}-{name}.npy", values, allow_pickle=False)


def open_dataset(folder: Path) -> Dataset:
    """Map what `save_dataset` wrote into memory: processes that train side by side share its pages."""
    names = {path.name.partition("-")[0] for path in folder.glob("*-features.npy")}
    sizes = sorted(Size(*map(int, name.split("x"))) for name in names)
    return Dataset(
        {
            size: Sample(*(np.load(folder / f"{size}-{name}.npy", mmap_mode="r") for name in Sample._fields))
            for size in sizes
        }
    )


REGIME_EDGES = (0.7, 1.0, 1.5)


def estimate_inputs(past: np.ndarray) -> tuple[np.ndarray, ...]:
    """What an estimate reads: slow, fast, loadings, log_volatility and asset_statistics of a `Sample`, in float64.

    Parameters
    ----------
    past : array of shape (T, N)
        Simple returns, NaN = missing; stale prices count as missing, as in all that is served.
    """
    returns, _ = without_stale(past)
    moments = share_window(returns).moments.gather(np.arange(past.shape[1])[None], Scratch(np))
    return (
        moments.slow[0],
        moments.fast[0],
        leading_factors(moments.fast)[0],
        np.log(moments.volatilities[: len(VOLATILITY_BASES), 0]),
        asset_statistics(*moments)[0],
    )


def regime_label(past: np.ndarray, forward: np.ndarray) -> int:
    """Which of `parameters.REGIMES` the holding period was: realised market volatility over that of the window.

    Below 0.7 calm, below 1.0 normal, below 1.5 elevated, else stressed. The market is the equal-weighted mean of the
    universe; `past` has shape (T, N), `forward` (H, N), NaN = missing.
    """
    before = np.nanmean(past[~np.isnan(past).all(axis=1)], axis=1)
    after = forward.mean(axis=1)
    ratio = np.sqrt((after**2).mean() / np.maximum(((before - before.mean()) ** 2).mean(), 1e-300))
    return int(np.searchsorted(REGIME_EDGES, ratio, side="right"))


def eligible_assets(past: np.ndarray, coverage: float) -> np.ndarray:
    """Columns that a universe may be drawn from, chosen from the past alone.

    An asset needs a return on the last row, `coverage` of all rows, at least 30 of them (all, if there are fewer), and
    must not be pinned (a takeover target at its offer price): a log volatility over the last 20 rows below Q1 - 1.5 IQR
    of the cross-section.
    """
    observed = ~np.isnan(past)
    enough = observed[-1] & (observed.mean(axis=0) >= coverage) & (observed.sum(axis=0) >= min(30, len(past)))
    recent = np.where(observed[-20:], past[-20:], 0.0)
    magnitude = np.sqrt((recent**2).mean(axis=0))
    alive = np.flatnonzero(enough & (magnitude > 0))
    if len(alive) < 4:
        return alive
    log_volatility = np.log(magnitude[alive])
    low, high = np.quantile(log_volatility, [0.25, 0.75])
    return alive[log_volatility >= low - 1.5 * (high - low)]


def holding_returns(panel: np.ndarray, stop: int, horizon: int) -> np.ndarray:
    """Returns of the `horizon` rows from `stop` on; a name without a return stays at its last trade, so earns 0."""
    return np.nan_to_num(panel[stop : stop + horizon], nan=0.0, posinf=0.0, neginf=0.0)


def equivalent_returns(covariance: np.ndarray) -> np.ndarray:
    """N rows of returns, (N, N), on which every portfolio has the variance that the covariance gives it.

    With C = L L' the rows F = sqrt(N) L' have F'F / N = C: a mean over them of (w'r)^2 is w'C w, without the noise of H
    returns that are drawn.
    """
    rows: np.ndarray = np.sqrt(len(covariance)) * np.linalg.cholesky(covariance).T
    return rows


def draw_dataset(
    panels: Sequence[ReturnPanel],
    *,
    n_samples: int,
    simulated_share: float,
    horizon: int,
    seed: int,
    market_power: float,
    first: str | None = None,
    progress: bool = False,
) -> Dataset:
    """Draw samples from real panels and simulated designs.

    Parameters
    ----------
    panels : sequence of ReturnPanel
        Already cut to the dates that may be used: the holding period lies within them too.
    n_samples : int
        Samples wanted.
    simulated_share : float
        Share of them that is simulated.
    horizon : int
        H, rows of the holding period.
    seed : int
        Seeds every draw.
    market_power : float
        How much more a large market is drawn from than a small one, see `markets.panel_shares`.
    first : str, optional
        ISO date before which no holding period may start; windows may reach further back.
    progress : bool
        Show a progress bar.
    """
    rng = np.random.default_rng(seed)
    collected: dict[Size, list[Sample]] = {}
    n_draws = -(-n_samples // UNIVERSES_PER_WINDOW)
    usable = [(panel, _earliest_stop(panel, first)) for panel in panels if can_draw(panel, horizon, first)]
    if not usable and simulated_share < 1:
        raise ValueError(
            f"no panel has {min(WINDOW_LENGTHS)} days and a holding period of {horizon} from {first or 'its start'} on"
        )
    shares = panel_shares([panel for panel, _ in usable], market_power)
    console = Console(stderr=True)
    for _ in track(range(n_draws), "samples", total=n_draws, console=console, shown=progress):
        if rng.random() < simulated_share:
            samples = _simulated_samples(rng, horizon)
        else:
            samples = _real_samples(rng, *usable[rng.choice(len(usable), p=shares)], horizon)
        for sample in samples:
            n_ahead, n_assets = sample.forward.shape
            collected.setdefault(Size(n_assets, n_ahead), []).append(sample)
    return Dataset(
        {size: Sample(*map(np.stack, zip(*samples, strict=True))) for size, samples in sorted(collected.items())}
    )


def can_draw(panel: ReturnPanel, horizon: int, first: str | None) -> bool:
    """Whether the panel has rows for a window and for a holding period of `horizon` rows from the ISO date on."""
    return _earliest_stop(panel, first) <= len(panel.dates) - horizon


def _earliest_stop(panel: ReturnPanel, first: str | None) -> int:
    start = 0 if first is None else int(np.searchsorted(panel.dates, np.datetime64(first, "D")))
    return max(min(WINDOW_LENGTHS), start)


def _real_samples(rng: np.random.Generator, panel: ReturnPanel, earliest: int, horizon: int) -> Iterator[Sample]:
    stop = int(rng.integers(earliest, len(panel.dates) - horizon + 1))
    n_obs = min(int(rng.choice(WINDOW_LENGTHS)), stop)
    past = panel.returns[stop - n_obs : stop]
    loose = rng.random() < 0.1
    candidates = eligible_assets(past, LOOSE_COVERAGE if loose else MIN_COVERAGE)
    market = panel.market.copy() if rng.random() < 0.7 else None  # a caller may send no indicators at all
    if market is not None:
        market[:, rng.random(market.shape[1]) < 0.15] = np.nan
    dates = panel.dates.astype(np.int64).astype(np.int32) if rng.random() < 0.8 else None
    returns, forward = panel.returns[:stop], holding_returns(panel.returns, stop, horizon)
    if len(candidates) >= LEAST_ASSETS and rng.random() < BASKET_SHARE:
        baskets = draw_baskets(rng, len(candidates))
        # Earlier rows matter to no feature of the window but the market's own.
        returns = np.zeros((stop, baskets.shape[1]), np.float32)
        returns[stop - n_obs :] = np.nan_to_num(past[:, candidates]) @ baskets
        forward = forward[:, candidates] @ baskets
        candidates = np.flatnonzero(returns.any(axis=0))
    universes = [
        np.sort(rng.choice(candidates, size, replace=False)) for size in _sizes(rng, len(candidates)) if size >= 5
    ]
    month = int(panel.dates[stop - 1].astype("datetime64[M]").astype(np.int64))
    forwards = (forward[:, universe] for universe in universes)
    return _samples(returns, universes, n_obs, market, dates, forwards, month)


def _simulated_samples(rng: np.random.Generator, horizon: int) -> Iterator[Sample]:
    n_obs = int(rng.choice(WINDOW_LENGTHS))
    n_assets = int(max(_sizes(rng, max(SIZES))))
    design = TRAINING_DESIGNS[rng.integers(len(TRAINING_DESIGNS))]
    simulated = design(rng, n_obs + horizon, n_assets)
    truth = simulated.ahead(horizon)
    returns = simulated.returns[:n_obs].astype(np.float32)
    universes = [np.sort(rng.choice(n_assets, size, replace=False)) for size in _sizes(rng, n_assets)]
    # Simulated months stand outside the calendar, so that the bootstrap of dates draws them one by one.
    month = -1 - int(rng.integers(1_000_000))
    forwards = (equivalent_returns(truth[np.ix_(universe, universe)]) for universe in universes)
    return _samples(returns, universes, n_obs, None, None, forwards, month)


def _sizes(rng: np.random.Generator, available: int) -> np.ndarray:
    sizes = np.array(SIZES)
    possible = sizes <= available
    if not possible.any():
        return np.empty(0, int)
    weight = SIZE_WEIGHTS * possible
    return rng.choice(sizes, UNIVERSES_PER_WINDOW, p=weight / weight.sum())


def _samples(
    returns: np.ndarray,
    universes: list[np.ndarray],
    n_obs: int,
    market: np.ndarray | None,
    dates: np.ndarray | None,
    forwards: Iterable[np.ndarray],
    month: int,
) -> Iterator[Sample]:
    """Samples of universes that share the last `n_obs` rows of `returns`; `forwards` has the `forward` of each."""
    if not universes:
        return
    stop = len(returns)
    padded = np.full((len(universes), max(map(len, universes))), -1, np.int32)
    for row, universe in zip(padded, universes, strict=True):
        row[: len(universe)] = universe
    request = read_request(
        returns,
        padded,
        windows=np.tile(np.array([stop - n_obs, stop], np.int32), (len(universes), 1)),
        market=None if market is None else market[:stop],
        dates=None if dates is None else dates[:stop],
    )
    table = compute_features(request)
    for universe, features, status, after in zip(universes, table.features, table.status, forwards, strict=True):
        if status != Status.GOOD:
            continue
        past = returns[stop - n_obs :, universe]
        slow, fast, loadings, log_volatility, statistics = (
            values.astype(np.float32) for values in estimate_inputs(past)
        )
        if not after.any():
            continue
        yield Sample(
            features=features,
            slow=slow,
            fast=fast,
            loadings=loadings,
            log_volatility=log_volatility,
            asset_statistics=statistics,
            forward=after.astype(np.float32),
            regime=np.array(regime_label(past, after), np.int64),
            period=np.array(month, np.int64),
        )
