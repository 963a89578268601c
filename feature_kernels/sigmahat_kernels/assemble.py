# SPDX-License-Identifier: Apache-2.0
"""From parameters to the covariance matrices of all universes of a request."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from sigmahat_kernels import heartbeat
from sigmahat_kernels.assemble_on_device import assemble_on_device
from sigmahat_kernels.backend import Array, array_namespace
from sigmahat_kernels.covariance import classic_parameters, estimate_covariance
from sigmahat_kernels.groups import (
    WindowGroup,
    chunks_by_size,
    gather_index,
    group_by_window,
    group_returns,
    parts_of,
    within_memory,
)
from sigmahat_kernels.lanes.compiled import can_compile
from sigmahat_kernels.panel import WINSOR_LIMIT
from sigmahat_kernels.parallel import Pause, for_each, for_each_group, go_on, threads_for
from sigmahat_kernels.parameters import N_PARAMETERS, Parameters, intensity_of, split_parameters
from sigmahat_kernels.request import MAX_COVARIANCE_CELLS, PADDING, Request, block_ids
from sigmahat_kernels.scratch import Scratch
from sigmahat_kernels.shared_window import KeptMoments, WindowMoments, share_window
from sigmahat_kernels.solvers import OwnSolver, choose_solver
from sigmahat_kernels.status import InvalidRequest, Status

if TYPE_CHECKING:
    from sigmahat_kernels.lanes.assembly import Universes


class Chunk(NamedTuple):
    """A few universes of one window and one size, and what their matrices are built from."""

    universes: np.ndarray  # (n,) positions in the request
    moments: WindowMoments
    places: np.ndarray  # (n, N) where their assets stand among the columns of the moments
    parameters: Parameters  # one row a universe; where the panel is
    intensity: Array  # (n, N) what each asset's intensity is tilted from; there too
    scratch: Scratch

    @property
    def compiled(self) -> bool:
        """Whether kernels compiled for this CPU do the work."""
        return is_compiled(self.moments)

    def matrices(self) -> Array:
        """Estimate the covariance matrices, float64 (n, N, N), where the panel is, in memory that is used again."""
        if not self.compiled:
            return self._estimate()
        n, size = self.places.shape
        stack = self.scratch.array("stack", (n, size, size))
        self.fill(stack, np.arange(n))
        return stack

    def fill(self, out: Array, rows: Array) -> None:
        """Estimate the covariance matrices into `out`, which is where the panel is.

        Parameters
        ----------
        out : contiguous float32 or float64 array of shape (universes, width, width)
            ``out[rows[q], :N, :N]`` is written.
        rows : int64 array of shape (n,)
        """
        if not self.compiled:
            size = self.places.shape[1]
            out[rows, :size, :size] = self._estimate().astype(out.dtype)
            return
        from sigmahat_kernels.lanes import assembly

        assembly.fill_matrices(out, rows, self._universes(), self.scratch)

    def multiply(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See `lanes.assembly.multiply`; only where `compiled`."""
        from sigmahat_kernels.lanes import assembly

        return assembly.multiply(weights, self._universes(), self.scratch)

    def _estimate(self) -> Array:
        moments = self.moments.gather(self.places, self.scratch)
        return estimate_covariance(moments, *_in_double(self.parameters, self.intensity))

    def _universes(self) -> Universes:
        from sigmahat_kernels.lanes import assembly

        moments = self.moments
        correlations = moments.completed(self.places, self.scratch) or (moments.slow, moments.fast)
        logs = np.log(np.vstack([moments.volatilities, moments.kurtosis]))[:, self.places]
        heads, intensity = _in_double(self.parameters, self.intensity)
        return assembly.universes_of(*correlations, self.places, logs, heads, intensity)


def is_compiled(moments: WindowMoments) -> bool:
    """Whether kernels compiled for this CPU read these moments."""
    return array_namespace(moments.slow) is np and can_compile()


