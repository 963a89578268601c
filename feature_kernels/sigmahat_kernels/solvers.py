# SPDX-License-Identifier: Apache-2.0
"""Who computes the spectra and pair statistics of a request: own kernels for GPU and CPU, cuSOLVER, CuPy or LAPACK.

Of those for where the panel lies, the best that is there is taken, or the one that was asked for. A matrix that it does
not take (too large for its shared memory) goes to the next one; `Solver.used` tells who did the work.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, Protocol

import numpy as np

from sigmahat_kernels import pairs, regime
from sigmahat_kernels.backend import Array, array_namespace, to_numpy
from sigmahat_kernels.correlation import correlation_features
from sigmahat_kernels.cuda import cusolver, device, kernels
from sigmahat_kernels.groups import Memberships, WindowGroup, chunks_by_size, chunks_by_work, rows_of_windows
from sigmahat_kernels.lanes.compiled import can_compile
from sigmahat_kernels.pairs import PairStatistics
from sigmahat_kernels.panel import Window
from sigmahat_kernels.regime import SeriesMoments
from sigmahat_kernels.request import PADDING, Request
from sigmahat_kernels.scratch import Scratch, take_blocks
from sigmahat_kernels.spectrum import correlation_spectrum, dual_spectrum, is_dual, spectrum_features

DEVICE_SOLVERS = ("kernels", "cusolver", "cupy", "lapack")
"""Of a panel on a GPU, in order of preference."""

HOST_SOLVERS = ("lanes", "lapack")
"""Of a panel in host memory, in order of preference; the first needs numba."""

SOLVERS = (*DEVICE_SOLVERS[:-1], *HOST_SOLVERS)

REFINE_BELOW = 1e-3
"""A float32 spectrum whose smallest non-null eigenvalue is below this is computed again in float64: its error is up to
1e-6, so that the condition number would be off by more than 0.1 %."""

FAST_DOUBLE_RATIO = 4
"""Where float64 takes at most this many times as long as float32, it is used throughout: what is too large for a block
in float64 goes to cuSOLVER at once. With few more rows than assets that would see nearly all of it in the end."""

_MAX_STACK = 16_384
"""Matrices in one cuSOLVER call: from about 32,000 it fails with INVALID_VALUE, whatever their size."""

_MAX_STACK_BYTES = 2**30


class SolverError(RuntimeError):
    """The solver that was asked for does not exist, or cannot run here."""


class Step(Protocol):
    """One way to compute: a part of a `Solver`."""

    name: str
    exact: bool  # false: small eigenvalues need `REFINE_BELOW`

    def takes(self, size: int) -> bool:
        """Whether it can solve matrices of `size` rows."""

    def eigvalsh(self, matrix: Array, index: Array | None) -> Array:
        """Ascending, none negative, (n, N); of blocks (m, m)[index] or, without an index, of a stack (n, N, N)."""

    def pair_statistics(self, products: Sequence[Array], index: Array) -> PairStatistics:
        """See `Solver.pair_statistics`."""


class Stacked:
    """A library that solves stacks of matrices: each block is gathered first."""

    exact = True

    def __init__(self, name: str, solve: Callable[[Array], Array]) -> None:
        self.name = name
        self._solve = solve

    def takes(self, size: int) -> bool:
        return True

    def eigvalsh(self, matrix: Array, index: Array | None) -> Array:
        xp = array_namespace(matrix)
        n, size = matrix.shape[:2] if index is None else index.shape
        values = xp.empty((n, size))
        for part in _parts(n, size * size):
            stack = matrix[part].copy() if index is None else take_blocks(matrix, index[part], Scratch(xp), "stack")
            values[part] = self._solve(stack)
        return xp.maximum(values, 0.0)

    def pair_statistics(self, products: Sequence[Array], index: Array) -> PairStatistics:
        xp = array_namespace(index)
        collected = []
        for part in _parts(len(index), index.shape[1] ** 2):
            scratch = Scratch(xp)
            collected.append(pairs.pair_statistics(*pairs.gather_pairs(products, index[part], scratch), scratch))
        return PairStatistics(*(xp.concatenate(values) for values in zip(*collected, strict=True)))


class OwnKernels:
    """The kernels in `cuda`: they gather by themselves, and keep one matrix in the shared memory of one block."""

    def __init__(self, launch: kernels.Launch, precision: type[np.floating], shared_limit: int) -> None:
        self.name = f"kernels-{np.dtype(precision).name}"
        self.exact = precision is np.float64
        self._launch, self._precision, self._shared_limit = launch, precision, shared_limit

    def takes(self, size: int) -> bool:
        size_class = kernels.size_class_of(size)
        if size_class is None:
            return False
        return kernels.tridiagonal_shared_bytes(size, size_class.warps, self._precision) <= self._shared_limit

    def eigvalsh(self, matrix: Array, index: Array | None, sizes: np.ndarray | None = None) -> Array:
        return kernels.eigvalsh(self._launch, matrix, index, self._precision, sizes)

    def pair_statistics(
        self, products: Sequence[Array], index: Array, sizes: np.ndarray | None = None
    ) -> PairStatistics:
        return kernels.pair_statistics(self._launch, products, index, self._shared_limit, sizes)

    def matrix_features(self, *measured: Any) -> dict[str, Array]:
        return kernels.matrix_features(self._launch, *measured)


class Solver:
    """The steps that a request's matrices go through: each to the first that takes its size."""

    def __init__(self, name: str, steps: Sequence[Step]) -> None:
        self.name = name
        self.used: set[str] = set()
        self._steps = tuple(steps)

    def eigenvalues(self, product: Array, factor: Array, index: Array) -> Array:
        """Spectra of the correlation matrices of `n` universes of N assets.

        Where T - 1 < N, that of the T x T Gram matrix, see `spectrum.dual_spectrum`.

        Parameters
        ----------
        product : float64 array of shape (m, m)
            Correlation matrix Z'Z of all columns of a window.
        factor : array of shape (m, T)
            Z'.
        index : integer array of shape (n, N)
            Columns of each universe.

        Returns
        -------
        float64 array of shape (n, N)
            Ascending, none negative.
        """
        n, n_assets = index.shape
        n_obs = factor.shape[1]
        if not is_dual(n_obs, n_assets):
            return self._solve(product, index, n_null=0)
        eigenvalues = array_namespace(product).empty((n, n_assets))
        for part in _parts(n, n_assets * n_obs):
            eigenvalues[part] = dual_spectrum(factor[index[part]], lambda gram: self._solve(gram, None, n_null=1))
        return eigenvalues

    def pair_statistics(self, products: Sequence[Array], index: Array) -> PairStatistics:
        """Sums over pairs of assets.

        Parameters
        ----------
        products : three float64 arrays of shape (m, m)
            Equal-weighted and exponentially weighted correlation of all columns of a window, and what its first half
            adds to the former.
        index : integer array of shape (n, N)
            Columns of each universe.
        """
        return self._steps[0].pair_statistics(products, index)

    def asset_series(self, window: Window, factor: Array) -> Array:
        """What `series_moments` sums over assets, for all columns of a window; see `regime.asset_series`."""
        return regime.asset_series(window, factor)

    def series_moments(
        self, series: Array, memberships: Memberships, index: np.ndarray, n_rows: np.ndarray | None = None
    ) -> SeriesMoments:
        """Moments of the series of n universes, which may be of several windows.

        Parameters
        ----------
        series : array
            Of `asset_series`.
        memberships : Memberships
            Which universes hold which columns.
        index : integer array of shape (n, N)
            The same: columns of each universe, PADDING behind; in host memory.
        n_rows : integer array of shape (n,), optional
            Rows of each universe's window, all unless it is said; there too.
        """
        xp = array_namespace(series)
        n_assets = xp.asarray((index != PADDING).sum(axis=1))
        lengths = None if n_rows is None or (n_rows == series.shape[1]).all() else xp.asarray(n_rows)
        return regime.series_moments(regime.market_series(memberships.sum(series), n_assets, lengths), lengths)

    def chunks(self, request: Request, part: WindowGroup) -> Iterator[np.ndarray]:
        """Positions within the part, of windows of several lengths, of universes that `measure` takes together."""
        n_rows = rows_of_windows(request, part.universes)
        for length in np.unique(n_rows).tolist():
            alike = np.flatnonzero(n_rows == length)
            of_length = part._replace(start=part.stop - length, universes=part.universes[alike])
            yield from (alike[chunk] for chunk in chunks_by_size(request, of_length))

    def measure(
        self, products: Sequence[Array], factor: Array, index: np.ndarray, scratch: Scratch
    ) -> tuple[Array, PairStatistics]:
        """Spectra and pair statistics of the same universes, of one chunk; `scratch` is that of this thread."""
        there = array_namespace(factor).asarray(index, np.int64)
        return self.eigenvalues(products[0], factor, there), self.pair_statistics(products, there)

    def matrix_features(
        self,
        eigenvalues: Array,
        pairs: PairStatistics,
        n_assets: Array,
        n_obs: Array,
        n_effective: Array,
        sampling_noise: Array,
    ) -> dict[str, Array]:
        """What `measure` has measured says: the features of `spectrum_features` and of `correlation_features`."""
        return {
            **spectrum_features(eigenvalues, n_assets, n_obs, n_effective),
            **correlation_features(pairs, n_assets, sampling_noise, n_effective),
        }

    def _solve(self, matrix: Array, index: Array | None, n_null: int) -> Array:
        size = matrix.shape[1] if index is None else index.shape[1]
        takers = [step for step in self._steps if step.takes(size)]
        values = takers[0].eigvalsh(matrix, index)
        self.used.add(takers[0].name)
        if takers[0].exact:
            return values
        xp = array_namespace(values)
        doubtful = xp.flatnonzero(values[:, n_null] < REFINE_BELOW)  # waits for the device: how many decides the launch
        if len(doubtful):
            exact = next(step for step in takers if step.exact)
            again = (matrix[doubtful], None) if index is None else (matrix, index[doubtful])
            values[doubtful] = exact.eigvalsh(*again)
            self.used.add(exact.name)
        return values


