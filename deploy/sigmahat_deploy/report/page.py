# SPDX-License-Identifier: Apache-2.0
"""The page itself: one file with everything inside, so that it can be mailed, kept and opened without a network."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import altair as alt
import jinja2
import numpy as np
import pandas as pd
import vl_convert

from sigmahat_deploy.report import (
    backtest,
    charts,
    compared,
    correlation,
    data,
    intensity,
    model_says,
    portfolio,
    release,
    spectrum,
    volatility,
)
from sigmahat_deploy.report.study import AnyFloats, Study, Universe

MAX_DETAILS = 20
"""Universes with every section, unless fewer fill the page; the others have their row of the table."""

MAX_BYTES = 4_700_000
"""Of the page: no more universes get their details beyond it."""

_LEAST_OVERVIEW = 10
"""Universes that a histogram is worth."""

_VEGA_LITE = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])

_TABLE = {  # column of the estimates -> heading, what it is, digits
    "n_assets": ("assets", "assets of the universe", 0),
    "intensity": ("intensity", "shrinkage intensity, 0 to 1", 3),
    "memory": ("memory", "weight of the exponentially weighted correlation, 0 to 1", 3),
    "factor_memory": ("factor memory", "weight of the three leading factors of that correlation, 0 to 1", 3),
    "condition": ("condition", "log10 of the condition number that is expected of the matrix", 2),
    "expected_error": (
        "expected error",
        "ln of realised over forecast volatility of the minimum-variance portfolio",
        3,
    ),
    "uncertainty": ("± 1 s.d.", "standard deviation of the expected error", 3),
    "volatility": ("volatility, %", "median volatility of the assets, % a year", 1),
}


class Page(NamedTuple):
    """A page and what it holds."""

    html: str
    detailed: list[str]  # universes with every section


class Options(NamedTuple):
    """What a page shows beside the study."""

    title: str
    command: str  # how to make it again
    release: release.Release
    weights: pd.Series | None = None
    earlier: tuple[dict[str, list[str]], dict[str, AnyFloats]] | None = None
    backtest: backtest.Backtest | None = None
    detail: tuple[str, ...] = ()  # names that come first


def page(study: Study, options: Options, progress: Callable[[int, int], object] = lambda done, total: None) -> Page:
    """Make the page.

    Details are those of `options.detail`, then of the table's universes in their order, until there are `MAX_DETAILS`
    or the page is full; the first one is there whatever its size.
    """
    environment = _environment()
    table = universe_table(study)
    wanted = list(dict.fromkeys((*options.detail, *study.estimated)))
    most = max(MAX_DETAILS, len(options.detail))
    frame = {"script": _library(), "table": _json(table), "config": _json(charts.CONFIG)}
    room = MAX_BYTES - sum(map(len, frame.values()))
    details: list[str] = []
    specs: list[str] = []
    detailed: list[str] = []
    for name in wanted[:most]:
        html, found = _detail(environment, study.universe(name), options, len(detailed), len(specs))
        size = len(html.encode()) + sum(len(spec) + 1 for spec in found)
        if detailed and size > room:
            break
        room -= size
        details.append(html)
        specs += found
        detailed.append(name)
        progress(len(detailed), min(most, len(wanted)))
    html = environment.get_template("page.html.jinja").render(
        options=options,
        study=study,
        frame=frame,
        details=details,
        detailed=_json(detailed),
        n_detailed=len(detailed),
        specs="[" + ",".join(specs) + "]",
        n_failed=int((study.table["status"] != 0).sum()),
        colours=charts.COLOURS,
        overview=_json(_overview(study.table)) if len(study.estimated) >= _LEAST_OVERVIEW else None,
        limits=release.LIMITS,
    )
    return Page(html, detailed)


def universe_table(study: Study) -> dict[str, Any]:
    """Columns of the table of universes: headings and rows; None where a universe failed."""
    frame = study.table
    uncertainty = np.hypot(frame["uncertainty_aleatoric"], frame["uncertainty_epistemic"])
    median = pd.Series(
        {
            name: 100 * float(np.sqrt(np.median(matrix.diagonal()) * study.periods_per_year))
            for name, matrix in study.covariances.items()
        },
        dtype=float,
    )
    numbers = frame.assign(uncertainty=uncertainty, volatility=median.reindex(frame.index))
    columns = [
        {"heading": heading, "title": title, "digits": digits, "values": _rounded(numbers[column], digits)}
        for column, (heading, title, digits) in _TABLE.items()
    ]
    return {
        "names": frame.index.tolist(),
        "columns": columns,
        "notes": [
            message.removeprefix(f"universe {name!r}").lstrip(",: ") or warnings
            for name, message, warnings in zip(frame.index, frame["message"], frame["warnings"], strict=True)
        ],
        "failed": [int(status != 0) for status in frame["status"]],
    }


def _rounded(values: pd.Series, digits: int) -> list[float | None]:
    return [None if not math.isfinite(value) else round(value, digits) + 0.0 for value in values.tolist()]


def _detail(
    environment: jinja2.Environment, universe: Universe, options: Options, number: int, first: int
) -> tuple[str, list[str]]:
    """All sections of a universe, and the charts that they refer to by number."""
    specs: list[str] = []

    def figure(spec: charts.Spec | None) -> int | None:
        if spec is None:
            return None
        specs.append(_json(spec))
        return first + len(specs) - 1

    facts = data.describe(universe)
    earlier = None
    if options.earlier is not None and universe.name in options.earlier[1]:
        earlier = options.earlier[0][universe.name], options.earlier[1][universe.name]
    volatilities = volatility.volatilities(universe, earlier)
    pairs = correlation.correlations(universe)
    spectra = spectrum.spectra(universe)
    mine = None if options.weights is None else portfolio.portfolio(universe, options.weights)
    shrunk = intensity.intensities(universe)
    tested = options.backtest if options.backtest is not None and options.backtest.universe == universe.name else None
    html = environment.get_template("detail.html.jinja").render(
        universe=universe,
        number=number,
        options=options,
        facts=facts,
        missing_map=figure(data.missing_map(universe)),
        volatilities=volatilities,
        changes=volatility.changes(volatilities) if earlier is not None else None,
        volatility_chart=figure(volatility.chart(volatilities)),
        pairs=pairs,
        heat_maps=[(title, figure(spec)) for title, spec in correlation.charts(pairs)],
        spectra=spectra,
        spectrum_chart=figure(spectrum.chart(spectra)),
        mine=mine,
        portfolio_chart=figure(portfolio.chart(mine)) if mine is not None else None,
        tested=tested,
        backtest_charts=[(words, figure(spec)) for words, spec in backtest.charts(tested)] if tested else [],
        said=model_says.say(universe),
        shrunk=shrunk,
        intensity_chart=figure(intensity.chart(shrunk)),
        names=compared,
    )
    return html, specs


def _overview(table: pd.DataFrame) -> charts.Spec:
    """How the intensity spreads over the universes."""
    counts, edges = np.histogram(table["intensity"].dropna(), bins=np.linspace(0, 1, 41))
    values = [
        {"low": round(float(low), 3), "high": round(float(high), 3), "n": int(n)}
        for n, low, high in zip(counts, edges[:-1], edges[1:], strict=True)
        if n
    ]
    chart = (
        alt.Chart(charts.rows(values))
        .mark_bar(color=charts.COLOURS[compared.OURS])
        .encode(
            x=alt.X("low:Q", title="shrinkage intensity", scale=alt.Scale(domain=[0, 1])).bin("binned"),
            x2="high:Q",
            y=alt.Y("n:Q", title="universes", axis=alt.Axis(tickMinStep=1)),
            tooltip=["low:Q", "high:Q", alt.Tooltip("n:Q", title="universes")],
        )
        .properties(width=charts.WIDTH - 60, height=110)
    )
    return charts.plain(chart)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sigmahat_deploy.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = _percent
    environment.filters["condition"] = _condition
    environment.filters["count"] = _count
    return environment


def _percent(value: float | None, digits: int = 1, sign: bool = False) -> str:
    """A share as text; a dash where there is none.

    >>> _percent(0.1234), _percent(0.1234, sign=True), _percent(None)
    ('12.3 %', '+12.3 %', '–')
    """
    if value is None or not math.isfinite(value):
        return "–"
    if 0 < 100 * value < 0.5 * 10**-digits and not sign:
        return f"below {10**-digits:g} %"
    rounded = round(100 * value, digits) + 0.0  # no minus before a zero
    return f"{rounded:{'+' if sign else ''},.{digits}f} %"


def _count(n: int, noun: str) -> str:
    """A number of things.

    >>> _count(1, "cell"), _count(1200, "cell")
    ('1 cell', '1,200 cells')
    """
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def _condition(value: float) -> str:
    """A condition number with sensible digits.

    >>> _condition(93.4), _condition(1234567.0), _condition(float("inf"))
    ('93', '1.23e+06', 'infinite (singular)')
    """
    if math.isinf(value):
        return "infinite (singular)"
    if value < 10:
        return f"{value:.1f}"
    return f"{value:,.0f}" if value < 1e6 else f"{value:.2e}"


def _json(value: object) -> str:
    """As a script element can hold it: no text inside can end the element."""
    return (
        json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
        .replace("</", "<\\/")
        .replace("<!--", "<\\!--")
    )


@cache
def _library() -> str:
    """Vega, Vega-Lite and vega-embed as one script."""
    script: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=_VEGA_LITE)
    licence = _environment().get_template("vega_licence.js.jinja").render()
    return licence + script.replace("</script", "<\\/script")
