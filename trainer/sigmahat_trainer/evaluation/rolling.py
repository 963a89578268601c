# SPDX-License-Identifier: Apache-2.0
"""Rolling evaluation out of sample: every estimator on the same universes and dates, chosen from their past alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from time import process_time
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd

from sigmahat_kernels.pipeline import Outputs
from sigmahat_kernels.request import Request, read_request
from sigmahat_trainer.baselines.adapters import learned_constants, unpadded
from sigmahat_trainer.baselines.hindsight import Outcome, hindsight_constants
from sigmahat_trainer.data.dataset import MIN_COVERAGE, eligible_assets, holding_returns
from sigmahat_trainer.data.panels import ReturnPanel
from sigmahat_trainer.data.split import Period
from sigmahat_trainer.evaluation.calibration import head_rows
from sigmahat_trainer.evaluation.methods import HINDSIGHT, Methods
from sigmahat_trainer.evaluation.scores import (
    PORTFOLIOS,
    Held,
    RandomPortfolios,
    Score,
    draw_random,
    hold,
    no_portfolio,
    turnover,
)

T = TypeVar("T")


class Cell(NamedTuple):
    """One shape of the grid."""

    n_assets: int
    n_obs: int  # rows that an estimator sees
    horizon: int  # rows for which a portfolio is held


class Rebalance(NamedTuple):
    """One date: portfolios are formed after row `stop` - 1 and held for rows `stop`, `stop` + 1 ..."""

    stop: int
    universes: np.ndarray  # (draws, n_assets), each ascending
    number: int  # of the holding period within the whole period: the same in all panels, but for a few holidays


class Evaluation(NamedTuple):
    """Of one panel and cell."""

    scores: pd.DataFrame  # one row a date and method
    heads: pd.DataFrame  # one row a date, universe and pipeline


def plan(panel: ReturnPanel, cell: Cell, period: Period, *, draws: int, seed: int) -> list[Rebalance]:
    """Choose dates and universes, `horizon` rows apart, so that holding periods are whole and do not overlap.

    The first begins `horizon` rows into the panel's own period (`Period.of`): the purge, for what was fitted to the
    time before it. Holding periods of all shapes start on the same rows, and of a panel that begins within the period
    on those, about, on which it would have had them from the beginning: what is pooled by number happened at one time.
    Universes are drawn from the assets that qualify by their past (`dataset.eligible_assets`). The first of each date
    keeps the names of the one before, as far as they still qualify, so that its turnover means something; the others
    are drawn afresh.

    Raises
    ------
    ValueError
        If no date has enough assets.
    """
    own = period.of(panel)
    panel = panel.between(None, own.last)
    rng = np.random.default_rng([seed, cell.n_assets, cell.n_obs])
    firsts = np.array([period.first, own.first], "datetime64[D]")
    whole, begin = (np.searchsorted(panel.dates, firsts) + cell.horizon).tolist()
    zero = whole - _rows_lacking(panel, period)  # where holding period 0 starts or would have started
    first_number = -(-(max(begin, cell.n_obs) - zero) // cell.horizon)
    rebalances: list[Rebalance] = []
    kept = np.empty(0, int)
    first_stop, last_stop = zero + first_number * cell.horizon, len(panel.dates) - cell.horizon
    for number, stop in enumerate(range(first_stop, last_stop + 1, cell.horizon), start=first_number):
        candidates = eligible_assets(panel.returns[stop - cell.n_obs : stop], MIN_COVERAGE)
        if len(candidates) < cell.n_assets:
            continue
        stay = np.intersect1d(kept, candidates)
        fresh = rng.choice(np.setdiff1d(candidates, stay), cell.n_assets - len(stay), replace=False)
        kept = np.concatenate([stay, fresh])
        others = [rng.choice(candidates, cell.n_assets, replace=False) for _ in range(draws - 1)]
        rebalances.append(Rebalance(stop, np.sort(np.stack([kept, *others]), axis=1), number))
    if not rebalances:
        raise ValueError(
            f"{panel.name} has no date from {own.first} to {own.last or 'its end'} with {cell.n_assets} assets "
            f"of {cell.n_obs} returns and {cell.horizon} rows to hold them"
        )
    return rebalances


def evaluate(
    panel: ReturnPanel,
    cell: Cell,
    period: Period,
    methods: Methods,
    *,
    draws: int,
    seed: int,
) -> Evaluation:
    """Score all methods on one panel and cell.

    Raises
    ------
    ValueError
        If no date has enough assets.
    """
    rebalances = plan(panel, cell, period, draws=draws, seed=seed)
    estimators = dict(methods.estimators)
    if methods.hindsight_start is not None:
        outcomes = [Outcome(*_rows(panel, cell, at.stop, universe)) for at in rebalances for universe in at.universes]
        estimators[HINDSIGHT] = learned_constants(hindsight_constants(outcomes, methods.hindsight_start))
    rng = np.random.default_rng([seed, cell.n_assets, cell.n_obs, 1])
    every = methods.every or {}
    before: dict[str, tuple[Rebalance, np.ndarray]] = {}
    score_rows, heads = [], []
    for rebalance in rebalances:
        request = request_of(panel, cell, rebalance)
        forwards = [_rows(panel, cell, rebalance.stop, universe)[1] for universe in rebalance.universes]
        random = [draw_random(rng, cell.n_assets) for _ in rebalance.universes]
        date, until = panel.dates[[rebalance.stop - 1, rebalance.stop + cell.horizon - 1]].astype("datetime64[s]")
        where = {"panel": panel.name, **cell._asdict(), "step": rebalance.number, "date": date, "until": until}
        outputs: dict[str, Outputs] = {}
        covariances: dict[str, Sequence[np.ndarray]] = {}
        seconds: dict[str, float] = {}
        for name, pipeline in methods.pipelines.items():
            outputs[name], seconds[name] = _timed(pipeline.estimate, request)
            covariances[name] = unpadded(request, outputs[name].covariance)
        for name, estimator in estimators.items():
            if rebalance.number % every.get(name, 1):
                continue
            covariances[name], seconds[name] = _timed(estimator, request)
        for name, matrices in covariances.items():
            held = [_hold(*item) for item in zip(matrices, forwards, random, strict=True)]
            trades = _turnover(panel, cell, before.get(name), rebalance, held[0].gmv_weights)
            before[name] = (rebalance, held[0].gmv_weights)
            per_universe = {"milliseconds": 1e3 * seconds[name] / len(held)}
            score_rows.append({**where, "method": name, **_average(held), "turnover": trades, **per_universe})
        for name, answer in outputs.items():
            heads.append(_heads(request, answer, covariances[name], forwards, {**where, "method": name}))
    return Evaluation(pd.DataFrame(score_rows), pd.concat(heads, ignore_index=True) if heads else pd.DataFrame())


def _rows_lacking(panel: ReturnPanel, period: Period) -> int:
    """Rows from the beginning of the period to that of the panel, at the panel's own number of them a weekday."""
    if not len(panel.dates):
        return 0
    first, last = panel.dates[[0, -1]]
    weekdays = max(int(np.busday_count(np.datetime64(period.first, "D"), first)), 0)
    return round(weekdays * len(panel.dates) / max(int(np.busday_count(first, last + 1)), 1))