def assemble(
    request: Request,
    parameters: Parameters,
    status: np.ndarray,
    *,
    block_intensity: np.ndarray | None = None,
    classic: bool = False,
    threads: int | None = None,
    kept: KeptMoments | None = None,
    pause: Pause = go_on,
) -> Array:
    """Build the covariance matrix of every universe, where the panel is.

    Parameters
    ----------
    request : Request
        As given to `features.compute_features`.
    parameters : Parameters
        One row a universe.
    status : array of shape (n_universes,)
        Universes that are not GOOD are left NaN.
    block_intensity : array of shape (n_universes, n_blocks), optional
        Takes the place of the universe's own intensity for the assets of each block of `request.blocks`.
    classic : bool
        Textbook multi-target linear shrinkage (1 - delta) S + sum_k w_k F_k of the plain sample covariance S (n - 1),
        with targets that keep its diagonal: no winsorising, no exponential weights, tilts or levels. Variances
        are of the rows that an asset has, correlations of universes with missing returns those of
        `gaps.complete_correlations`.
    threads : int, optional
        Python threads; default one per available core. On a GPU there is one.
    kept : KeptMoments, optional
        What `compute_features` kept of the same panel. Its returns are winsorised: not for `classic`. On a GPU only
        universes that are too large for a block's shared memory need it.
    pause : callable
        Called between slices of a few universes; no number depends on it.

    Returns
    -------
    float32 array of shape (n_universes, n_assets, n_assets)
        In squared returns per period, for the period after the window's last row; NaN in padding.

    Raises
    ------
    InvalidRequest
        If the matrices would be larger than `request.MAX_COVARIANCE_CELLS`.
    """
    intensity = intensity_of_assets(request, parameters, block_intensity)
    settings: dict[str, Any] = {"classic": classic, "threads": threads, "kept": kept, "pause": pause}
    return assemble_assets(request, parameters, intensity, status, **settings)


def assemble_assets(
    request: Request,
    parameters: Parameters,
    intensity: np.ndarray,
    status: np.ndarray,
    *,
    classic: bool,
    threads: int | None,
    kept: KeptMoments | None,
    pause: Pause,
    dtype: DTypeLike = np.float32,
    padding: float = np.nan,
) -> Array:
    """The same from the intensity of each asset, of `intensity_of_assets`; blocks are none of its concern.

    Parameters
    ----------
    dtype : float32 or float64
        Of the matrices.
    padding : float
        What stands behind a smaller universe's rows and columns.

    The others are those of `assemble`.
    """
    covariance = _unfilled(request, status, dtype)
    xp = array_namespace(covariance)

    def fill(chunk: Chunk) -> None:
        size, rows = chunk.places.shape[1], xp.asarray(chunk.universes)
        covariance[rows, size:] = padding
        covariance[rows, :size, size:] = padding
        chunk.fill(covariance, rows)

    groups, parameters = _prepared(request, parameters, status, classic)
    if xp is not np and isinstance(choose_solver(request.panel), OwnSolver):
        limit = None if classic else WINSOR_LIMIT
        groups = assemble_on_device(covariance, request, groups, parameters, intensity, limit, padding, pause)
    _work_on_groups(fill, request, groups, parameters, intensity, classic, threads, kept, pause, stacked=False)
    return covariance


def for_each_chunk(
    work: Callable[[Chunk], None],
    request: Request,
    parameters: Parameters,
    status: np.ndarray,
    *,
    block_intensity: np.ndarray | None = None,
    classic: bool = False,
    threads: int | None = None,
    kept: KeptMoments | None = None,
    pause: Pause = go_on,
    stacked: bool = True,
) -> None:
    """Call `work` with all good universes, a chunk at a time; threads call it at the same time, for other universes.

    The arguments are those of `assemble`. No more than one chunk a thread need be in memory. Where `work` asks for no
    `Chunk.matrices`, which are not `stacked` then, chunks may be larger.
    """
    intensity = intensity_of_assets(request, parameters, block_intensity)
    groups, parameters = _prepared(request, parameters, status, classic)
    _work_on_groups(work, request, groups, parameters, intensity, classic, threads, kept, pause, stacked)


def _prepared(
    request: Request, parameters: Parameters, status: np.ndarray, classic: bool
) -> tuple[list[WindowGroup], Parameters]:
    """Good universes by window; the parameters that count."""
    groups = list(group_by_window(request, np.flatnonzero(status == Status.GOOD)))
    return groups, classic_parameters(parameters) if classic else parameters


