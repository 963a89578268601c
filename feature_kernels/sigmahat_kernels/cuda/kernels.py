# SPDX-License-Identifier: Apache-2.0
"""What each kernel is launched with: sizes, shared memory, results. How it is launched is the caller's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from sigmahat_kernels.backend import Array, array_namespace
from sigmahat_kernels.correlation import CORRELATION
from sigmahat_kernels.gaps import MissingCells
from sigmahat_kernels.pairs import HISTOGRAM_BINS, PairStatistics
from sigmahat_kernels.spectrum import SPECTRUM, sketching

WARP = 32
PAIR_WARPS = 8
_PAIR_SUMS = ("nearest", "square", "cube", "form", "drift", "first_square", "first_product")


class SizeClass(NamedTuple):
    """Matrices of up to `largest` rows are tridiagonalised by blocks of `warps` warps; see `in_registers`."""

    largest: int
    warps: int


LARGEST_IN_REGISTERS = 64
"""Rows of a matrix that one warp reduces, of a larger one the last that are left."""

SIZE_CLASSES = (SizeClass(32, 1), SizeClass(64, 1), SizeClass(128, 4), SizeClass(256, 8), SizeClass(352, 16))


class Program(NamedTuple):
    """One kernel, with the constants that it is compiled for."""

    name: str
    options: tuple[str, ...]

    @property
    def text(self) -> str:
        """CUDA C++: what all kernels share, and the file of the kernel's name."""
        return _read("warp.cuh") + _read(f"{self.name}.cu")


@cache
def _read(name: str) -> str:
    return Path(__file__).with_name(name).read_text()


Launch: TypeAlias = Callable[[Program, int, int, int, Sequence[Any]], None]
"""launch(program, blocks, threads, shared_bytes, arguments): arrays go as pointers, NumPy scalars as they are."""

STURM = Program("sturm", ())
COMPLETE = Program("complete", ())
PAIR_STATISTICS = Program("pair_statistics", (f"-DWARPS={PAIR_WARPS}",))
MATRIX_FEATURES = Program("matrix_features", ())

_REAL = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}


def assembly_program(dtype: DTypeLike) -> Program:
    """The assembly of matrices that are written in float32 or float64; its arithmetic is float64."""
    threads = WARP * PAIR_WARPS
    # float64 needs more registers than four blocks of a multiprocessor leave to each.
    bounds = f"{threads}" if np.dtype(dtype) == np.float32 else f"{threads},3"
    return Program("assemble", (f"-DREAL={_REAL[np.dtype(dtype)]}", f"-DBOUNDS={bounds}"))


def in_registers(size: int, warps: int) -> bool:
    """Whether a matrix is reduced in the registers of one warp, `tridiagonalise_small`."""
    return warps == 1 and size <= LARGEST_IN_REGISTERS