def request_of(panel: ReturnPanel, cell: Cell, rebalance: Rebalance) -> Request:
    """What an estimator is shown: the past, and nothing else."""
    stop = rebalance.stop
    return read_request(
        panel.returns[:stop],
        rebalance.universes.astype(np.int32),
        windows=np.tile(np.array([stop - cell.n_obs, stop], np.int32), (len(rebalance.universes), 1)),
        market=panel.market[:stop],
        dates=panel.dates[:stop].astype(np.int64).astype(np.int32),
    )


def _rows(panel: ReturnPanel, cell: Cell, stop: int, universe: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(past, forward) of one universe."""
    forward = holding_returns(panel.returns, stop, cell.horizon)[:, universe].astype(np.float64)
    return panel.returns[stop - cell.n_obs : stop, universe], forward


def _timed(estimate: Callable[[Request], T], request: Request) -> tuple[T, float]:
    """Seconds of processor, of all threads: some methods use several, and the machine has other things to do."""
    start = process_time()
    answer = estimate(request)
    return answer, process_time() - start


def _hold(covariance: np.ndarray, forward: np.ndarray, random: RandomPortfolios) -> Held:
    try:
        return hold(covariance, forward, random)
    except np.linalg.LinAlgError:
        return no_portfolio(len(covariance), len(forward))


def _average(held: Sequence[Held]) -> dict[str, Any]:
    """Averages over the draws of a date; of each day the mean return and the mean squared return."""
    scores = np.mean([h.score for h in held], axis=0)
    row: dict[str, Any] = dict(zip(Score._fields, scores.tolist(), strict=True))
    for kind in PORTFOLIOS:
        returns = np.stack([getattr(h, f"{kind}_returns") for h in held])
        row |= {f"{kind}_returns": returns.mean(axis=0), f"{kind}_squares": (returns**2).mean(axis=0)}
    return row


def _turnover(
    panel: ReturnPanel,
    cell: Cell,
    before: tuple[Rebalance, np.ndarray] | None,
    rebalance: Rebalance,
    weights: np.ndarray,
) -> float:
    """Trades of the first draw's portfolio, NaN where the date before was left out or there was none."""
    if before is None or rebalance.stop - before[0].stop != cell.horizon:
        return float("nan")
    names = np.union1d(before[0].universes[0], rebalance.universes[0])
    old, new = np.zeros(len(names)), np.zeros(len(names))
    old[np.searchsorted(names, before[0].universes[0])] = before[1]
    new[np.searchsorted(names, rebalance.universes[0])] = weights
    return turnover(old, new, holding_returns(panel.returns, before[0].stop, cell.horizon)[:, names])


def _heads(
    request: Request,
    answer: Outputs,
    covariances: Sequence[np.ndarray],
    forwards: Sequence[np.ndarray],
    where: Mapping[str, Any],
) -> pd.DataFrame:
    rows = head_rows(request, answer, covariances, forwards)
    return pd.DataFrame([{**where, "draw": draw, **row} for draw, row in enumerate(rows)])
