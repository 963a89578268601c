# SPDX-License-Identifier: Apache-2.0
"""Write ``docs/features.md`` from the definitions in the code: ``python docs/make_features.py``."""

from __future__ import annotations

from pathlib import Path

from sigmahat_kernels.correlation import CORRELATION
from sigmahat_kernels.features import FEATURE_NAMES, N_FEATURES
from sigmahat_kernels.market import MARKET
from sigmahat_kernels.missing import MISSING
from sigmahat_kernels.regime import REGIME
from sigmahat_kernels.spectrum import SPECTRUM
from sigmahat_kernels.temporal import SEASON, TEMPORAL

PAGE = Path(__file__).with_name("features.md")
INTRODUCTION = f"""\
# The {N_FEATURES} features of a universe

One row of FEATURES a universe, in this order; float32, one number each, without a unit unless the definition names one.
Computed in float64 from the returns of the universe's own assets over its own window, so no feature changes with other
universes, other columns of the panel, padding, the order of the assets or rows after the window's end.

Missing returns: volatilities and means run over the returns that are there; after standardising a missing cell is zero,
and a pair of assets is normalised by the root of the product of both assets' own sums, which keeps the correlation
matrix positive semi-definite. (The estimate itself completes such correlations.) Stale prices are missing. A universe
with an infinite return, a constant asset or one with fewer than 20 returns gets a status instead of features.

N: assets of the universe, T: rows of the window, n: average number of returns of its assets, less one, R: correlation
matrix of the standardised returns, cut at 3 standard deviations.
"""
GROUPS = {
    "Spectrum": SPECTRUM,
    "Correlation": CORRELATION,
    "Regime": REGIME,
    "Time": TEMPORAL,
    "Season (needs DATES)": SEASON,
    "Market (needs MARKET)": MARKET,
    "Missing returns": MISSING,
}


def page() -> str:
    """The whole page."""
    lines = [INTRODUCTION]
    for title, group in GROUPS.items():
        lines += [f"## {title}", "", "| column | feature | definition; range |", "| --: | --- | --- |"]
        # Markdown would read a bar inside a cell as the cell's end.
        escaped = {name: definition.replace("|", "\\|") for name, definition in group.items()}
        lines += [f"| {FEATURE_NAMES.index(name)} | `{name}` | {text} |" for name, text in escaped.items()]
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page())
