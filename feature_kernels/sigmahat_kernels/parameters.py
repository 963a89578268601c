# SPDX-License-Identifier: Apache-2.0
"""The published layout of a member's answer: one row of numbers a universe, cut into named heads.

Everything that knows a head takes it from here: the members' width, the tensors and shapes that the server publishes,
its configuration files, and the columns of the client's tables.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple, get_type_hints

from sigmahat_kernels.asset_statistics import ASSET_STATISTICS
from sigmahat_kernels.backend import AnyArray as Array
from sigmahat_kernels.panel import VOLATILITY_HALFLIVES

TARGETS = ("identity", "constant_correlation", "single_factor")
VOLATILITY_BASES = ("window", *(f"halflife_{halflife:g}" for halflife in VOLATILITY_HALFLIVES))
LEVELS = ("log_volatility", "common_variance")
REGIMES = ("calm", "normal", "elevated", "stressed")


class Head(NamedTuple):
    """Numbers of an answer that belong together."""

    columns: tuple[str, ...]
    """Their names, as a table of answers heads them."""
    meaning: str
    """What they are, in one line."""
    unit: str = "1"
    """Their unit: 1 of what has none, log10 or ln of a logarithm, separated by commas where columns differ."""
    published: bool = True
    """Whether the server publishes them: as a tensor of the head's name, in capitals."""
    squeezed: bool = False
    """Whether that tensor has the shape (universes,) of a single number, not (universes, columns)."""

    shapes_matrix: bool = False
    """Whether the covariance matrix depends on them."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the published tensor, behind the axis of universes."""
        return () if self.squeezed else (len(self.columns),)


def _each(prefix: str, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{prefix}_{name}" for name in names)


class Parameters(NamedTuple):
    """A member's (or the ensemble's) answer for `n` universes, one field a head, each of shape (n, columns).

    The fields stand in the order of a member's PARAMETERS tensor.
    """

    target_intensity: Annotated[
        Array,
        Head(_each("intensity", TARGETS), "alpha_k in (0, 1): intensity toward this target alone", shapes_matrix=True),
    ]
    target_weights: Annotated[
        Array, Head(_each("weight", TARGETS), "pi_k: selection weight of this target; sum 1", shapes_matrix=True)
    ]
    target_confidence: Annotated[
        Array,
        Head(_each("confidence", TARGETS), "probability that this target alone does at least as well as the mixture"),
    ]
    memory: Annotated[
        Array,
        Head(("memory",), "phi in (0, 1): weight of the exponentially weighted correlation", shapes_matrix=True),
    ]
    factor_memory: Annotated[
        Array,
        Head(
            ("factor_memory",),
            "psi in (0, 1): weight of the three leading factors of the exponentially weighted correlation",
            shapes_matrix=True,
        ),
    ]
    volatility: Annotated[
        Array,
        Head(
            _each("volatility", (*VOLATILITY_BASES, "pull")),
            "weight of the volatility over the window or with this half-life in rows, sum 1; then the pull to the "
            "universe's mean",
            shapes_matrix=True,
        ),
    ]
    intensity_tilt: Annotated[
        Array,
        Head(
            _each("intensity_tilt", tuple(ASSET_STATISTICS)),
            "theta: how the logit of an asset's intensity leans on this statistic of it",
            "1 per usual difference between assets",
            shapes_matrix=True,
        ),
    ]
    volatility_tilt: Annotated[
        Array,
        Head(
            _each("volatility_tilt", tuple(ASSET_STATISTICS)),
            "eta: what this statistic adds to an asset's ln volatility",
            "ln per usual difference between assets",
            shapes_matrix=True,
        ),
    ]
    level: Annotated[
        Array,
        Head(
            _each("level", LEVELS),
            "s: added to all ln volatilities; kappa: variance that all assets have in common",
            "ln, harmonic mean variances",
            shapes_matrix=True,
        ),
    ]
    condition: Annotated[
        Array,
        Head(("condition",), "condition number of the estimate, as the members expect it", "log10", squeezed=True),
    ]
    expected_error: Annotated[
        Array,
        Head(
            ("expected_error",),
            "expected ln(realised / forecast volatility) of the minimum-variance portfolio",
            "ln",
            squeezed=True,
        ),
    ]
    log_variance: Annotated[
        Array, Head(("log_variance",), "variance of that error: a member's own, aleatoric", "ln", published=False)
    ]
    regime: Annotated[
        Array, Head(_each("regime", REGIMES), "probability of this regime in the period after the window; sum 1")
    ]


LAYOUT: dict[str, Head] = {
    name: hint.__metadata__[0] for name, hint in get_type_hints(Parameters, include_extras=True).items()
}
"""Head name -> what `Parameters` says of it, in the order of PARAMETERS."""

HEADS: dict[str, int] = {name: len(head.columns) for name, head in LAYOUT.items()}
"""Head name -> how many columns of PARAMETERS it takes."""

N_PARAMETERS = sum(HEADS.values())

PUBLISHED: dict[str, Head] = {
    "intensity": Head(("intensity",), "delta in [0, 1]: shrinkage intensity of the universe", squeezed=True),
    **{name: head for name, head in LAYOUT.items() if head.published},
    "uncertainty": Head(
        _each("uncertainty", ("aleatoric", "epistemic")),
        "standard deviation of the expected error: what no model could know; what the members disagree about",
        "ln",
    ),
}
"""What the server publishes of every universe, in small letters: what the ensemble adds, and the members' heads.

BLOCK_INTENSITY, whose width is the request's, is published beside these.
"""


def split_parameters(parameters: Array) -> Parameters:
    """Cut an array of shape (..., N_PARAMETERS) into its heads, as views.

    >>> import numpy as np
    >>> split_parameters(np.arange(N_PARAMETERS)[None]).memory
    array([[9]])
    """
    heads, start = [], 0
    for columns in HEADS.values():
        heads.append(parameters[..., start : start + columns])
        start += columns
    return Parameters(*heads)


def intensity_of(parameters: Parameters) -> Array:
    """Global shrinkage intensity delta = sum_k pi_k alpha_k; (..., columns) -> (...)."""
    return (parameters.target_weights * parameters.target_intensity).sum(axis=-1)