def _work_on_groups(
    work: Callable[[Chunk], None],
    request: Request,
    groups: list[WindowGroup],
    parameters: Parameters,
    intensity: np.ndarray,
    classic: bool,
    threads: int | None,
    kept: KeptMoments | None,
    pause: Pause,
    stacked: bool,
) -> None:
    of_universes = _parameters_of(parameters, intensity, array_namespace(request.panel))

    def work_on_group(group: WindowGroup, threads: int) -> None:
        pause()
        group, moments = _moments_of(request, group, classic, kept)
        for_each(
            lambda part: _work_on_part(work, request, part, moments, of_universes, pause, stacked),
            parts_of(request, group),
            threads,
        )

    for_each_group(
        lambda group, threads: within_memory(lambda groups: work_on_group(groups[0], threads), request, [group]),
        groups,
        threads_for(request.panel, threads),
    )


OfUniverses: TypeAlias = Callable[[np.ndarray], tuple[Parameters, Array]]
"""Positions of n universes -> their parameters and (n, n_assets) intensities."""


def _parameters_of(parameters: Parameters, intensity: np.ndarray, xp: ModuleType) -> OfUniverses:
    """Those of some universes, as arrays of `xp`: to a GPU go all of them at once."""
    if xp is np:
        return lambda universes: (Parameters(*(head[universes] for head in parameters)), intensity[universes])
    table = xp.asarray(np.concatenate([*parameters, intensity], axis=1, dtype=np.float64))

    def of_universes(universes: np.ndarray) -> tuple[Parameters, Array]:
        rows = table[xp.asarray(universes)]
        return split_parameters(rows[:, :N_PARAMETERS]), rows[:, N_PARAMETERS:]

    return of_universes


def _in_double(parameters: Parameters, intensity: Array) -> tuple[Parameters, Array]:
    xp = array_namespace(intensity)
    return Parameters(*(xp.asarray(head, xp.float64) for head in parameters)), xp.asarray(intensity, xp.float64)


def _unfilled(request: Request, status: np.ndarray, dtype: DTypeLike) -> Array:
    """NaN for universes that are not GOOD, nothing yet for the others; where the panel is."""
    n_universes, n_assets = request.universes.shape
    n_cells = n_universes * n_assets**2
    if n_cells > MAX_COVARIANCE_CELLS:
        raise InvalidRequest(
            f"COVARIANCE would have {n_cells:,} cells, more than the limit of {MAX_COVARIANCE_CELLS:,}: "
            "send fewer universes at a time, or the wide ones apart"
        )
    xp = array_namespace(request.panel)
    covariance = xp.empty((n_universes, n_assets, n_assets), dtype)
    refused = np.flatnonzero(status != Status.GOOD)
    if len(refused):
        covariance[xp.asarray(refused)] = np.nan
    return covariance


def intensity_of_assets(request: Request, parameters: Parameters, block_intensity: np.ndarray | None) -> np.ndarray:
    """The intensity that each asset starts from, its universe's or its block's; (n_universes, n_assets)."""
    if request.blocks is None or block_intensity is None or not block_intensity.shape[1]:
        return np.broadcast_to(intensity_of(parameters)[:, None], request.universes.shape)
    column = np.searchsorted(block_ids(request.universes, request.blocks), request.blocks)
    column = np.where(request.universes == PADDING, 0, column)
    return np.take_along_axis(block_intensity, column, axis=1)


def _moments_of(
    request: Request, group: WindowGroup, classic: bool, kept: KeptMoments | None
) -> tuple[WindowGroup, WindowMoments]:
    """A window's moments, kept or computed, and the group as it stands among their columns."""
    found = kept.take(group) if kept else None
    winsor_limit = None if classic else WINSOR_LIMIT
    return found or (group, share_window(group_returns(request, group), winsor_limit=winsor_limit).moments)


def _work_on_part(
    work: Callable[[Chunk], None],
    request: Request,
    part: WindowGroup,
    moments: WindowMoments,
    of_universes: OfUniverses,
    pause: Pause,
    stacked: bool,
) -> None:
    """Work on the universes of a part of a window, those of one size together."""
    stacked |= not is_compiled(moments)
    scratch = Scratch(array_namespace(moments.slow))
    incomplete = moments.incomplete.columns if moments.incomplete is not None else None
    for chunk in chunks_by_size(request, part, incomplete, stacked=stacked):
        pause()
        universes = part.universes[chunk]
        places = gather_index(request, part, chunk)
        heads, intensity = of_universes(universes)
        work(Chunk(universes, moments, places, heads, intensity[:, : places.shape[1]], scratch))
        heartbeat.beat()
