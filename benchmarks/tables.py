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


if __name__ == "__main__":
    print(accuracy())