class HostSolver(Solver):
    """LAPACK on NumPy arrays: gathers once for spectra and sums, into memory that is used again."""

    def measure(
        self, products: Sequence[Array], factor: Array, index: Array, scratch: Scratch
    ) -> tuple[Array, PairStatistics]:
        correlation, entries = pairs.gather_pairs(products, index, scratch)
        dual = is_dual(factor.shape[1], index.shape[1])
        eigenvalues = dual_spectrum(factor[index]) if dual else correlation_spectrum(correlation)
        self.used.add(self.name)
        return eigenvalues, pairs.pair_statistics(correlation, entries, scratch)


class OwnSolver(Solver):
    """Own kernels on a GPU: universes of all sizes that they take, and of several windows, share a launch.

    Others, and those whose Gram matrix is solved, come as in a `Solver`.
    """

    def __init__(self, name: str, own: OwnKernels, steps: Sequence[Step]) -> None:
        super().__init__(name, [own, *steps])
        self._own = own

    def chunks(self, request: Request, part: WindowGroup) -> Iterator[np.ndarray]:
        """See `Solver.chunks`."""
        sizes = (request.universes[part.universes] != PADDING).sum(axis=1)
        takes = [self._own.takes(size) for size in range(int(sizes.max()) + 1)]
        taken = np.array(takes)[sizes] & ~is_dual(rows_of_windows(request, part.universes), sizes)
        if taken.any():
            yield np.flatnonzero(taken)
        others = np.flatnonzero(~taken)
        if len(others):
            alone = part._replace(universes=part.universes[others])
            yield from (others[chunk] for chunk in super().chunks(request, alone))

    def measure(
        self, products: Sequence[Array], factor: Array, index: np.ndarray, scratch: Scratch
    ) -> tuple[Array, PairStatistics]:
        """Spectra, zeros in front, and pair statistics, row sums with zeros behind; `index` ends in PADDING."""
        if not self._takes(factor.shape[1], index.shape[1]):
            return super().measure(products, factor, index, scratch)
        there, sizes = array_namespace(factor).asarray(index), (index != PADDING).sum(axis=1)
        values = self._own.eigvalsh(products[0], there, sizes)
        self.used.add(self._own.name)
        if not self._own.exact:
            self._refine(values, products[0], there, sizes)
        return values, self._own.pair_statistics(products, there, sizes)

    def matrix_features(self, *measured: Any) -> dict[str, Array]:
        """See `Solver.matrix_features`."""
        return self._own.matrix_features(*measured)

    def _takes(self, n_obs: int, n_assets: int) -> bool:
        return self._own.takes(n_assets) and not is_dual(n_obs, n_assets)

    def _refine(self, values: Array, product: Array, index: Array, sizes: np.ndarray) -> None:
        """Compute doubtful spectra again, in place."""
        xp = array_namespace(values)
        first = xp.asarray(values.shape[1] - sizes)[:, None]
        doubtful = to_numpy(xp.take_along_axis(values, first, axis=1)[:, 0] < REFINE_BELOW)
        for size in np.unique(sizes[doubtful]).tolist():
            rows = xp.asarray(np.flatnonzero(doubtful & (sizes == size)))
            exact = next(step for step in self._steps if step.exact and step.takes(size))
            values[rows, values.shape[1] - size :] = exact.eigvalsh(product, index[rows, :size])
            self.used.add(exact.name)


