# SPDX-License-Identifier: Apache-2.0
"""Tables of README and docs, from the files in ``results/``: ``python -m benchmarks.accuracy.tables`` prints them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

from sigmahat_trainer.evaluation.results import (
    REFERENCES,
    CellDifference,
    CellFigures,
    Difference,
    read_figures,
    shape_name,
)

QIS = REFERENCES[0]
RESULTS = Path(__file__).parents[1] / "results"
SHOWN = {
    "sample": "sample",
    "ledoit_wolf_identity": "LW identity",
    "ledoit_wolf_single_factor": "LW single factor",
    "multi_target_ledoit_wolf": "multi-target LW",
    "learned_constants": "learned constants",
    "tilted_constants": "tilted constants",
    "rienet": "RIEnet",
    "sigmahat": "**sigmahat**",
}


HEADLINE = {"ledoit_wolf_identity": "Ledoit-Wolf", "rienet": "RIEnet", "sigmahat": "**sigmahat**"}


def headline() -> str:
    """What most people use, the published network, and ours: columns of `accuracy`."""
    return _against_qis(HEADLINE)


def accuracy() -> str:
    """Volatility of each estimator's minimum-variance portfolio against QIS in correlation space, panel by panel."""
    levels = [f"{cell.methods[QIS].annual_volatility_percent:.2f}" for _, cell in _cells()]
    return _against_qis(SHOWN, {"QIS (corr.), % a year": levels})


def risk() -> str:
    """Risk numbers of arbitrary portfolios, and the ensemble against what else has learned; cells as in `accuracy`."""
    header = ["panel", "vs learned constants", "vs tilted constants", "vs RIEnet"]
    header += ["bias, long-only", "bias, long-short", "bias, QIS, long-only", "QLIKE, long-only", "QLIKE, long-short"]
    rows = [header, ["---"] * len(header)]
    for panel, cell in _cells():
        own, qis = cell.methods["sigmahat"], cell.methods[QIS]
        against = own.versus[QIS]
        rows.append(
            [
                panel,
                *(_difference(own.versus[name].gmv, 1) for name in ("learned_constants", "tilted_constants", "rienet")),
                f"{own.bias.random_long_only.value:.2f}",
                f"{own.bias.random_long_short.value:.2f}",
                f"{qis.bias.random_long_only.value:.2f}",
                _difference(against.random_long_only_qlike, 3),
                _difference(against.random_long_short_qlike, 3),
            ]
        )
    return _markdown(rows)


def grid() -> str:
    """Every cell of the grid: universes by windows, against QIS in correlation space."""
    found = read_figures(RESULTS / "accuracy_grid.json").every_cell["sigmahat"][QIS].table
    header, rows = ["panel", "T", "smallest universes", "", "largest"], []
    for (panel, n_obs), cells in groupby(sorted(found, key=_panel_and_length), key=_panel_and_length):
        texts = [f"N={cell.n_assets}: {_difference(cell, 1)}" for cell in cells]
        rows.append([panel, str(n_obs), *texts, *[""] * (3 - len(texts))])
    return _markdown([header, ["---"] * len(header), *rows])


def designs() -> str:
    """Simulated designs: PRIAL less that of multi-target Ledoit-Wolf, mean over shapes and worst shape."""
    losses = read_figures(RESULTS / "accuracy_grid.json").every_shape["sigmahat"]
    header = ["design", "Frobenius: not below", "mean, worst", "minimum variance: not below", "mean, worst"]
    rows = [header, ["---"] * len(header)]
    for design in losses["frobenius"]:
        row = [design]
        for loss in ("frobenius", "minimum_variance"):
            found = losses[loss][design]
            mean, worst = sum(shape.difference for shape in found.table) / found.shapes, found.worst
            row.append(f"{found.not_below} of {found.shapes}")
            row.append(f"{mean:+.1f}, {worst.difference:+.1f} ± {worst.difference_error:.1f} ({shape_name(worst)})")
        rows.append(row)
    return _markdown(rows)


