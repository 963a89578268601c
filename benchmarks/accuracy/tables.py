# SPDX-License-Identifier: Apache-2.0
"""The README's tables, from the files in ``results/``: ``python benchmarks/accuracy/tables.py`` prints them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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


def accuracy(n_assets: int = 100, n_obs: int = 252) -> str:
    """Volatility of each estimator's minimum-variance portfolio against QIS in correlation space, panel by panel.

    Of one cell of the grid; a panel too small for it is shown at its largest universes.
    """
    header = ["panel (assets, dates)", "QIS (corr.), % a year", *SHOWN.values()]
    rows = [header, ["---"] * len(header)]
    for panel, cell in _cells(n_assets, n_obs):
        methods = cell["methods"]
        row = [
            f"{panel} ({cell['n_assets']}, {cell['n_dates']})",
            f"{methods['qis_correlation']['annual_volatility_percent']:.2f}",
        ]
        for name in SHOWN:
            score = methods[name]["versus"]["qis_correlation"]["gmv"] if name in methods else None
            row.append(_difference(score, 1))
        rows.append(row)
    return _markdown(rows)


def risk(n_assets: int = 100, n_obs: int = 252) -> str:
    """Risk numbers of arbitrary portfolios, and the ensemble against what else has learned; cells as in `accuracy`."""
    header = ["panel", "vs learned constants", "vs tilted constants", "vs RIEnet"]
    header += ["bias, long-only", "bias, long-short", "bias, QIS, long-only", "QLIKE, long-only", "QLIKE, long-short"]
    rows = [header, ["---"] * len(header)]
    for panel, cell in _cells(n_assets, n_obs):
        own, qis = cell["methods"]["sigmahat"], cell["methods"]["qis_correlation"]
        against = own["versus"]
        rows.append(
            [
                panel,
                *(_difference(against[name]["gmv"], 1) for name in ("learned_constants", "tilted_constants", "rienet")),
                *(f"{own[f'random_{kind}_bias']:.2f}" for kind in ("long_only", "long_short")),
                f"{qis['random_long_only_bias']:.2f}",
                *(_difference(against["qis_correlation"][f"random_{k}_qlike"], 3) for k in ("long_only", "long_short")),
            ]
        )
    return _markdown(rows)


def grid() -> str:
    """Every cell of the grid: universes by windows, against QIS in correlation space."""
    figures = json.loads((RESULTS / "accuracy_grid.json").read_text())["figures"]
    table = figures["grid"]["sigmahat"]["qis_correlation"]["table"]
    header, rows = ["panel", "T", "smallest universes", "", "largest"], []
    for panel, cells in table.items():
        by_length: dict[int, list[str]] = {}
        for name, found in cells.items():
            size, length, _ = (int(part.split("=")[1]) for part in name.split(", "))
            by_length.setdefault(length, []).append(f"N={size}: {_difference(found, 1)}")
        rows += [[panel, str(length), *found, *[""] * (3 - len(found))] for length, found in by_length.items()]
    return _markdown([header, ["---"] * len(header), *rows])


def designs() -> str:
    """Simulated designs: PRIAL less that of multi-target Ledoit-Wolf, mean over shapes and worst shape."""
    figures = json.loads((RESULTS / "accuracy_grid.json").read_text())["figures"]["prial"]["sigmahat"]
    header = ["design", "Frobenius: not below", "mean, worst", "minimum variance: not below", "mean, worst"]
    rows = [header, ["---"] * len(header)]
    for design in figures["frobenius"]:
        row = [design]
        for loss in ("frobenius", "minimum_variance"):
            found = figures[loss][design]
            mean = sum(shape["difference"] for shape in found["table"].values()) / found["shapes"]
            worst = found["worst"]
            row.append(f"{found['not_below']} of {found['shapes']}")
            row.append(f"{mean:+.1f}, {worst['difference']:+.1f} ± {worst['difference_error']:.1f} ({worst['shape']})")
        rows.append(row)
    return _markdown(rows)


def _cells(n_assets: int, n_obs: int) -> list[tuple[str, dict[str, Any]]]:
    """Of each panel the cell of the largest universes up to `n_assets`."""
    panels = json.loads((RESULTS / "accuracy.json").read_text())["figures"]["panels"]
    chosen = []
    for panel, cells in panels.items():
        fitting = [c for name, c in cells.items() if f" T={n_obs}," in name and c["n_assets"] <= n_assets]
        chosen.append((panel, max(fitting, key=lambda c: c["n_assets"])))
    return chosen


def _difference(score: dict[str, float] | None, digits: int) -> str:
    return f"{score['difference']:+.{digits}f} ({score['t']:+.1f})" if score else "none"


def _markdown(rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


SPEED = {
    "features_over_eigvalsh_n100": "all features over `numpy.linalg.eigvalsh` alone, N = 100, one thread",
    "features_over_eigvalsh_n250": "the same, N = 250",
    "features_over_sklearn_lw_n100": "all features over a loop of `sklearn.covariance.LedoitWolf().fit`, one thread",
    "two_threads_over_one": "two threads over one",
    "dual_over_direct_n500_t60": "spectra by the T x T Gram matrix over the N x N one, N = 500, T = 60",
    "peak_memory_ratio": "peak memory over the panel's share plus two parts of the universes",
    "service_over_inprocess_n100": "parameters through gRPC over the same pipeline in one process",
    "covariance_over_inprocess_n100": "the same with covariances",
    "shm_over_grpc": "covariances through shared memory over gRPC",
    "covariance_shm_universes_per_s": "universes a second with covariances, both cores, shared memory",
    "single_universe_extra_ms": "milliseconds that a call of one universe costs beyond the same in process",
    "client_peak_mb_100k": "MB that a client needs to stream 100,000 universes with covariances",
}


def speed() -> str:
    """Figures of ``make bench`` and of the service, by name."""
    figures: dict[str, float] = {}
    for name in ("cpu", "service"):
        figures |= json.loads((RESULTS / f"{name}.json").read_text())["figures"]
    return _markdown(
        [["figure", ""], ["---", "--:"], *([text, f"{figures[name]:.3g}"] for name, text in SPEED.items())]
    )


if __name__ == "__main__":
    print(accuracy(), risk(), grid(), designs(), speed(), sep="\n\n")
