# SPDX-License-Identifier: Apache-2.0
"""Rolling evaluation out of sample: every estimator's minimum-variance portfolio, on the same universes and dates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track

from sigmahat_kernels.covariance import assemble
from sigmahat_kernels.features import compute_features
from sigmahat_kernels.parameters import Parameters
from sigmahat_kernels.pipeline import Pipeline
from sigmahat_kernels.request import PADDING, Request, read_request
from sigmahat_trainer.baselines import BASELINES, gmv_weights
from sigmahat_trainer.dataset import MIN_COVERAGE, eligible_assets, holding_returns
from sigmahat_trainer.panels import ReturnPanel

Estimator = Callable[[Request], Sequence[np.ndarray]]
"""Covariances of all universes of a request, each (N, N) without padding."""

REFERENCE = "qis_correlation"
PERIODS_PER_YEAR = 252
HAC_LAGS = 3


class Scores(NamedTuple):
    """Minimum-variance portfolios over one evaluation."""

    annual_volatility: dict[str, float]  # root of 252 times the mean squared daily return
    versus_reference: dict[str, float]  # mean over dates of ln(volatility / volatility of the reference)
    t_statistic: dict[str, float]  # of that mean, Newey-West with `HAC_LAGS` lags, one unit a date
    n_dates: int


def closed_form(estimator: Callable[[np.ndarray], np.ndarray]) -> Estimator:
    """Apply an estimator of `baselines.BASELINES` to each universe; missing returns count as 0."""

    def estimate(request: Request) -> list[np.ndarray]:
        covariances = []
        for universe, (start, stop) in zip(request.universes, request.windows, strict=True):
            window = request.panel[start:stop, universe[universe != PADDING]]
            covariances.append(estimator(np.nan_to_num(window.astype(np.float64))))
        return covariances

    return estimate


def served(pipeline: Pipeline) -> Estimator:
    """The ensemble as it is served: the committed INT8 files, in process."""
    return lambda request: _unpadded(request, pipeline.estimate(request).covariance)


def learned_constants(constants: Mapping[str, Sequence[float]]) -> Estimator:
    """One answer for every universe: the parameters that training starts from."""

    def estimate(request: Request) -> list[np.ndarray]:
        n = len(request.universes)
        parameters = Parameters(**{name: np.tile(np.asarray(values), (n, 1)) for name, values in constants.items()})
        return _unpadded(request, assemble(request, parameters, compute_features(request).status))

    return estimate


def estimators(pipeline: Pipeline, constants: Mapping[str, Sequence[float]]) -> dict[str, Estimator]:
    """All baselines, the learned constants and the served ensemble, by name."""
    return {
        **{name: closed_form(estimator) for name, estimator in BASELINES.items()},
        "learned_constants": learned_constants(constants),
        "sigmahat": served(pipeline),
    }


def evaluate(
    panel: ReturnPanel,
    methods: Mapping[str, Estimator],
    *,
    n_assets: int,
    n_obs: int,
    horizon: int,
    draws: int,
    first: str,
    seed: int,
    progress: bool = False,
) -> Scores:
    """Score estimators on one panel.

    At every date, `horizon` rows apart, `draws` universes are drawn from the assets that qualify by their past alone
    (`dataset.eligible_assets`); each estimator sees the last `n_obs` rows; its unconstrained minimum-variance portfolio
    is held for the next `horizon` rows, which do not overlap.

    Raises
    ------
    ValueError
        If no date has enough assets.
    """
    rng = np.random.default_rng(seed)
    start = max(int(np.searchsorted(panel.dates, np.datetime64(first, "D"))), n_obs)
    stops = range(start, len(panel.dates) - horizon + 1, horizon)
    realised: dict[str, list[np.ndarray]] = {name: [] for name in methods}
    console = Console(stderr=True)
    for stop in track(stops, panel.name, console=console, disable=not progress, transient=True):
        candidates = eligible_assets(panel.returns[stop - n_obs : stop], MIN_COVERAGE)
        if len(candidates) < n_assets:
            continue
        universes = np.stack([np.sort(rng.choice(candidates, n_assets, replace=False)) for _ in range(draws)])
        request = read_request(
            panel.returns[:stop],
            universes.astype(np.int32),
            windows=np.tile(np.array([stop - n_obs, stop], np.int32), (draws, 1)),
            market=panel.market[:stop],
            dates=panel.dates[:stop].astype(np.int64).astype(np.int32),
        )
        forward = holding_returns(panel.returns, stop, horizon)
        for name, method in methods.items():
            daily = [_held(forward[:, u], c) for u, c in zip(universes, method(request), strict=True)]
            realised[name].append(np.stack(daily))
    if not realised[REFERENCE]:
        raise ValueError(f"{panel.name} has no date from {first} on with {n_assets} assets of {n_obs} returns")
    return score({name: np.stack(values) for name, values in realised.items()})


def _held(forward: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Daily returns of the minimum-variance portfolio; NaN, and so the method's scores, where the matrix has none."""
    try:
        return forward @ gmv_weights(covariance)
    except np.linalg.LinAlgError:
        return np.full(len(forward), np.nan)


def score(realised: Mapping[str, np.ndarray]) -> Scores:
    """Scores from daily portfolio returns, each of shape (dates, draws, horizon); draws of a date are one unit."""
    variance = {name: (values**2).mean(axis=2) for name, values in realised.items()}
    differences = {
        name: 0.5 * (np.log(values) - np.log(variance[REFERENCE])).mean(axis=1) for name, values in variance.items()
    }
    return Scores(
        {name: float(np.sqrt(PERIODS_PER_YEAR * values.mean())) for name, values in variance.items()},
        {name: float(values.mean()) for name, values in differences.items()},
        {name: newey_west_t(values, HAC_LAGS) for name, values in differences.items()},
        len(variance[REFERENCE]),
    )


def newey_west_t(values: np.ndarray, lags: int) -> float:
    """t-statistic of a mean with Bartlett weights (Newey, West 1987, Econometrica 55); 0 for a series of zeros."""
    n = len(values)
    deviations = values - values.mean()
    long_run = deviations @ deviations / n
    for lag in range(1, min(lags, n - 1) + 1):
        long_run += 2.0 * (1.0 - lag / (lags + 1.0)) * (deviations[lag:] @ deviations[:-lag]) / n
    return float(values.mean() / np.sqrt(long_run / n)) if long_run > 0 else 0.0


def as_json(scores: Scores) -> dict[str, Any]:
    """Rounded for a results file, in percent; without methods that had no portfolio (the sample where N >= T)."""
    return {
        "n_dates": scores.n_dates,
        "methods": {
            name: {
                "annual_volatility_percent": round(100 * volatility, 3),
                "versus_qis_correlation_percent": round(100 * scores.versus_reference[name], 2),
                "t": round(scores.t_statistic[name], 2),
            }
            for name, volatility in scores.annual_volatility.items()
            if not np.isnan(volatility)  # JSON has no NaN
        },
    }


def _unpadded(request: Request, covariance: np.ndarray | None) -> list[np.ndarray]:
    assert covariance is not None
    sizes = (request.universes != PADDING).sum(axis=1)
    return [matrix[:size, :size].astype(np.float64) for matrix, size in zip(covariance, sizes, strict=True)]
