# SPDX-License-Identifier: Apache-2.0
"""From parameters and portfolios to risk: numbers of the covariance matrices, which themselves go nowhere."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from sigmahat_kernels.assemble import Chunk, assemble_assets, for_each_chunk, intensity_of_assets
from sigmahat_kernels.backend import Array, array_namespace, to_numpy
from sigmahat_kernels.minimum_variance import long_only, long_short
from sigmahat_kernels.parallel import Pause, go_on
from sigmahat_kernels.parameters import Parameters
from sigmahat_kernels.portfolios import Portfolios
from sigmahat_kernels.request import PADDING, Request
from sigmahat_kernels.shared_window import KeptMoments
from sigmahat_kernels.status import PortfolioStatus, Status

MINIMUM_VARIANCE_RULES = ("long_short", "long_only")
"""Order of the second axis of `Risk.minimum_variance`."""


class Risk(NamedTuple):
    """Risk of P portfolios in U universes of up to N assets; NaN where there is none. One field a published tensor.

    Units: w of the portfolios', r of returns per period. For the period after each window's last row.
    """

    variance: np.ndarray  # (U, P) float64, w'Sw in w^2 r^2
    portfolio_covariance: np.ndarray  # (U, P, P) float64, w_a'Sw_b
    marginal: np.ndarray  # (U, P, N) float64, Sw in w r^2
    beta: np.ndarray  # (U, P, N) float64, Sw / w'Sw of each asset to each portfolio, in 1 / w
    diagonal: np.ndarray  # (U, N) float32, variances of the assets in r^2
    minimum_variance_weights: np.ndarray  # (U, 2, N) float32, or (U, 0, N) where they were not asked for
    minimum_variance: np.ndarray  # (U, 2) float64, or (U, 0)
    portfolio_status: np.ndarray  # (U, P) int32, `PortfolioStatus` codes
    portfolio_asset: np.ndarray  # (U, P) int32, the entry of UNIVERSES that it complains of, or -1


_TOGETHER_BYTES = 2**30
"""What the float64 matrices that a GPU has at a time may take."""

_SEARCHED_BYTES = 2**28
"""The same where portfolios of least variance are searched for, which takes some eight copies of them."""

_CLASSES_TO_TWICE = 4
"""Size classes from one size to twice as many assets."""

PUBLISHED_RISK = tuple(name.upper() for name in Risk._fields)
"""Tensors of `risk`."""


def published_risk(risk: Risk) -> dict[str, np.ndarray]:
    """What is answered, by the names of the protocol."""
    return dict(zip(PUBLISHED_RISK, risk, strict=True))


def products(matrices: Array, weights: Array) -> tuple[Array, Array]:
    """What portfolios want to know of a stack of covariance matrices.

    Parameters
    ----------
    matrices : float64 array of shape (n, N, N)
    weights : float64 array of shape (n, P, N)

    Returns
    -------
    marginal : array of shape (n, P, N)
        S w of each portfolio.
    covariance : array of shape (n, P, P)
        w_a' S w_b; its diagonal is the variances, sum_i w_i (S w)_i.
    """
    xp = array_namespace(matrices)
    marginal = xp.matmul(weights, matrices)
    covariance = xp.matmul(marginal, xp.swapaxes(weights, 1, 2))
    return marginal, (covariance + xp.swapaxes(covariance, 1, 2)) / 2.0


def measure_portfolios(
    request: Request,
    parameters: Parameters,
    status: np.ndarray,
    portfolios: Portfolios,
    *,
    minimum_variance: bool = False,
    block_intensity: np.ndarray | None = None,
    classic: bool = False,
    threads: int | None = None,
    kept: KeptMoments | None = None,
    pause: Pause = go_on,
) -> Risk:
    """Measure portfolios in every universe by the matrices that `assemble.assemble` builds, in float64.

    Compiled for a CPU, their entries are multiplied as they are computed, and no matrix is written but for portfolios
    of least variance; otherwise they are those of `products`. On a GPU matrices of all sizes stand side by side, as
    many as `_TOGETHER_BYTES` hold, with zeros behind the smaller ones.

    Parameters
    ----------
    portfolios : Portfolios
        From `portfolios.read_portfolios`. One that is refused is NaN; the others of its universe are untouched.
    minimum_variance : bool
        Find each universe's fully invested portfolios of least variance too, see `minimum_variance`.

    The others are those of `assemble.assemble`.
    """
    n_universes, n_assets = request.universes.shape
    n_rules = len(MINIMUM_VARIANCE_RULES) if minimum_variance else 0
    portfolio_status, portfolio_asset = portfolios.judge(request, status)
    good = portfolio_status == PortfolioStatus.GOOD
    risk = Risk(
        variance=np.full((n_universes, portfolios.number), np.nan),
        portfolio_covariance=np.full((n_universes, portfolios.number, portfolios.number), np.nan),
        marginal=np.full((n_universes, portfolios.number, n_assets), np.nan),
        beta=np.full((n_universes, portfolios.number, n_assets), np.nan),
        diagonal=np.full((n_universes, n_assets), np.nan, np.float32),
        minimum_variance_weights=np.full((n_universes, n_rules, n_assets), np.nan, np.float32),
        minimum_variance=np.full((n_universes, n_rules), np.nan),
        portfolio_status=portfolio_status,
        portfolio_asset=portfolio_asset,
    )

    def measure(
        universes: np.ndarray,
        size: int,
        build: Callable[[], Array],
        multiply: Callable[[np.ndarray], tuple[np.ndarray, ...]] | None = None,
        held: np.ndarray | None = None,
    ) -> None:
        """Measure universes by their matrices or without; where smaller ones stand among them, `held` (n, size)."""
        usable = good[universes]
        weights = portfolios.of(request, universes, size)
        weights[~usable] = 0.0
        if held is not None:
            weights = np.where(held[:, None], weights, 0.0)
        measured = multiply(weights) if multiply else None
        if measured is None or minimum_variance:
            matrices = build()  # once, for both
            measured = measured or _multiplied(matrices, weights)
        _record(risk, universes, usable, held, *measured)
        if minimum_variance:
            _record_least(risk, universes, held, matrices)

    def measure_chunk(chunk: Chunk) -> None:
        measure(chunk.universes, chunk.places.shape[1], chunk.matrices, chunk.multiply if chunk.compiled else None)

    settings: dict[str, Any] = {"classic": classic, "threads": threads, "kept": kept, "pause": pause}
    if array_namespace(request.panel) is np:
        of_chunks = {"block_intensity": block_intensity, "stacked": minimum_variance, **settings}
        for_each_chunk(measure_chunk, request, parameters, status, **of_chunks)
        return risk
    intensity = intensity_of_assets(request, parameters, block_intensity)
    some = np.flatnonzero(status == Status.GOOD)
    at_once = max(1, (_SEARCHED_BYTES if minimum_variance else _TOGETHER_BYTES) // (8 * n_assets**2))
    for universes in np.split(some, range(at_once, len(some), at_once)) if len(some) else []:
        rows, windows = request.universes[universes], request.windows[universes]
        part = request._replace(universes=rows, windows=windows, blocks=None)
        heads = Parameters(*(head[universes] for head in parameters))
        build = partial(assemble_assets, part, heads, intensity[universes], status[universes], **settings)
        measure(universes, n_assets, partial(build, dtype=np.float64, padding=0.0), held=rows != PADDING)
    return risk


def _record(
    risk: Risk,
    universes: np.ndarray,
    usable: np.ndarray,
    held: np.ndarray | None,
    marginal: np.ndarray,
    covariance: np.ndarray,
    diagonal: np.ndarray,
) -> None:
    """Put what was found of some universes in its place."""
    # What the products with a refused portfolio are is no number of anybody's.
    marginal[~usable] = np.nan
    covariance[~usable] = np.nan
    covariance.swapaxes(1, 2)[~usable] = np.nan
    if held is not None:
        marginal[np.broadcast_to(~held[:, None], marginal.shape)] = np.nan
        diagonal[~held] = np.nan
    variance = np.einsum("npp->np", covariance)
    size = marginal.shape[2]
    risk.variance[universes] = variance
    risk.portfolio_covariance[universes] = covariance
    risk.marginal[universes, :, :size] = marginal
    risk.beta[universes, :, :size] = marginal / variance[:, :, None]
    risk.diagonal[universes, :size] = diagonal


def _record_least(risk: Risk, universes: np.ndarray, held: np.ndarray | None, matrices: Array) -> None:
    """Find the portfolios of least variance of some universes, and put them in their place."""
    xp = array_namespace(matrices)
    if held is None:
        least = xp.stack([long_short(matrices), long_only(matrices)], axis=1)
        _, covariance = products(matrices, least)
        risk.minimum_variance_weights[universes, :, : matrices.shape[1]] = to_numpy(least)
        risk.minimum_variance[universes] = to_numpy(xp.einsum("npp->np", covariance))
        return
    # Equations are solved in the size of the largest: those of a size class together, each a fifth above the last.
    sizes = held.sum(axis=1)
    classes = np.ceil(_CLASSES_TO_TWICE * np.log2(sizes))
    for one in np.unique(classes):
        rows = np.flatnonzero(classes == one)
        size = int(sizes[rows].max())
        some, own = matrices[xp.asarray(rows), :size, :size], held[rows, :size]
        there = xp.asarray(own)
        least = xp.stack([long_short(some, there), long_only(some, there)], axis=1)
        _, covariance = products(some, least)
        weights = np.where(own[:, None], to_numpy(least), np.nan)
        risk.minimum_variance_weights[universes[rows], :, :size] = weights
        risk.minimum_variance[universes[rows]] = to_numpy(xp.einsum("npp->np", covariance))


def _multiplied(matrices: Array, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`products` of matrices, and their diagonals, on the host."""
    xp = array_namespace(matrices)
    marginal, covariance = products(matrices, xp.asarray(weights))
    return to_numpy(marginal), to_numpy(covariance), to_numpy(xp.einsum("nii->ni", matrices))