def _against_qis(shown: Mapping[str, str], beside: Mapping[str, Sequence[str]] | None = None) -> str:
    beside = beside or {}
    header = ["panel (assets, dates)", *beside, *shown.values()]
    rows = [header, ["---"] * len(header)]
    for (panel, cell), *texts in zip(_cells(), *beside.values(), strict=True):
        found = [cell.methods[name].versus[QIS].gmv if name in cell.methods else None for name in shown]
        rows.append([f"{panel} ({cell.n_assets}, {cell.n_dates})", *texts, *(_difference(each, 1) for each in found)])
    return _markdown(rows)


def _cells(n_assets: int = 100, n_obs: int = 252) -> list[tuple[str, CellFigures]]:
    """One cell of each panel: the largest universes up to `n_assets`; a small panel is shown at its largest."""
    panels = read_figures(RESULTS / "accuracy.json").panels
    fitting = {
        panel: [cell for cell in cells if cell.n_obs == n_obs and cell.n_assets <= n_assets]
        for panel, cells in panels.items()
    }
    return [(panel, max(cells, key=lambda cell: cell.n_assets)) for panel, cells in fitting.items()]


def _panel_and_length(cell: CellDifference) -> tuple[str, int]:
    return cell.panel, cell.n_obs


def _difference(found: Difference | CellDifference | None, digits: int) -> str:
    return f"{found.difference:+.{digits}f} ({found.t:+.1f})" if found else "none"


