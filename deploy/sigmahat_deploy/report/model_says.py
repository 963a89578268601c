# SPDX-License-Identifier: Apache-2.0
"""What the model says of a universe, in words."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sigmahat_deploy.report.study import Universe
from sigmahat_kernels.panel import FAST_HALFLIFE, RECENT_ROWS, VOLATILITY_HALFLIVES
from sigmahat_kernels.parameters import PUBLISHED, REGIMES, TARGETS

_REGIMES = {  # as the protocol defines them: next month's market volatility over the window's
    "calm": "below 0.7 times",
    "normal": "0.7 to 1.0 times",
    "elevated": "1.0 to 1.5 times",
    "stressed": "above 1.5 times",
}


class Regime(NamedTuple):
    """How likely next month's market volatility is in a range."""

    name: str
    range: str
    probability: float


class Statement(NamedTuple):
    """One thing that the model says."""

    topic: str
    words: str


class Said(NamedTuple):
    """All of it."""

    statements: list[Statement]
    regimes: list[Regime]


def say(universe: Universe) -> Said:
    """Put the answer of the networks into words."""
    return Said(
        [
            Statement("Shrinkage", _shrinkage(universe)),
            Statement("Memory", _memory(universe)),
            Statement("Volatility", _volatility(universe)),
            Statement("Expected error", _expected_error(universe)),
            Statement("Regime", _regime(universe)),
        ],
        regimes(universe),
    )


def target_shares(universe: Universe) -> dict[str, float]:
    """What part of the target each of the three is: pi_k alpha_k over their sum; equal parts where that is zero."""
    w = universe.numbers(PUBLISHED["target_weights"].columns) * universe.numbers(PUBLISHED["target_intensity"].columns)
    shares = w / w.sum() if w.sum() > 0 else np.full(len(w), 1 / len(w))
    return dict(zip(TARGETS, shares.tolist(), strict=True))


def error_interval(universe: Universe) -> tuple[float, float, float]:
    """Realised over forecast volatility that is expected, then one standard deviation below and above.

    The error is a logarithm, its deviation the root of the sum of both uncertainties' squares.
    """
    mean = float(universe.row["expected_error"])
    deviation = float(np.hypot(*universe.numbers(PUBLISHED["uncertainty"].columns)))
    return float(np.exp(mean)), float(np.exp(mean - deviation)), float(np.exp(mean + deviation))


def regimes(universe: Universe) -> list[Regime]:
    """Probabilities, the calmest first."""
    values = universe.numbers(PUBLISHED["regime"].columns).tolist()
    return [Regime(name, _REGIMES[name], p) for name, p in zip(REGIMES, values, strict=True)]


def percent(share: float) -> str:
    """A share in whole percent.

    >>> percent(0.4187), percent(0.002)
    ('42 %', '0.2 %')
    """
    return f"{share:.1%}".replace("%", " %") if 0 < abs(share) < 0.01 else f"{share:.0%}".replace("%", " %")


def _shrinkage(universe: Universe) -> str:
    intensity = float(universe.row["intensity"])
    parts = [f"{percent(share)} {name.replace('_', ' ')}" for name, share in target_shares(universe).items()]
    return (
        f"The intensity is {intensity:.2f}: {percent(1 - intensity)} of the correlations are measured, "
        f"{percent(intensity)} come from the target, which is {', '.join(parts[:-1])} and {parts[-1]}."
    )


def _memory(universe: Universe) -> str:
    memory, factors = float(universe.row["memory"]), float(universe.row["factor_memory"])
    leaning = "mostly recent" if memory > 0.6 else "mostly the whole window" if memory < 0.4 else "about even"
    return (
        f"Of the measured correlations {percent(memory)} are exponentially weighted with a half-life of "
        f"{FAST_HALFLIFE:g} rows, the rest weigh the last {RECENT_ROWS} rows alike and older ones less: {leaning}. "
        f"{percent(factors)} of what these give are replaced by the three leading factors of the recent ones."
    )


def _volatility(universe: Universe) -> str:
    *weights, pull = universe.numbers(PUBLISHED["volatility"].columns).tolist()
    level = float(np.exp(float(universe.row["level_log_volatility"])) - 1)
    bases = ["the whole window", *(f"half-life {halflife:g}" for halflife in VOLATILITY_HALFLIVES)]
    parts = [f"{percent(weight)} {base}" for weight, base in zip(weights, bases, strict=True)]
    moved = "raised" if level >= 0 else "lowered"
    return (
        f"Volatilities blend {', '.join(parts[:-1])} and {parts[-1]} (of logarithms), are pulled {percent(pull)} of "
        f"the way to the universe's mean, and then {moved} by {percent(abs(level))} together."
    )


def _expected_error(universe: Universe) -> str:
    mean, low, high = error_interval(universe)
    aleatoric, epistemic = universe.numbers(PUBLISHED["uncertainty"].columns).tolist()
    return (
        "The minimum-variance portfolio is expected to realise "
        f"{mean:.2f} times the volatility that the matrix gives it, between {low:.2f} and {high:.2f} in two months of "
        f"three. Of that uncertainty (in logarithms), {aleatoric:.2f} is the market's and {epistemic:.2f} the "
        "disagreement of the members."
    )


def _regime(universe: Universe) -> str:
    likely = max(regimes(universe), key=lambda regime: regime.probability)
    return (
        f"Most likely {likely.name}, with {percent(likely.probability)}: next month's market volatility {likely.range} "
        "that of the window."
    )