class LaneKernels:
    """Own compiled kernels for the CPU, as a step of a `Solver`."""

    name = "lanes"
    exact = True

    def takes(self, size: int) -> bool:
        return True

    def eigvalsh(self, matrix: Array, index: Array | None) -> Array:
        from sigmahat_kernels.lanes.universes import eigenvalues_of_stack

        scratch = Scratch(np)
        n, size = matrix.shape[:2] if index is None else index.shape
        values = np.empty((n, size))
        for part in _parts(n, size * size):
            stack = matrix[part] if index is None else take_blocks(matrix, index[part], scratch, "stack")
            values[part] = eigenvalues_of_stack(stack, scratch)
        return values

    def pair_statistics(self, products: Sequence[Array], index: Array) -> PairStatistics:
        from sigmahat_kernels.lanes.universes import gather_universes

        return gather_universes(products, index, np.full(len(index), index.shape[1]), Scratch(np))[1]


class LanesSolver(Solver):
    """Own compiled kernels on NumPy arrays: universes of several sizes share the lanes of the vector registers."""

    def asset_series(self, window: Window, factor: Array) -> Array:
        """Returns, factor and, with gaps, 1.0 where there is a return; (2 or 3, m, T), so that an asset is a row."""
        series = [window.returns, factor] if window.complete else [window.returns, factor, window.observed]
        rows = np.empty((len(series), *factor.shape[::-1]))
        for row, values in zip(rows, series, strict=True):
            row[...] = values.T
        return rows

    def series_moments(
        self, series: Array, memberships: Memberships, index: np.ndarray, n_rows: np.ndarray | None = None
    ) -> SeriesMoments:
        """See `Solver.series_moments`."""
        from sigmahat_kernels.lanes.series import measure_series

        return measure_series(series, index, (index != PADDING).sum(axis=1), Scratch(np))

    def chunks(self, request: Request, part: WindowGroup) -> Iterator[np.ndarray]:
        """See `Solver.chunks`."""
        return chunks_by_work(request, part)

    def measure(
        self, products: Sequence[Array], factor: Array, index: Array, scratch: Scratch
    ) -> tuple[Array, PairStatistics]:
        """Spectra, zeros in front, and pair statistics, row sums with zeros behind; `index` ends in PADDING."""
        from sigmahat_kernels.lanes.spectra import eigenvalues_of_triangles
        from sigmahat_kernels.lanes.universes import dual_spectra, gather_universes

        self.used.add(self.name)
        sizes = (index != PADDING).sum(axis=1)
        triangles, statistics = gather_universes(products, index, sizes, scratch)
        if is_dual(factor.shape[1], int(sizes[-1])):
            return dual_spectra(factor, index, sizes, scratch), statistics
        return eigenvalues_of_triangles(triangles, sizes, scratch), statistics


