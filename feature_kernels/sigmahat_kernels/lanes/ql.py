# SPDX-License-Identifier: Apache-2.0
"""Eigenvalues of tridiagonal matrices, one in each lane, by the QL algorithm without square roots.

The recurrences of Pal, Walker and Kahan (Parlett, The Symmetric Eigenvalue Problem, section 8.15; LAPACK's dsterf),
with Wilkinson's shift. A sweep goes from a matrix's last row up to the first that has not been set apart. All matrices
end at the last row of the arrays, so that their sweeps begin together, and those that reach their end first wait,
unchanged, for the others. A lane so does what it would do alone: no matrix changes a bit of another one.
"""

from __future__ import annotations

import numpy as np

from sigmahat_kernels.lanes.compiled import compiled
from sigmahat_kernels.lanes.vectors import Lanes, absolute, fma, load, select, splat, sqrt, store

_APART = 1e-16
"""What stands below a diagonal is zero where it is no more than this share of the matrix's norm."""

_SMALLEST_PIVOT = 1e-20
"""No pivot is smaller, as a share of the norm: nothing is divided by zero."""

_SWEEPS = 30
"""A row takes two on average; LAPACK gives up after as many."""


@compiled
def eigenvalues_of_tridiagonals(
    d: np.ndarray, e: np.ndarray, first: np.ndarray, work: np.ndarray, out: np.ndarray, like: Lanes
) -> None:
    """Find all eigenvalues of one matrix in each lane.

    Parameters
    ----------
    d, e : float64 arrays, (n, lanes)
        Diagonals, and the squares of what stands below them, the last zero; overwritten. A smaller matrix has zeros in
        front.
    first : int64 array, (lanes,)
        Row at which each matrix begins; overwritten.
    work : float64 array, (5, lanes)
    out : float64 array, (lanes, n)
        Filled: the eigenvalues, in no order, from `first` on; NaN for a matrix of which they were not found.
    like : Lanes
        Any, of so many lanes.
    """
    n, width = d.shape
    starts, limits, here, below, between = work[0], work[1], work[2], work[3], work[4]
    zero, one = splat(0.0, like), splat(1.0, like)
    norm = zero
    for i in range(n):
        x = absolute(load(d, i * width, like)) + sqrt(load(e, i * width, like))
        norm = select(x > norm, x, norm)
    tiny = fma(norm, splat(_SMALLEST_PIVOT, like), splat(1e-140, like))
    limit = norm * splat(_APART, like)
    store(limits, 0, limit * limit)
    end = n - 1
    for k in range(width):
        here[k] = below[k] = 0.0
        between[k] = 1.0
        if first[k] >= end:
            starts[k] = 2.0 * n
            out[k, end] = d[end, k]
    for _ in range(_SWEEPS * n):
        lowest, highest = n, -1
        for k in range(width):
            at = first[k]
            if at < end:
                while at < end and e[at, k] <= limits[k]:
                    at += 1
                if at < end:
                    here[k], below[k], between[k], starts[k] = d[at, k], d[at + 1, k], e[at, k], at
                    lowest, highest = min(lowest, at), max(highest, at)
                else:  # the lane goes on with the others, and what it does then is not looked at
                    for i in range(n):
                        out[k, i] = d[i, k]
                        e[i, k] = 0.0
                    starts[k] = 2.0 * n
                first[k] = at
        if highest < 0:
            return
        start = load(starts, 0, like)
        root = sqrt(load(between, 0, like))
        q = (load(below, 0, like) - load(here, 0, like)) / (root + root)
        r = sqrt(fma(q, q, one))
        sigma = load(here, 0, like) - root / (q + select(q >= zero, r, zero - r))

        g = load(d, end * width, like) - sigma
        g = select(absolute(g) >= tiny, g, tiny)
        p, s = g * g, zero
        for i in range(n - 2, highest - 1, -1):
            b, alpha = load(e, i * width, like), load(d, i * width, like)
            r = p + b
            store(e, (i + 1) * width, s * r)
            inverse = one / (r * p)  # of both in one division: 1 / r = p inverse, 1 / p = r inverse
            t = p * inverse
            s = b * t
            before = g
            g = fma(p, alpha - sigma, zero - b * before) * t
            g = select(absolute(g) >= tiny, g, tiny)
            store(d, (i + 1) * width, before + (alpha - g))
            p = g * g * (r * (r * inverse))
        row = splat(float(highest), like)
        arrived = (start <= row) & (row <= start)
        store(e, highest * width, select(arrived, s * p, load(e, highest * width, like)))
        store(d, highest * width, select(arrived, sigma + g, load(d, highest * width, like)))
        for i in range(highest - 1, lowest - 1, -1):
            row = splat(float(i), like)
            going = start <= row
            b, alpha = load(e, i * width, like), load(d, i * width, like)
            r = p + b
            store(e, (i + 1) * width, select(going, s * r, load(e, (i + 1) * width, like)))
            inverse = one / (r * p)
            t = p * inverse
            after = fma(p, alpha - sigma, zero - b * g) * t
            after = select(absolute(after) >= tiny, after, tiny)
            store(d, (i + 1) * width, select(going, g + (alpha - after), load(d, (i + 1) * width, like)))
            p = select(going, after * after * (r * (r * inverse)), p)
            s = select(going, b * t, s)
            g = select(going, after, g)
            arrived = going & (row <= start)
            store(e, i * width, select(arrived, s * p, b))
            store(d, i * width, select(arrived, sigma + g, alpha))
    for k in range(width):
        if first[k] < end:
            for i in range(n):
                out[k, i] = np.nan
