# SPDX-License-Identifier: Apache-2.0
"""Portfolios as they come from outside: their checks, and the weights that each universe takes of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sigmahat_kernels.backend import to_numpy
from sigmahat_kernels.request import MAX_PORTFOLIOS, MAX_RISK_CELLS, PADDING, Request
from sigmahat_kernels.status import InvalidRequest, PortfolioStatus, Status


class Portfolios(NamedTuple):
    """Weights that can be read; single portfolios may still be refused with a `PortfolioStatus`."""

    weights: np.ndarray  # (n_universes, n_portfolios, n_assets) or, of the panel's columns, (n_portfolios, n_columns)

    @property
    def number(self) -> int:
        """How many there are."""
        return int(self.weights.shape[-2])

    def of(self, request: Request, universes: np.ndarray, size: int) -> np.ndarray:
        """Weights of good universes of up to `size` assets, float64 (n, n_portfolios, size); anything behind fewer."""
        if self.weights.ndim == 3:
            found = self.weights[universes, :, :size]
        else:
            found = np.moveaxis(self.weights[:, request.universes[universes, :size]], 0, 1)
        # In one order however they came: BLAS rounds differently in another.
        return found.astype(np.float64, order="C")

    def judge(self, request: Request, status: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What is wrong with each portfolio in each universe.

        Returns
        -------
        status : int32 array of shape (n_universes, n_portfolios)
            A `PortfolioStatus` code.
        asset : int32 array of shape (n_universes, n_portfolios)
            The first offending entry of the universe's row of UNIVERSES; -1 where the status names no asset.
        """
        found = np.full((len(status), self.number), int(PortfolioStatus.UNIVERSE_REFUSED), np.int32)
        asset = np.full(found.shape, PADDING, np.int32)
        good = np.flatnonzero(status == Status.GOOD)
        sizes = (request.universes[good] != PADDING).sum(axis=1)
        for size in np.unique(sizes).tolist():
            universes = good[sizes == size]
            weights = self.of(request, universes, size)
            codes = np.zeros(weights.shape[:2], np.int32)
            codes[~weights.any(axis=2)] = PortfolioStatus.NO_POSITIONS
            if self.weights.ndim == 3:
                codes[self.weights[universes, :, size:].any(axis=2)] = PortfolioStatus.OUTSIDE_UNIVERSE
            unreadable = ~np.isfinite(weights)
            bad = unreadable.any(axis=2)
            codes[bad] = PortfolioStatus.NON_FINITE_WEIGHT
            rows, columns = np.nonzero(bad)
            first = np.argmax(unreadable[rows, columns], axis=1)
            found[universes] = codes
            asset[universes[rows], columns] = request.universes[universes[rows], first]
        return found, asset


def read_portfolios(
    request: Request, weights: np.ndarray | None = None, portfolios: np.ndarray | None = None
) -> Portfolios:
    """Check what a caller sent, as far as it concerns the request as a whole.

    Parameters
    ----------
    request : Request
        Whose universes they are of.
    weights : floating point array of shape (n_universes, n_portfolios, n_assets), optional
        WEIGHTS: positions on the assets of each universe, in any unit, zero in padding.
    portfolios : floating point array of shape (n_portfolios, n_columns), optional
        PORTFOLIOS: positions on the columns of the panel, of which each universe takes those of its own assets.
        Neither of both: no portfolios.

    Raises
    ------
    InvalidRequest
        On both of them, a wrong rank, shape or dtype, or above the limits.
    """
    if weights is not None and portfolios is not None:
        raise InvalidRequest("positions must come as WEIGHTS or as PORTFOLIOS, got both")
    n_universes, n_assets = request.universes.shape
    n_columns = request.panel.shape[1]
    if weights is not None:
        name, array, wanted = "WEIGHTS", to_numpy(weights), f"({n_universes}, portfolios, {n_assets})"
        fits = array.ndim == 3 and array.shape[::2] == (n_universes, n_assets)
    else:
        given = np.zeros((0, n_columns), np.float32) if portfolios is None else to_numpy(portfolios)
        name, array, wanted = "PORTFOLIOS", given, f"(portfolios, {n_columns})"
        fits = array.ndim == 2 and array.shape[1] == n_columns
    if not fits:
        raise InvalidRequest(f"{name} must have shape {wanted}, got {array.shape}")
    if array.dtype.kind != "f":
        raise InvalidRequest(f"{name} must be floating point, got {array.dtype}")
    found = Portfolios(array)
    if found.number > MAX_PORTFOLIOS:
        raise InvalidRequest(f"{name} has {found.number} portfolios, more than the limit of {MAX_PORTFOLIOS:,}")
    cells = n_universes * found.number * max(n_assets, found.number)
    if cells > MAX_RISK_CELLS:
        raise InvalidRequest(
            f"universes x portfolios x the larger of assets and portfolios is {cells:,}, more than the limit of "
            f"{MAX_RISK_CELLS:,}: send fewer universes at a time"
        )
    return found