def choose_solver(panel: Array, requested: str | None = None) -> Solver:
    """The solver for a panel.

    Parameters
    ----------
    panel : array
        A NumPy array is solved on the CPU, a CuPy array on its device.
    requested : str, optional
        One of `SOLVERS`; default the best that is available, on a GPU with a warning for each better one that is not.

    Raises
    ------
    SolverError
        If the requested solver does not exist or cannot run on this panel.
    """
    if requested is not None and requested not in SOLVERS:
        raise SolverError(f"solver must be one of {', '.join(SOLVERS)}, got {requested!r}")
    if array_namespace(panel) is np:
        if requested not in (None, *HOST_SOLVERS):
            raise SolverError(f"solver {requested!r} needs the panel on a GPU, and it is in host memory")
        if requested != "lapack" and can_compile():
            return LanesSolver("lanes", [LaneKernels()])
        if requested == "lanes":
            raise SolverError("solver 'lanes' cannot run here: numba is not installed")
        return HostSolver("lapack", [_LAPACK])
    if requested not in (None, *DEVICE_SOLVERS):
        raise SolverError(f"solver {requested!r} needs the panel in host memory, and it is on a GPU")
    candidates = DEVICE_SOLVERS if requested is None else DEVICE_SOLVERS[DEVICE_SOLVERS.index(requested) :]
    chosen: str | None = None
    steps: list[Step] = []
    for name in candidates:
        found = _find_steps(name)
        if isinstance(found, str):
            if name == requested:
                raise SolverError(f"solver {name!r} cannot run here: {found}")
            warnings.warn(f"solver {name!r} cannot run here, the next one is used: {found}", stacklevel=2)
        else:
            chosen = chosen or name
            steps += found
    assert chosen is not None  # LAPACK is always there
    own, *others = steps
    return OwnSolver(chosen, own, others) if isinstance(own, OwnKernels) else Solver(chosen, steps)


