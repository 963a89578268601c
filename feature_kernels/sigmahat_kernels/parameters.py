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

    # alpha_k in (0, 1): the intensity head k would use alone
    target_intensity: Annotated[Array, Head(_each("intensity", TARGETS), shapes_matrix=True)]
    # pi_k, sum 1: selection over the targets
    target_weights: Annotated[Array, Head(_each("weight", TARGETS), shapes_matrix=True)]
    # probability that target k alone does at least as well as the mixture
    target_confidence: Annotated[Array, Head(_each("confidence", TARGETS))]
    # phi in (0, 1): weight of the exponentially weighted correlation
    memory: Annotated[Array, Head(("memory",), shapes_matrix=True)]
    # blend over half-lives (sum 1), then the pull to the cross-section
    volatility: Annotated[Array, Head(_each("volatility", (*VOLATILITY_BASES, "pull")), shapes_matrix=True)]
    # theta: an asset's logit of delta is the universe's + theta . its statistics
    intensity_tilt: Annotated[Array, Head(_each("intensity_tilt", tuple(ASSET_STATISTICS)), shapes_matrix=True)]
    # eta: what its statistics add to an asset's ln volatility
    volatility_tilt: Annotated[Array, Head(_each("volatility_tilt", tuple(ASSET_STATISTICS)), shapes_matrix=True)]
    # ln of the factor on all volatilities; common variance, in harmonic mean variances
    level: Annotated[Array, Head(_each("level", LEVELS), shapes_matrix=True)]
    # log10 condition number of the estimate
    condition: Annotated[Array, Head(("condition",), squeezed=True)]
    # expected ln(realised / forecast volatility) of the minimum-variance portfolio
    expected_error: Annotated[Array, Head(("expected_error",), squeezed=True)]
    # ln of the variance of that error: the member's own, aleatoric
    log_variance: Annotated[Array, Head(("log_variance",), published=False)]
    # probabilities, sum 1
    regime: Annotated[Array, Head(_each("regime", REGIMES))]


LAYOUT: dict[str, Head] = {
    name: hint.__metadata__[0] for name, hint in get_type_hints(Parameters, include_extras=True).items()
}
"""Head name -> what `Parameters` says of it, in the order of PARAMETERS."""

HEADS: dict[str, int] = {name: len(head.columns) for name, head in LAYOUT.items()}
"""Head name -> how many columns of PARAMETERS it takes."""

N_PARAMETERS = sum(HEADS.values())

PUBLISHED: dict[str, Head] = {
    "intensity": Head(("intensity",), squeezed=True),
    **{name: head for name, head in LAYOUT.items() if head.published},
    "uncertainty": Head(_each("uncertainty", ("aleatoric", "epistemic"))),
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