def tridiagonal_program(size_class: SizeClass, precision: type[np.floating]) -> Program:
    """The tridiagonalisation of one size class in float32 or float64."""
    real = _REAL[np.dtype(precision)]
    chunks = -(-size_class.largest // WARP)
    if in_registers(size_class.largest, size_class.warps):
        return Program("tridiagonalise_small", (f"-DREAL={real}", f"-DCHUNKS={chunks}"))
    options = (f"-DREAL={real}", f"-DWARPS={size_class.warps}", f"-DCHUNKS={chunks}")
    return Program("tridiagonalise", (*options, f"-DLEADING={LARGEST_IN_REGISTERS}"))


PROGRAMS = (
    STURM,
    PAIR_STATISTICS,
    MATRIX_FEATURES,
    COMPLETE,
    *(assembly_program(dtype) for dtype in (np.float32, np.float64)),
    *(tridiagonal_program(size_class, np.float32) for size_class in SIZE_CLASSES),
    *(tridiagonal_program(size_class, np.float64) for size_class in SIZE_CLASSES[:-1]),
)
"""All that is ever launched. A float64 matrix of the last class is too large for any device's shared memory."""


def size_class_of(size: int) -> SizeClass | None:
    """The class of a matrix of `size` rows; None if it is larger than all."""
    return next((candidate for candidate in SIZE_CLASSES if size <= candidate.largest), None)


def tridiagonal_shared_bytes(size: int, warps: int, precision: type[np.floating]) -> int:
    """Shared memory of a block: the packed lower triangle, four vectors, and a partial vector for each warp.

    In registers: three vectors, the leading triangle on its way there, and the rows that they do not hold.
    """
    triangle, vector = (_in_fours(values) for values in (size * (size + 1) // 2, size))
    values = triangle + 3 * vector + (1 + warps) * size
    if in_registers(size, warps):
        columns = -(-size // WARP) * WARP
        values = 3 * columns + WARP * (WARP + 1) // 2 + max(0, vector - WARP) * (columns + 1)
    return values * np.dtype(precision).itemsize


def _in_fours(values: int) -> int:
    return -(-values // 4) * 4


class Blocks(NamedTuple):
    """Which universe each block of a launch takes."""

    rows: Array  # (blocks,) int32, universes from the largest to the smallest, so that no block is left at the end
    sizes: Array  # (n,) int32, assets of every universe
    largest: int


def blocks_of(sizes: np.ndarray, like: Array) -> list[Blocks]:
    """One launch of each size class for universes of any sizes (n,), on the host; its arrays where `like` is."""
    xp = array_namespace(like)
    order = np.argsort(-sizes, kind="stable")
    ordered = sizes[order]
    there, of_all = xp.asarray(order.astype(np.int32)), xp.asarray(sizes.astype(np.int32))
    edges = [0, *(int((ordered > size_class.largest).sum()) for size_class in reversed(SIZE_CLASSES)), len(order)]
    return [Blocks(there[start:stop], of_all, int(ordered[start])) for start, stop in pairwise(edges) if stop > start]


def eigvalsh(
    launch: Launch,
    matrix: Array,
    index: Array | None,
    precision: type[np.floating],
    sizes: np.ndarray | None = None,
    size_class: SizeClass | None = None,
) -> Array:
    """Eigenvalues, ascending and none negative, shape (n, N) float64.

    Parameters
    ----------
    matrix : float64 array of shape (m, m), (windows, m, m) or (n, N, N), C-contiguous
        One matrix from which every universe takes its rows and columns, one of each window, or one of each universe.
    index : integer array of shape (n, N), or None
        Those rows and columns; of several windows, positions among the columns of all, m a window.
    precision : float32 or float64
        Arithmetic of the tridiagonalisation; what follows is float64.
    sizes : integer array of shape (n,), optional
        On the host: how many entries of its row of `index` a universe has. Zeros stand in front of its eigenvalues.
    size_class : SizeClass, optional
        Another number of warps than `SIZE_CLASSES` says.
    """
    xp = array_namespace(matrix)
    if index is None:
        n, size = matrix.shape[:2]
        index, index_stride, stride = xp.arange(size, dtype=xp.int32), 0, size * size
    else:
        n, size = index.shape
        index, index_stride, stride = xp.ascontiguousarray(index, dtype=xp.int32), size, 0
    matrix = xp.ascontiguousarray(matrix)
    diagonal, offdiagonal = (xp.empty((n, size)) for _ in range(2))
    eigenvalues = xp.zeros((n, size))
    left = LARGEST_IN_REGISTERS  # rows of a large matrix, for one warp
    remainder = xp.empty((n if size > left else 0, left, left))

    def reduce(blocks: Blocks, own: SizeClass, matrices: Sequence[Any], remainder: Sequence[Array]) -> None:
        launch(
            tridiagonal_program(own, precision),
            len(blocks.rows),
            WARP * own.warps,
            tridiagonal_shared_bytes(blocks.largest, own.warps, precision),
            (*matrices, blocks.rows, blocks.sizes, np.int32(size), *remainder, diagonal, offdiagonal),
        )

    gathered = (matrix, np.int64(stride), np.int32(matrix.shape[-1]), index, np.int32(index_stride))
    for blocks in blocks_of(np.full(n, size) if sizes is None else sizes, matrix):
        own = size_class or size_class_of(blocks.largest)
        assert own is not None  # who calls has asked
        reduce(blocks, own, gathered, () if in_registers(own.largest, own.warps) else (remainder,))
        if blocks.largest > left:
            whole = (remainder, np.int64(left * left), np.int32(left), xp.arange(left, dtype=xp.int32), np.int32(0))
            of_left = Blocks(blocks.rows, xp.full(n, left, xp.int32), left)
            reduce(of_left, SizeClass(left, warps=1), whole, ())
        sturm(launch, blocks, diagonal, offdiagonal, eigenvalues)
    return eigenvalues


def sturm(launch: Launch, blocks: Blocks, diagonal: Array, offdiagonal: Array, eigenvalues: Array) -> None:
    """Write the eigenvalues of tridiagonal matrices behind each other's zeros, all arrays of shape (n, N) float64."""
    threads = -(-blocks.largest // WARP) * WARP
    launch(
        STURM,
        len(blocks.rows),
        threads,
        blocks.largest * (16 + 8 + 8 + 4),
        (diagonal, offdiagonal, blocks.rows, blocks.sizes, np.int32(diagonal.shape[1]), eigenvalues),
    )


def pair_shared_bytes(size: int, held: bool) -> int:
    """Shared memory of a block for the pairs of `size` assets, with one product's triangle or without."""
    triangle = size * (size + 1) // 2 if held else 0
    return 8 * (size + len(_PAIR_SUMS) * PAIR_WARPS + triangle) + 4 * (HISTOGRAM_BINS * WARP + size)


def pair_statistics(
    launch: Launch,
    products: Sequence[Array],
    index: Array,
    shared_limit: int,
    sizes: np.ndarray | None = None,
) -> PairStatistics:
    """What `pairs.pair_statistics` computes, without gathering the matrices.

    Parameters
    ----------
    products : three float64 arrays of shape (m, m) or (windows, m, m)
        Slow and fast correlation of all columns of a window, and what its first half adds to the former; symmetric.
    index : integer array of shape (n, N)
        Columns of each universe; of several windows, positions among the columns of all.
    shared_limit : int
        Bytes of shared memory that a block can have: the triangles that fit are read once.
    sizes : integer array of shape (n,), optional
        On the host: how many entries of its row of `index` a universe has. Zeros stand behind its row sums.
    """
    xp = array_namespace(index)
    n, size = index.shape
    products = [xp.ascontiguousarray(product) for product in products]
    index = xp.ascontiguousarray(index, dtype=xp.int32)
    row_sum, sums = xp.empty((n, size)), xp.empty((n, len(_PAIR_SUMS)))
    histogram = xp.empty((n, HISTOGRAM_BINS), xp.int32)
    for blocks in blocks_of(np.full(n, size) if sizes is None else sizes, index):
        most_held = blocks.largest
        while most_held and pair_shared_bytes(most_held, held=True) > shared_limit:
            most_held -= 1
        launch(
            PAIR_STATISTICS,
            len(blocks.rows),
            WARP * PAIR_WARPS,
            max(pair_shared_bytes(most_held, held=True), pair_shared_bytes(blocks.largest, held=False)),
            (
                *(*products, np.int32(products[0].shape[-1]), index, blocks.rows, blocks.sizes, np.int32(most_held)),
                *(np.int32(size), row_sum, sums, histogram),
            ),
        )
    return PairStatistics(
        row_sum=row_sum, histogram=histogram, **{name: sums[:, k] for k, name in enumerate(_PAIR_SUMS)}
    )


def matrix_features(
    launch: Launch,
    eigenvalues: Array,
    pairs: PairStatistics,
    n_assets: Array,
    n_obs: Array,
    n_effective: Array,
    sampling_noise: Array,
) -> dict[str, Array]:
    """What `spectrum.spectrum_features` and `correlation.correlation_features` compute, of arrays as there."""
    xp = array_namespace(eigenvalues)
    n, width = eigenvalues.shape
    names = (*SPECTRUM, *CORRELATION)
    features = xp.empty((n, len(names)))
    launch(
        MATRIX_FEATURES,
        n,
        WARP,
        0,
        (
            xp.asarray(n_assets, np.int32),
            xp.asarray(n_obs, np.int32),
            np.int32(width),
            xp.ascontiguousarray(eigenvalues),
            xp.ascontiguousarray(pairs.row_sum),
            xp.stack([getattr(pairs, name) for name in _PAIR_SUMS]),
            xp.ascontiguousarray(pairs.histogram, np.int32),
            n_effective,
            sampling_noise,
            sketching(xp)[1],
            np.int32(n),
            np.int32(len(names)),
            features,
        ),
    )
    return {name: features[:, k] for k, name in enumerate(names)}


class Completed(NamedTuple):
    """Correlations that universes with missing returns have of their own."""

    slow: Array  # (cells,) the (N, N) of one universe after the other
    fast: Array  # (cells,)
    starts: np.ndarray  # (n,) int64 on the host, where those of each universe begin; -1 without missing returns


def complete_shared_bytes(n_obs: int, sizes: np.ndarray) -> np.ndarray:
    """Shared memory of blocks that complete correlations of so many assets each over a window of `n_obs` rows."""
    return (4 * n_obs + 5 * sizes + 3 * PAIR_WARPS) * 8 + sizes * 4


def complete(
    launch: Launch,
    correlations: Sequence[Array],
    cells: MissingCells,
    index: np.ndarray,
    with_gaps: np.ndarray,
    lengths: np.ndarray | None = None,
) -> Completed:
    """What `gaps.complete_correlations` computes, of universes of any sizes and windows.

    Parameters
    ----------
    correlations : two float64 arrays of shape (m, m) or (windows, m, m)
        Slow and fast, missing = 0, of all columns of a window.
    cells : MissingCells
        Of the columns of all windows.
    index : integer array of shape (n, N)
        On the host: positions of each universe's assets among these columns, PADDING behind.
    with_gaps : bool array of shape (n,)
        On the host: which universes miss returns; nothing is computed for the others.
    lengths : integer array of shape (n,), optional
        On the host: rows of each universe's window, the last of `cells`; all unless it is said.
    """
    xp = array_namespace(cells.standardised)
    n_obs, n_columns = cells.standardised.shape
    lengths = np.full(len(index), n_obs) if lengths is None else lengths
    sizes = (index >= 0).sum(axis=1)
    n_cells = np.where(with_gaps, sizes.astype(np.int64) ** 2, 0)
    starts = np.where(with_gaps, n_cells.cumsum() - n_cells, -1)
    order = np.argsort(-sizes, kind="stable")
    order = order[with_gaps[order]]
    slow, fast = (xp.empty(int(n_cells.sum())) for _ in range(2))
    launch(
        COMPLETE,
        len(order),
        WARP * PAIR_WARPS,
        int(complete_shared_bytes(n_obs, sizes[order[0]])),
        (
            *(xp.ascontiguousarray(correlation) for correlation in correlations),
            np.int32(correlations[0].shape[-1]),
            cells.standardised,
            np.int32(n_columns),
            cells.roots,
            cells.weights,
            np.int32(n_obs),
            xp.asarray(lengths, np.int32),
            cells.starts,
            cells.rows,
            xp.asarray(index, np.int32),
            xp.asarray(order.astype(np.int32)),
            xp.asarray(sizes.astype(np.int32)),
            np.int32(index.shape[1]),
            xp.asarray(starts),
            slow,
            fast,
        ),
    )
    return Completed(slow, fast, starts)


def assemble_shared_bytes(sizes: np.ndarray) -> np.ndarray:
    """Shared memory of blocks that assemble matrices of so many rows each."""
    return (17 * sizes + 9 * PAIR_WARPS) * 8 + 2 * sizes * 4


def assemble(
    launch: Launch,
    correlations: Sequence[Array],
    logs: Array,
    scales: Array,
    index: np.ndarray,
    heads: np.ndarray,
    intensity: np.ndarray,
    completed: Completed | None = None,
    *,
    dtype: DTypeLike = np.float32,
    padding: float = np.nan,
) -> Array:
    """What `covariance.estimate_covariance` computes, of universes of any sizes and windows; (n, N, N).

    Parameters
    ----------
    correlations : two float64 arrays of shape (m, m) or (windows, m, m)
        Slow and fast, of all columns of a window.
    logs : float64 array of shape (8, columns of all windows)
        ln of the volatilities, in the order of `panel.VOLATILITIES`, and of the kurtosis.
    scales : float64 array
        Of `asset_statistics.ASSET_STATISTICS`.
    index : integer array of shape (n, N)
        On the host: positions of each universe's assets among the columns of all windows, PADDING behind.
    heads : float64 array of shape (n, 34)
        On the host: see the kernel.
    intensity : float64 array of shape (n, N)
        On the host: what each asset's intensity is tilted from.
    completed : Completed, optional
        Takes the place of `correlations` for universes with missing returns.
    dtype : float32 or float64
        Of the result.
    padding : float
        What stands behind a smaller universe's rows and columns.
    """
    xp = array_namespace(logs)
    n, longest = index.shape
    sizes = (index >= 0).sum(axis=1)
    slow, fast = (xp.ascontiguousarray(correlation) for correlation in correlations)
    own = completed or Completed(slow, fast, np.full(n, -1))
    gathered = np.where(own.starts < 0, sizes.astype(np.int64) ** 2, 0)
    out = xp.empty((n, longest, longest), dtype)
    launch(
        assembly_program(dtype),
        n,
        WARP * PAIR_WARPS,
        int(assemble_shared_bytes(sizes.max())),
        (
            *(slow, fast, np.int32(slow.shape[-1]), own.slow, own.fast, xp.asarray(own.starts)),
            *(xp.empty(int(gathered.sum())), xp.asarray(gathered.cumsum() - gathered)),
            xp.ascontiguousarray(logs),
            np.int32(logs.shape[1]),
            scales,
            xp.asarray(index, np.int32),
            xp.asarray(heads),
            xp.asarray(np.ascontiguousarray(intensity, np.float64)),
            xp.asarray(np.argsort(-sizes, kind="stable").astype(np.int32)),
            xp.asarray(sizes.astype(np.int32)),
            np.int32(longest),
            out.dtype.type(padding),
            out,
        ),
    )
    return out