def _find_steps(name: str) -> list[Step] | str:
    """What a solver consists of on the current device, or why it cannot run, now or ever."""
    try:
        return _steps_on_device(name, device.current_device())
    except device.passing_errors() as error:
        return f"{type(error).__name__}: {error}"


@cache
def _steps_on_device(name: str, number: int) -> list[Step] | str:
    """The same for good (`number` only distinguishes devices); raises what may be over at the next request."""
    try:
        if name == "kernels":
            for program in kernels.PROGRAMS:
                device.compiled(program, number)
            precisions: list[type[np.floating]] = [np.float32, np.float64]
            if device.single_to_double_ratio() <= FAST_DOUBLE_RATIO:
                del precisions[0]
            return [OwnKernels(device.launch, precision, device.shared_memory_limit()) for precision in precisions]
        if name == "cusolver":
            cusolver.check_available()
            return [Stacked(name, cusolver.eigvalsh)]
    except device.passing_errors():
        raise
    except Exception as error:  # NVRTC and the loader each raise their own
        return f"{type(error).__name__}: {error}"
    return [Stacked("cupy", lambda stack: array_namespace(stack).linalg.eigvalsh(stack)) if name == "cupy" else _LAPACK]


def _solve_on_host(stack: Array) -> Array:
    return array_namespace(stack).asarray(np.linalg.eigvalsh(to_numpy(stack)))


_LAPACK = Stacked("lapack", _solve_on_host)


def _parts(n: int, cells: int) -> Iterator[slice]:
    """Slices of `n` stacked float64 arrays of so many cells each, small enough for the libraries and for the memory."""
    size = max(1, min(_MAX_STACK, _MAX_STACK_BYTES // (8 * cells)))
    return (slice(start, start + size) for start in range(0, n, size))
