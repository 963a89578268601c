# SPDX-License-Identifier: Apache-2.0
"""A rolling walk-forward on the panel itself: every month a forecast from the window before, then what came."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import altair as alt
import numpy as np
import pandas as pd

from sigmahat_client import Estimates
from sigmahat_deploy.report.charts import WIDTH, Spec, colour, dash, plain, rows, shape, significant
from sigmahat_deploy.report.compared import CLOSED_FORMS, ESTIMATORS, OURS, SAMPLE, closed_forms
from sigmahat_deploy.report.data import day
from sigmahat_deploy.report.errors import ReportError
from sigmahat_deploy.report.study import Floats
from sigmahat_kernels.stale import without_stale
from sigmahat_kernels.status import Status
from sigmahat_trainer.data.dataset import holding_returns
from sigmahat_trainer.evaluation.portfolios import gmv_weights

HORIZON = 21
"""Rows that a portfolio is held: what the members were taught."""

_LEAST_DATES = 3
_Z95 = 1.959964

Estimate = Callable[[pd.DataFrame, list[tuple[int, int]]], Estimates]
"""Covariances of all columns of a panel over windows of its rows."""


class Bias(NamedTuple):
    """Realised over forecast volatility, 1 if right, with its 95 % confidence interval."""

    value: float
    low: float
    high: float


class Backtest(NamedTuple):
    """Numbers of the section; volatilities are annualised, one row a date."""

    universe: str
    window: int
    horizon: int
    mine: bool  # whether the portfolio is the caller's, or equal weights
    n_failed: int  # dates without an estimate
    forecast: pd.DataFrame  # (dates, estimators) volatility of the portfolio
    realised: pd.Series  # (dates,)
    gmv_forecast: pd.DataFrame  # (dates, estimators) of each estimator's minimum-variance portfolio; NaN where none
    gmv_realised: pd.DataFrame

    @property
    def bias(self) -> dict[str, Bias | None]:
        """Of the portfolio."""
        return {name: bias(self.forecast[name], self.realised) for name in ESTIMATORS}

    @property
    def gmv_bias(self) -> dict[str, Bias | None]:
        """Of the minimum-variance portfolios."""
        return {name: bias(self.gmv_forecast[name], self.gmv_realised[name]) for name in ESTIMATORS}

    @property
    def gmv_volatility(self) -> pd.Series:
        """Realised by the minimum-variance portfolios over all dates: root of the mean variance; NaN without all."""
        return np.sqrt((self.gmv_realised**2).mean(skipna=False))

    @property
    def cumulative(self) -> pd.DataFrame:
        """Sum to date of ln(ours / theirs), realised volatility of minimum-variance portfolios: below zero is better.

        A date without theirs adds nothing.
        """
        logs = self.gmv_realised.map(np.log)
        return logs.drop(columns=OURS).rsub(logs[OURS], axis=0).fillna(0.0).cumsum()


def walk_forward(
    name: str,
    returns: pd.DataFrame,
    weights: pd.Series | None,
    estimate: Estimate,
    *,
    window: int,
    periods_per_year: float,
    horizon: int = HORIZON,
) -> Backtest:
    """Forecast the volatility of a portfolio every `horizon` rows, and look what came.

    Parameters
    ----------
    returns : DataFrame (rows, assets)
        Simple returns of the universe's assets, oldest first, NaN = missing.
    weights : Series, optional
        Of the portfolio, held constant by daily rebalancing. Default: equal weights.
    estimate : callable
        Called once, with all windows.
    window : int
        Rows before each date.

    Raises
    ------
    ReportError
        If there are fewer than three dates, or none of them has an estimate.
    """
    stops = list(range(window, len(returns) - horizon + 1, horizon))
    if len(stops) < _LEAST_DATES:
        needed = window + _LEAST_DATES * horizon
        raise ReportError(
            f"the backtest of universe {name!r} needs {needed} rows ({window} before the first date and "
            f"{_LEAST_DATES} holding periods of {horizon}), the returns have {len(returns)}: "
            "give more rows or a shorter --backtest-window"
        )
    estimates = estimate(returns, [(stop - window, stop) for stop in stops])
    values = returns.to_numpy(np.float64)
    n_assets = values.shape[1]
    w = np.full(n_assets, 1 / n_assets)
    if weights is not None:
        w = weights.reindex(returns.columns, fill_value=0.0).to_numpy(np.float64)
    dates, found = [], []
    for stop, status, ours in zip(stops, estimates.status.tolist(), estimates.covariance or (), strict=True):
        if status != Status.GOOD:
            continue
        cleaned = without_stale(values[stop - window : stop])[0]
        matrices: dict[str, Floats | None] = {OURS: ours.astype(np.float64), **closed_forms(pd.DataFrame(cleaned))}
        forward = holding_returns(values, stop, horizon)
        dates.append(returns.index[stop - 1])
        found.append({name: _measure(matrix, w, forward) for name, matrix in matrices.items()})
    if not dates:
        raise ReportError(f"the backtest of universe {name!r} has no estimate at any date: {estimates.failures[0]}")
    annual = float(np.sqrt(periods_per_year))

    def table(field: int) -> pd.DataFrame:
        index = pd.DatetimeIndex(dates)
        return annual * pd.DataFrame([{name: of[name][field] for name in ESTIMATORS} for of in found], index)

    forecast, realised, gmv_forecast, gmv_realised = map(table, range(4))
    return Backtest(
        name, window, horizon, weights is not None, len(stops) - len(dates),
        forecast, realised[OURS], gmv_forecast, gmv_realised,
    )  # fmt: skip


def bias(forecast: pd.Series, realised: pd.Series) -> Bias | None:
    """Root of the mean of realised over forecast variance; None where a forecast is missing.

    The interval is that of the mean over dates, whose holding periods do not overlap, by the delta method.

    >>> bias(pd.Series([0.1, 0.2, 0.1]), pd.Series([0.1, 0.2, 0.1]))
    Bias(value=1.0, low=1.0, high=1.0)
    """
    ratio = ((realised / forecast) ** 2).to_numpy()
    if not np.isfinite(ratio).all():
        return None
    value = float(np.sqrt(ratio.mean()))
    margin = _Z95 * float(ratio.std(ddof=1)) / np.sqrt(len(ratio)) / (2 * value) if len(ratio) > 1 else float("nan")
    return Bias(value, value - margin, value + margin)


def charts(found: Backtest) -> list[tuple[str, Spec]]:
    """Forecast against realised; bias with its interval; cumulative difference."""
    return [
        ("Forecast and realised volatility of the portfolio", _forecasts(found)),
        ("Bias: realised over forecast volatility, with 95 % intervals", _biases(found)),
        ("Cumulative difference in realised volatility of minimum-variance portfolios", _cumulative(found)),
    ]


def _measure(matrix: Floats | None, weights: Floats, forward: Floats) -> tuple[float, float, float, float]:
    """Forecast and realised volatility per period: of the portfolio, then of the minimum-variance portfolio."""
    realised = _root_mean_square(forward @ weights)
    if matrix is None:
        return np.nan, realised, np.nan, np.nan
    forecast = float(np.sqrt(weights @ matrix @ weights))
    try:
        best = gmv_weights(matrix)
    except np.linalg.LinAlgError:
        return forecast, realised, np.nan, np.nan
    return forecast, realised, float(np.sqrt(best @ matrix @ best)), _root_mean_square(forward @ best)


def _root_mean_square(values: Floats) -> float:
    return float(np.sqrt((values**2).mean()))


def _forecasts(found: Backtest) -> Spec:
    kinds, dates = [OURS, SAMPLE], list(map(day, found.forecast.index))
    values = [
        {"date": date, "estimator": name, "volatility": significant(value)}
        for name in kinds
        for date, value in zip(dates, found.forecast[name].tolist(), strict=True)
        if np.isfinite(value)
    ]
    came = [
        {"date": date, "volatility": significant(value)}
        for date, value in zip(dates, found.realised.tolist(), strict=True)
    ]
    x = alt.X("date:T", title=None)
    y = alt.Y("volatility:Q", title="volatility, % a year", axis=alt.Axis(format="%"))
    tip = [alt.Tooltip("date:T"), alt.Tooltip("volatility:Q", format=".1%")]
    area = alt.Chart(rows(came)).mark_bar(color="currentColor", opacity=0.2, width=7).encode(x=x, y=y, tooltip=tip)
    lines = (
        alt.Chart(rows(values))
        .mark_line(strokeWidth=2)
        .encode(x=x, y=y, color=colour(kinds), strokeDash=dash(kinds), tooltip=["estimator:N", *tip])
    )
    return plain((area + lines).properties(width=WIDTH - 60, height=240))


def _biases(found: Backtest) -> Spec:
    names = list(ESTIMATORS)
    portfolio = "my portfolio" if found.mine else "equal weights"
    of = ((portfolio, found.bias), ("minimum variance", found.gmv_bias))
    values = [
        {"portfolio": portfolio, "estimator": name, **{key: significant(value) for key, value in one._asdict().items()}}
        for portfolio, biases in of
        for name, one in biases.items()
        if one is not None
    ]
    y = alt.Y("estimator:N", title=None, sort=names)
    scale = alt.Scale(zero=False)
    base = alt.Chart().encode(y=y, color=colour(names).legend(None))
    ranges = base.mark_rule(strokeWidth=2).encode(
        x=alt.X("low:Q", title="realised / forecast", scale=scale), x2="high:Q"
    )
    points = base.mark_point(filled=True, size=70, opacity=1).encode(
        x=alt.X("value:Q", scale=scale),
        shape=shape(names).legend(None),
        tooltip=[
            "portfolio:N",
            "estimator:N",
            *(alt.Tooltip(f"{k}:Q", format=".2f") for k in ("value", "low", "high")),
        ],
    )
    one = alt.Chart().mark_rule(color="currentColor", strokeDash=[5, 3]).encode(x=alt.datum(1))
    layers = alt.layer(one, ranges, points, data=rows(values)).properties(width=385, height=alt.Step(24))
    return plain(layers.facet(column=alt.Column("portfolio:N", title=None, sort=[portfolio, "minimum variance"])))


def _cumulative(found: Backtest) -> Spec:
    frame = found.cumulative
    dates = list(map(day, frame.index))
    names = [name for name in CLOSED_FORMS if found.gmv_realised[name].notna().any()]
    values = [
        {"date": date, "against": name, "difference": significant(value)}
        for name in names
        for date, value in zip(dates, frame[name].tolist(), strict=True)
    ]
    lines = (
        alt.Chart(rows(values))
        .mark_line(strokeWidth=2)
        .encode(
            x=alt.X("date:T", title=None),
            y=alt.Y("difference:Q", title="sum of ln(ours / theirs), below zero is better"),
            color=colour(names, "against"),
            strokeDash=dash(names, "against"),
            tooltip=["against:N", "date:T", alt.Tooltip("difference:Q", format="+.3f")],
        )
    )
    zero = alt.Chart().mark_rule(color="currentColor", opacity=0.6).encode(y=alt.datum(0))
    return plain((zero + lines).properties(width=WIDTH - 60, height=220))
