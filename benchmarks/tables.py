# SPDX-License-Identifier: Apache-2.0
"""The README's tables, from the files in ``results/``: ``python benchmarks/tables.py`` prints them."""

from __future__ import annotations

import json
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
SHOWN = {
    "sample": "sample",
    "ledoit_wolf_identity": "LW identity",
    "ledoit_wolf_single_factor": "LW single factor",
    "qis": "QIS",
    "learned_constants": "learned constants",
    "sigmahat": "**sigmahat**",
}


def accuracy(n_assets: int = 100, n_obs: int = 252) -> str:
    """Volatility of each estimator's minimum-variance portfolio against QIS in correlation space, panel by panel.

    Of one cell of the grid; a panel too small for it is shown at its largest universes.
    """
    result = json.loads((RESULTS / "accuracy.json").read_text())
    header = ["panel (assets, dates)", "QIS (corr.), % a year", *SHOWN.values()]
    rows = [header, ["---"] * len(header)]
    for panel, cells in result["figures"]["panels"].items():
        fitting = [c for name, c in cells.items() if f" T={n_obs}," in name and c["n_assets"] <= n_assets]
        cell = max(fitting, key=lambda c: c["n_assets"])
        methods = cell["methods"]
        row = [
            f"{panel} ({cell['n_assets']}, {cell['n_dates']})",
            f"{methods['qis_correlation']['annual_volatility_percent']:.2f}",
        ]
        for name in SHOWN:
            score = methods[name]["versus"]["qis_correlation"]["gmv"] if name in methods else None
            row.append(f"{score['difference']:+.1f} ({score['t']:+.1f})" if score else "none")
        rows.append(row)
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
    figures = {}
    for name in ("cpu", "service"):
        figures |= json.loads((RESULTS / f"{name}.json").read_text())["figures"]
    rows = [["figure", ""], ["---", "--:"], *([text, f"{figures[name]:.3g}"] for name, text in SPEED.items())]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


if __name__ == "__main__":
    print(accuracy(), speed(), sep="\n\n")