def _markdown(rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def tournament(path: Path = RESULTS / "tournament.json") -> str:
    """Every estimator there is, best likelihood first: less QIS in correlation space, and risk without spring 2020."""
    header = ["estimator (dates)", "volatility, % (t)", "likelihood, millinats (t)", "QLIKE, 1/N (t)"]
    header += ["bias gap, 1/N: mean, worst", "random portfolios", "gross leverage", "largest weight", "turnover a year"]
    header += ["log10 condition", "ms", "failures"]
    rows = [header, ["---"] * len(header)]
    for name, one in json.loads(path.read_text())["figures"]["methods"].items():
        against = one.get("against_reference", {}).get("differences", {})
        gaps = [
            f"{one['mean_risk_gap'][kind]:.3f}, {one['largest_risk_gap'][kind]:.2f}"
            if one["failures"] < one["dates"]
            else ""
            for kind in ("equal_weight", "random_long_only")
        ]
        rows.append(
            [
                f"{name} ({one['dates']})",
                *(
                    f"{scale * against[field]['difference']:+.{digits}f} ({against[field]['t']:+.1f})"
                    if field in against
                    else ""
                    for field, scale, digits in TOURNAMENT
                ),
                *gaps,
                *(
                    "" if one[field] is None else f"{one[field]:.3g}"
                    for field in (
                        "gross_leverage",
                        "largest_weight",
                        "turnover_per_year",
                        "log10_condition",
                        "milliseconds",
                    )
                ),
                str(one["failures"]),
            ]
        )
    return _markdown(rows)


TOURNAMENT = (("gmv", 1, 1), ("negative_log_likelihood", 1e3, 1), ("equal_weight_qlike", 1, 3))
"""Field of Differences, factor, digits."""


GAPS = {
    "listed": "listed within the window",
    "intermittent": "trading now and then too",
    "cut": "whole, 30 % cut to 8 to 90 % of rows",
}


def missing() -> str:
    """What is done about missing cells: volatility of minimum-variance portfolios against zeros in their place."""
    found = json.loads((RESULTS / "missing.json").read_text())["figures"]["missing"]
    header = ["panel", "assets with gaps (dates)", "sigmahat", "all returns known", "filled by means", "left out"]
    header.append("their weight: zeros, sigmahat, known")
    rows = [header, ["---"] * len(header)]
    for panel, kinds in found.items():
        for kind, cell in kinds.items():
            methods = cell["methods"]
            weights = [f"{methods[name]['weight']:.2f}" for name in ("zero", "sigmahat", "full") if name in methods]
            pairs = [_both_portfolios(methods.get(name)) for name in ("sigmahat", "full", "mean", "dropped")]
            rows.append([panel, f"{GAPS[kind]} ({cell['n_dates']})", *pairs, ", ".join(weights)])
    return _markdown(rows)


def stale() -> str:
    """Universes with stale prices: volatility by the rule against prices as they were sent."""
    found = json.loads((RESULTS / "missing.json").read_text())["figures"]["stale"]
    header = ["panel (dates)", "stale prices as missing", "their weight: as sent, as missing"]
    rows = [header, ["---"] * len(header)]
    for panel, cell in found.items():
        weights = ", ".join(f"{cell['methods'][name]['weight']:.3f}" for name in ("as sent", "sigmahat"))
        rows.append([f"{panel} ({cell['n_dates']})", _both_portfolios(cell["methods"]["sigmahat"]), weights])
    return _markdown(rows)


def _both_portfolios(method: Mapping[str, Mapping[str, float]] | None) -> str:
    """Unconstrained, then long-only."""
    if method is None:
        return ""
    return ", ".join(f"{method[name]['difference']:+.1f} ({method[name]['t']:+.1f})" for name in ("gmv", "long_only"))


def history() -> str:
    """The same universes with shorter and longer windows than 252 rows."""
    found = json.loads((RESULTS / "history.json").read_text())["figures"]
    lengths = list(found["against_252_rows"])
    rows = [["panel (assets, dates)", *(f"{length} rows" for length in lengths)], ["---"] * (1 + len(lengths))]
    for panel, cell in found["panels"].items():
        rows.append([f"{panel} ({cell['n_assets']}, {cell['n_dates']})", *(_percent(cell[each]) for each in lengths)])
    return _markdown([*rows, ["mean", *(_percent(found["against_252_rows"][each]) for each in lengths)]])


def spacing() -> str:
    """Weekly and monthly returns: volatility against multi-target Ledoit-Wolf, and forecast risk of 1/N."""
    found = json.loads((RESULTS / "spacing.json").read_text())["figures"]
    rows = [["returns, periods of a window", "volatility", "panels better", "bias gap of 1/N", "of multi-target LW"]]
    rows.append(["---"] * len(rows[0]))
    for name, of in found.items():
        better = f"{of['panels_better']} of {len(of['panels'])}"
        rows.append([name, _percent(of), better, f"{of['risk_gap']:.3f}", f"{of['risk_gap_of_reference']:.3f}"])
    return _markdown(rows)


def _percent(found: Mapping[str, float]) -> str:
    return f"{found['difference']:+.1f} ({found['t']:+.1f})"


SPEED = {
    "features_over_eigvalsh_n100": "all features over `numpy.linalg.eigvalsh` alone, N = 100, one thread",
    "features_over_eigvalsh_n250": "the same, N = 250",
    "features_over_sklearn_lw_n20": "all features over a loop of `sklearn.covariance.LedoitWolf().fit`, N = 20",
    "features_over_sklearn_lw_n100": "the same, N = 100",
    "features_over_sklearn_lw_n250": "the same, N = 250",
    "assemble_over_before_n100": "matrices by the compiled pass over the array form, N = 100, one thread",
    "two_threads_over_one": "two threads over one",
    "two_threads_over_one_mixed_sizes": "the same, universes of 20 to 200 assets",
    "dual_over_direct_n500_t60": "spectra by the T x T Gram matrix over the N x N one, N = 500, T = 60",
    "peak_memory_ratio": "peak memory over the panel's share plus two parts of the universes",
    "service_over_inprocess_n100": "parameters through gRPC over the same pipeline in one process",
    "covariance_over_inprocess_n100": "the same with covariances",
    "shm_over_grpc": "covariances through shared memory over gRPC",
    "covariance_shm_universes_per_s": "universes a second with covariances, both cores, shared memory",
    "single_universe_extra_ms": "milliseconds that a call of one universe costs beyond the same in process",
    "risk_bytes_over_covariance_n100_p3": "bytes of the risk of three portfolios over those of matrices",
    "risk_throughput_over_covariance_n100_p3": "throughput of the same",
    "client_peak_mb_100k": "MB that a client needs to stream 100,000 universes with covariances",
}


def speed() -> str:
    """Figures of ``make bench`` and of the service, by name."""
    figures: dict[str, float] = {}
    for name in ("cpu", "service", "risk"):
        figures |= json.loads((RESULTS / f"{name}.json").read_text())["figures"]
    return _markdown(
        [["figure", ""], ["---", "--:"], *([text, f"{figures[name]:.3g}"] for name, text in SPEED.items())]
    )


if __name__ == "__main__":
    print(
        headline(), accuracy(), risk(), grid(), designs(), history(), spacing(), missing(), stale(), speed(), sep="\n\n"
    )
