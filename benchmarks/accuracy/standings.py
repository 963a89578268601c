# SPDX-License-Identifier: Apache-2.0
"""From rows of a tournament to standings: of every method, over all markets and in each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from sigmahat_trainer.data.panels import PERIODS_PER_YEAR
from sigmahat_trainer.evaluation.calibration import calibrate
from sigmahat_trainer.evaluation.figures import outside_crash, pool, pool_against_all, pool_bias
from sigmahat_trainer.evaluation.results import (
    REFERENCE,
    REFERENCES,
    Biases,
    Difference,
    Differences,
    Pooled,
    WithError,
)

RISK = ("equal_weight", "random_long_only", "random_long_short")
"""Portfolios that no estimate had a hand in: fields of `Biases`."""

SHORT = dict(zip(RISK, ("1/N", "random", "long-short"), strict=True))


class Market(NamedTuple):
    """One method in one market."""

    volatility: Difference | None  # of minimum-variance portfolios, less the reference's; None: the reference itself
    likelihood: Difference | None
    qlike: dict[str, Difference] | None = (
        None  # by kind of portfolio; these and what follows for ensembles and references
    )
    bias: dict[str, WithError] | None = None  # the same
    bias_outside_crash: dict[str, WithError] | None = None  # empty: there are no other dates
    held_by_90_percent_intervals: float | None = None  # of the expected error; None: it has none


class Standing(NamedTuple):
    """One method over all markets; the mean over cells of a market first, then over markets."""

    dates: int  # at which it was asked
    failures: int  # of these, without a portfolio
    milliseconds: float  # of processors, a universe; median
    against_reference: Pooled | None  # it less QIS in correlation space; None: the reference itself, or no portfolio
    against_first: Pooled | None  # the first ensemble less it
    better_markets: int  # of which its minimum-variance portfolio varied less than the reference's
    largest_risk_gap: dict[str, float]  # kind of portfolio -> |bias - 1|, the worst market's, without spring 2020
    mean_risk_gap: dict[str, float]  # the mean over markets
    turnover_per_year: float  # of the minimum-variance portfolio; NaN if it was never asked twice in a row
    gross_leverage: float
    largest_weight: float
    log10_condition: float
    markets: dict[str, Market]


class Spread(NamedTuple):
    """One figure of several ensembles."""

    mean: float
    standard_deviation: float  # between ensembles
    lowest: float
    highest: float


class Standings(NamedTuple):
    """All of a tournament."""

    methods: dict[str, Standing]
    ensembles: dict[str, dict[str, Spread]]  # market, or `all` -> figure; empty where there is one ensemble


def make_standings(scores: pd.DataFrame, heads: pd.DataFrame) -> Standings:
    """Standings of rows as `sigmahat evaluate` makes them; methods in order of their likelihood, best first."""
    pipelines = [str(name) for name in heads["method"].unique()]
    scopes = {"all": scores, **{str(panel): rows for panel, rows in scores.groupby("panel")}}
    pooled = {scope: pool(rows, pipelines) for scope, rows in scopes.items()}
    biases = {scope: pool_bias(rows) for scope, rows in scopes.items()}
    outside = {scope: pool_bias(outside_crash(rows)) for scope, rows in scopes.items()}
    intervals = {
        (str(method), str(panel)): calibrate(rows).uncertainty.coverage_90
        for (method, panel), rows in heads.groupby(["method", "panel"])
    }
    first = pool_against_all(scores, pipelines[0])
    methods = {}
    for name, rows in scores.groupby("method", sort=False):
        name = str(name)
        markets = {
            panel: _market(
                pooled[panel][name], biases[panel][name], outside[panel].get(name), intervals.get((name, panel))
            )
            for panel in scopes
            if panel != "all" and name in biases[panel]
        }
        gaps = {kind: [gap for market in markets.values() if (gap := _gap(market, kind)) is not None] for kind in RISK}
        mean = rows[["turnover", "gmv_gross", "gmv_largest", "log10_condition"]].mean()
        methods[name] = Standing(
            dates=len(rows),
            failures=int(rows["gmv_log_variance"].isna().sum()),
            milliseconds=float(rows["milliseconds"].median()),
            against_reference=pooled["all"][name].get(REFERENCE),
            against_first=first.get(name),
            better_markets=sum(
                market.volatility is not None and market.volatility.difference < 0 for market in markets.values()
            ),
            largest_risk_gap={kind: max(values, default=np.nan) for kind, values in gaps.items()},
            mean_risk_gap={kind: float(np.mean(values)) if values else np.nan for kind, values in gaps.items()},
            turnover_per_year=float(mean["turnover"]) * PERIODS_PER_YEAR / int(rows["horizon"].iloc[0]),
            gross_leverage=float(mean["gmv_gross"]),
            largest_weight=float(mean["gmv_largest"]),
            log10_condition=float(mean["log10_condition"]),
            markets=markets
            if name in (*pipelines, *REFERENCES)
            else {panel: Market(market.volatility, market.likelihood) for panel, market in markets.items()},
        )
    ordered = dict(sorted(methods.items(), key=lambda item: _likelihood(item[1])))
    return Standings(ordered, _spreads(methods, pipelines) if len(pipelines) > 1 else {})


def _market(pooled: Mapping[str, Pooled], bias: Biases, outside: Biases | None, held: float | None) -> Market:
    against = pooled[REFERENCE].differences if REFERENCE in pooled else None
    return Market(
        against and against.gmv,
        against and against.negative_log_likelihood,
        {kind: getattr(against, f"{kind}_qlike") for kind in RISK} if against else {},
        {kind: getattr(bias, kind) for kind in RISK},
        {kind: getattr(outside, kind) for kind in RISK} if outside else {},
        held,
    )


def _gap(market: Market, kind: str) -> float | None:
    """|bias - 1| without the crash; None where there are no dates without it."""
    bias = (market.bias_outside_crash or {}).get(kind)
    return None if bias is None else abs(bias.value - 1)


def _likelihood(standing: Standing) -> float:
    """For sorting: the reference is level with itself, and who has no portfolio comes last."""
    if standing.against_reference is None:
        return 0.0 if standing.failures < standing.dates else np.inf
    found = standing.against_reference.differences.negative_log_likelihood
    return np.inf if found is None or np.isnan(found.difference) else found.difference


def _spreads(methods: dict[str, Standing], pipelines: Sequence[str]) -> dict[str, dict[str, Spread]]:
    ensembles = [methods[name] for name in pipelines]

    def spreads(of: Sequence[Differences | None]) -> dict[str, Spread]:
        known = [differences for differences in of if differences is not None]
        figures: dict[str, list[Difference]] = {
            field: [getattr(each, field) for each in known] for field in Differences._fields
        }
        return {field: _spread([one.difference for one in found]) for field, found in figures.items() if all(found)}

    answers = {"all": spreads([one.against_reference and one.against_reference.differences for one in ensembles])}
    for panel in ensembles[0].markets:
        markets = [one.markets[panel] for one in ensembles]
        answers[panel] = {
            "gmv": _spread([market.volatility.difference for market in markets if market.volatility]),
            "negative_log_likelihood": _spread(
                [market.likelihood.difference for market in markets if market.likelihood]
            ),
            **{f"bias_{kind}": _spread([m.bias[kind].value for m in markets if m.bias]) for kind in RISK},
        }
    return answers


def _spread(values: Sequence[float]) -> Spread:
    return Spread(float(np.mean(values)), float(np.std(values, ddof=1)), min(values), max(values))


def differences_table(standings: Standings) -> list[dict[str, str]]:
    """A row a method: what it is less the reference, and what the first ensemble is less it; text by heading."""
    rows = []
    for name, one in standings.methods.items():
        against, first = one.against_reference, one.against_first
        rows.append(
            {
                "method": name,
                "volatility, % (t)": _text(against and against.differences.gmv, 1, 2),
                "likelihood, millinats (t)": _text(against and against.differences.negative_log_likelihood, 1e3, 1),
                "QLIKE, 1/N (t)": _text(against and against.differences.equal_weight_qlike, 1, 3),
                "QLIKE, random (t)": _text(against and against.differences.random_long_only_qlike, 1, 3),
                "first less it: volatility": _text(first and first.differences.gmv, 1, 2),
                "likelihood": _text(first and first.differences.negative_log_likelihood, 1e3, 1),
                "ms": f"{one.milliseconds:.3g}",
                "dates, failures": f"{one.dates}, {one.failures}",
            }
        )
    return rows


def portfolios_table(standings: Standings) -> list[dict[str, str]]:
    """A row a method: bias of 1/N and of random portfolios, and what its minimum-variance portfolios are like."""
    rows = []
    for name, one in standings.methods.items():
        trades = f"{one.turnover_per_year:.0f}" if np.isfinite(one.turnover_per_year) else ""
        rows.append(
            {
                "method": name,
                "|bias - 1| of 1/N: mean, worst": _pair(one, "equal_weight"),
                "random": _pair(one, "random_long_only"),
                "long-short": _pair(one, "random_long_short"),
                "gross leverage": f"{one.gross_leverage:.2f}",
                "largest weight": f"{one.largest_weight:.3f}",
                "turnover a year": trades,
                "log10 condition": f"{one.log10_condition:.2f}",
            }
        )
    return rows


def markets_table(standing: Standing) -> list[dict[str, str]]:
    """A row a market: an ensemble less the reference there, and whether its risk is right."""
    rows = []
    for panel, market in standing.markets.items():
        qlike, bias, outside = market.qlike or {}, market.bias or {}, market.bias_outside_crash or {}
        held = market.held_by_90_percent_intervals
        rows.append(
            {
                "market": panel,
                "volatility, % (t)": _text(market.volatility, 1, 2),
                "likelihood, millinats (t)": _text(market.likelihood, 1e3, 1),
                **{f"QLIKE, {SHORT[kind]} (t)": _text(qlike.get(kind), 1, 3) for kind in RISK},
                **{
                    f"bias, {SHORT[kind]}: all, outside": ", ".join(
                        f"{of[kind].value:.2f}" for of in (bias, outside) if kind in of
                    )
                    for kind in RISK
                },
                "in 90 % intervals": f"{held:.1%}" if held is not None else "",
            }
        )
    return rows


def _pair(one: Standing, kind: str) -> str:
    return f"{one.mean_risk_gap[kind]:.3f}, {one.largest_risk_gap[kind]:.2f}"


def _text(found: Difference | None, scale: float, digits: int) -> str:
    return f"{scale * found.difference:+.{digits}f} ({found.t:+.1f})" if found else ""
