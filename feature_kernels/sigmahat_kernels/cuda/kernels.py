# SPDX-License-Identifier: Apache-2.0
"""What each kernel is launched with: sizes, shared memory, results. How it is launched is the caller's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from sigmahat_kernels.backend import Array, array_namespace
from sigmahat_kernels.pairs import HISTOGRAM_BINS, PairStatistics

WARP = 32
PAIR_WARPS = 8
_PAIR_SUMS = ("nearest", "square", "cube", "form", "drift", "first_square", "first_product")


class SizeClass(NamedTuple):
    """Matrices of up to `largest` rows are tridiagonalised by blocks of `warps` warps."""

    largest: int
    warps: int


SIZE_CLASSES = (SizeClass(32, 1), SizeClass(64, 2), SizeClass(128, 4), SizeClass(256, 8), SizeClass(352, 16))


class Program(NamedTuple):
    """One kernel, with the constants that it is compiled for."""

    name: str
    options: tuple[str, ...]

    @property
    def text(self) -> str:
        """CUDA C++, the file of the kernel's name."""
        return _read(self.name)


@cache
def _read(name: str) -> str:
    return Path(__file__).with_name(f"{name}.cu").read_text()


Launch: TypeAlias = Callable[[Program, int, int, int, Sequence[Any]], None]
"""launch(program, blocks, threads, shared_bytes, arguments): arrays go as pointers, NumPy scalars as they are."""

STURM = Program("sturm", ())
PAIR_STATISTICS = Program("pair_statistics", (f"-DWARPS={PAIR_WARPS}",))


def tridiagonal_program(size_class: SizeClass, precision: type[np.floating]) -> Program:
    """The tridiagonalisation of one size class in float32 or float64."""
    real = {np.float32: "float", np.float64: "double"}[precision]
    chunks = -(-size_class.largest // WARP)
    return Program("tridiagonalise", (f"-DREAL={real}", f"-DWARPS={size_class.warps}", f"-DCHUNKS={chunks}"))


PROGRAMS = (
    STURM,
    PAIR_STATISTICS,
    *(tridiagonal_program(size_class, np.float32) for size_class in SIZE_CLASSES),
    *(tridiagonal_program(size_class, np.float64) for size_class in SIZE_CLASSES[:-1]),
)
"""All that is ever launched. A float64 matrix of the last class is too large for any device's shared memory."""


def size_class_of(size: int) -> SizeClass | None:
    """The class of a matrix of `size` rows; None if it is larger than all."""
    return next((candidate for candidate in SIZE_CLASSES if size <= candidate.largest), None)


def tridiagonal_shared_bytes(size: int, warps: int, precision: type[np.floating]) -> int:
    """Shared memory of a block: the packed lower triangle, four vectors, and a partial vector for each warp."""
    return (size * (size + 1) // 2 + (4 + warps) * size) * np.dtype(precision).itemsize


def eigvalsh(
    launch: Launch,
    matrix: Array,
    index: Array | None,
    precision: type[np.floating],
    size_class: SizeClass | None = None,
) -> Array:
    """Eigenvalues, ascending and none negative, shape (n, N) float64.

    Parameters
    ----------
    matrix : float64 array of shape (m, m) or (n, N, N), C-contiguous
        One matrix from which every universe takes its rows and columns, or one matrix each.
    index : integer array of shape (n, N), or None
        Those rows and columns.
    precision : float32 or float64
        Arithmetic of the tridiagonalisation; what follows is float64.
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
    size_class = size_class or size_class_of(size)
    assert size_class is not None  # who calls has asked
    matrix = xp.ascontiguousarray(matrix)
    diagonal, offdiagonal, eigenvalues = (xp.empty((n, size)) for _ in range(3))
    launch(
        tridiagonal_program(size_class, precision),
        n,
        WARP * size_class.warps,
        tridiagonal_shared_bytes(size, size_class.warps, precision),
        (
            matrix,
            np.int64(stride),
            np.int32(matrix.shape[-1]),
            index,
            np.int32(index_stride),
            np.int32(size),
            diagonal,
            offdiagonal,
        ),
    )
    sturm(launch, diagonal, offdiagonal, eigenvalues)
    return eigenvalues


def sturm(launch: Launch, diagonal: Array, offdiagonal: Array, eigenvalues: Array) -> None:
    """Write the eigenvalues of tridiagonal matrices, all arrays of shape (n, N) float64."""
    n, size = diagonal.shape
    threads = -(-size // WARP) * WARP
    launch(STURM, n, threads, size * (16 + 8 + 8), (diagonal, offdiagonal, np.int32(size), eigenvalues))


def pair_statistics(launch: Launch, products: Sequence[Array], index: Array) -> PairStatistics:
    """What `pairs.pair_statistics` computes, without gathering the matrices.

    Parameters
    ----------
    products : three float64 arrays of shape (m, m)
        Equal-weighted and exponentially weighted correlation of all columns of a window, and what its first half adds
        to the former.
    index : integer array of shape (n, N)
        Columns of each universe.
    """
    xp = array_namespace(index)
    n, size = index.shape
    row_sum, sums = xp.empty((n, size)), xp.empty((n, len(_PAIR_SUMS)))
    histogram = xp.empty((n, HISTOGRAM_BINS), xp.int32)
    launch(
        PAIR_STATISTICS,
        n,
        WARP * PAIR_WARPS,
        8 * (size + len(_PAIR_SUMS) * PAIR_WARPS) + 4 * (HISTOGRAM_BINS * WARP + size),
        (
            *(xp.ascontiguousarray(product) for product in products),
            np.int32(products[0].shape[1]),
            xp.ascontiguousarray(index, dtype=xp.int32),
            np.int32(size),
            row_sum,
            sums,
            histogram,
        ),
    )
    return PairStatistics(
        row_sum=row_sum, histogram=histogram, **{name: sums[:, k] for k, name in enumerate(_PAIR_SUMS)}
    )
