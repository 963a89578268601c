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


def accuracy() -> str:
    """Volatility of each estimator's minimum-variance portfolio against QIS in correlation space, panel by panel."""
    result = json.loads((RESULTS / "accuracy.json").read_text())
    header = ["panel (assets, dates)", "QIS (corr.), % a year", *SHOWN.values()]
    rows = [header, ["---"] * len(header)]
    for panel, scores in result["figures"].items():
        methods = scores["methods"]
        row = [
            f"{panel} ({scores['n_assets']}, {scores['n_dates']})",
            f"{methods['qis_correlation']['annual_volatility_percent']:.2f}",
        ]
        for name in SHOWN:
            score = methods.get(name)
            row.append(f"{score['versus_qis_correlation_percent']:+.1f} ({score['t']:+.1f})" if score else "none")
        rows.append(row)
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


if __name__ == "__main__":
    print(accuracy())
