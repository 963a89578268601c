# SPDX-License-Identifier: Apache-2.0
"""Householder's tridiagonalisation of symmetric matrices: one in each lane, or one across the lanes.

From the last row up, each step takes row m of what the last step left, A - v w' - w v', reflects it onto its last
element, and multiplies what is above it by the reflection's vector u: with tau = 2 / u'u and y = A u, the next v is u
and the next w is tau y - (tau^2 y'u / 2) u (Golub, Van Loan, section 8.3.1). Update and product are one pass.

Both forms do the same operations on the same numbers in the same order, so that a matrix gets the same bits from both,
whoever is in the other lanes and however many lanes there are:

- an element is updated as fma(-w_r, v_c, fma(-v_r, w_c, a_rc)), r >= c;
- y_c is a chain of fma over its row of A, from the first element to the last, whatever the blocks;
- u'u and y'u are four chains, over every fourth element, summed as `vectors.sum_lanes` does.

A step depends on its row's number, not on the number of rows. So a matrix that is set into the upper left of a larger
one, all else zero, waits through the steps of the other's last rows, and then goes through those of its own.
"""

from __future__ import annotations

import numpy as np

from sigmahat_kernels.lanes.compiled import compiled
from sigmahat_kernels.lanes.vectors import WIDTH as W
from sigmahat_kernels.lanes.vectors import (
    count_up,
    fma,
    load,
    select,
    splat,
    sqrt,
    store,
    store_first,
    sum_lanes,
)

NOTHING = 1e-140
"""A row whose other elements' squares sum to no more is left as it is: its reflection would not be orthogonal."""


@compiled
def tridiagonalise_lanes(a: np.ndarray, n: int, work: np.ndarray, diagonal: np.ndarray, squares: np.ndarray) -> None:
    """Tridiagonalise `vectors.WIDTH` matrices of n >= 2 rows, one in each lane.

    Parameters
    ----------
    a : float64 array, (n (n + 1) / 2, WIDTH)
        Lower triangles, row after row; overwritten.
    work : float64 array, (4, n, WIDTH)
    diagonal, squares : float64 arrays, (n, WIDTH)
        Filled: the diagonals of the tridiagonal matrices, and the squares of what stands below them; the last is zero.
    """
    v, w, u, y = work[0], work[1], work[2], work[3]
    zero, one, minus_half, nothing = splat(0.0, W), splat(1.0, W), splat(-0.5, W), splat(NOTHING, W)
    for c in range(n):
        store(v, c * W, zero)
        store(w, c * W, zero)
    store(squares, (n - 1) * W, zero)
    for m in range(n - 1, 0, -1):
        row = m * (m + 1) // 2
        v0, w0 = zero - load(v, m * W, W), zero - load(w, m * W, W)
        p0, p1, p2, p3 = zero, zero, zero, zero
        others = m - 1
        whole = others - others % 4
        for c in range(0, whole, 4):
            t0 = fma(w0, load(v, c * W, W), fma(v0, load(w, c * W, W), load(a, (row + c) * W, W)))
            t1 = fma(w0, load(v, (c + 1) * W, W), fma(v0, load(w, (c + 1) * W, W), load(a, (row + c + 1) * W, W)))
            t2 = fma(w0, load(v, (c + 2) * W, W), fma(v0, load(w, (c + 2) * W, W), load(a, (row + c + 2) * W, W)))
            t3 = fma(w0, load(v, (c + 3) * W, W), fma(v0, load(w, (c + 3) * W, W), load(a, (row + c + 3) * W, W)))
            store(u, c * W, t0)
            store(u, (c + 1) * W, t1)
            store(u, (c + 2) * W, t2)
            store(u, (c + 3) * W, t3)
            p0, p1, p2, p3 = fma(t0, t0, p0), fma(t1, t1, p1), fma(t2, t2, p2), fma(t3, t3, p3)
        for c in range(whole, others):
            t = fma(w0, load(v, c * W, W), fma(v0, load(w, c * W, W), load(a, (row + c) * W, W)))
            store(u, c * W, t)
            if c == whole:
                p0 = fma(t, t, p0)
            elif c == whole + 1:
                p1 = fma(t, t, p1)
            else:
                p2 = fma(t, t, p2)
        rest = (p0 + p2) + (p1 + p3)
        last = fma(w0, load(v, others * W, W), fma(v0, load(w, others * W, W), load(a, (row + others) * W, W)))
        store(diagonal, m * W, fma(w0, load(v, m * W, W), fma(v0, load(w, m * W, W), load(a, (row + m) * W, W))))
        square = fma(last, last, rest)
        store(squares, others * W, square)
        root = sqrt(square)
        reflected = select(last >= zero, zero - root, root)
        store(u, others * W, last - reflected)
        tau = select(rest > nothing, one / fma(zero - reflected, last, square), zero)

        for c in range(m):
            store(y, c * W, zero)
        for r in range(m % 4):
            base = r * (r + 1) // 2
            v0, w0, u0 = zero - load(v, r * W, W), zero - load(w, r * W, W), load(u, r * W, W)
            s0 = zero
            for c in range(r):
                t0 = fma(w0, load(v, c * W, W), fma(v0, load(w, c * W, W), load(a, (base + c) * W, W)))
                store(a, (base + c) * W, t0)
                s0 = fma(t0, load(u, c * W, W), s0)
                store(y, c * W, fma(t0, u0, load(y, c * W, W)))
            t0 = fma(w0, load(v, r * W, W), fma(v0, load(w, r * W, W), load(a, (base + r) * W, W)))
            store(a, (base + r) * W, t0)
            store(y, r * W, fma(t0, u0, s0))
        for r in range(m % 4, m, 4):
            b0 = r * (r + 1) // 2
            b1 = b0 + r + 1
            b2 = b1 + r + 2
            b3 = b2 + r + 3
            v0, v1 = zero - load(v, r * W, W), zero - load(v, (r + 1) * W, W)
            v2, v3 = zero - load(v, (r + 2) * W, W), zero - load(v, (r + 3) * W, W)
            w0, w1 = zero - load(w, r * W, W), zero - load(w, (r + 1) * W, W)
            w2, w3 = zero - load(w, (r + 2) * W, W), zero - load(w, (r + 3) * W, W)
            u0, u1, u2, u3 = (
                load(u, r * W, W),
                load(u, (r + 1) * W, W),
                load(u, (r + 2) * W, W),
                load(u, (r + 3) * W, W),
            )
            s0, s1, s2, s3 = zero, zero, zero, zero
            for c in range(r):
                vc, wc, uc = load(v, c * W, W), load(w, c * W, W), load(u, c * W, W)
                t0 = fma(w0, vc, fma(v0, wc, load(a, (b0 + c) * W, W)))
                t1 = fma(w1, vc, fma(v1, wc, load(a, (b1 + c) * W, W)))
                t2 = fma(w2, vc, fma(v2, wc, load(a, (b2 + c) * W, W)))
                t3 = fma(w3, vc, fma(v3, wc, load(a, (b3 + c) * W, W)))
                store(a, (b0 + c) * W, t0)
                store(a, (b1 + c) * W, t1)
                store(a, (b2 + c) * W, t2)
                store(a, (b3 + c) * W, t3)
                s0, s1, s2, s3 = fma(t0, uc, s0), fma(t1, uc, s1), fma(t2, uc, s2), fma(t3, uc, s3)
                store(y, c * W, fma(t3, u3, fma(t2, u2, fma(t1, u1, fma(t0, u0, load(y, c * W, W))))))
            # The four rows' own corner: element (j, k) is t_jk.
            vc, wc = zero - v0, zero - w0
            t00 = fma(w0, vc, fma(v0, wc, load(a, (b0 + r) * W, W)))
            t10 = fma(w1, vc, fma(v1, wc, load(a, (b1 + r) * W, W)))
            t20 = fma(w2, vc, fma(v2, wc, load(a, (b2 + r) * W, W)))
            t30 = fma(w3, vc, fma(v3, wc, load(a, (b3 + r) * W, W)))
            vc, wc = zero - v1, zero - w1
            t11 = fma(w1, vc, fma(v1, wc, load(a, (b1 + r + 1) * W, W)))
            t21 = fma(w2, vc, fma(v2, wc, load(a, (b2 + r + 1) * W, W)))
            t31 = fma(w3, vc, fma(v3, wc, load(a, (b3 + r + 1) * W, W)))
            vc, wc = zero - v2, zero - w2
            t22 = fma(w2, vc, fma(v2, wc, load(a, (b2 + r + 2) * W, W)))
            t32 = fma(w3, vc, fma(v3, wc, load(a, (b3 + r + 2) * W, W)))
            t33 = fma(w3, zero - v3, fma(v3, zero - w3, load(a, (b3 + r + 3) * W, W)))
            store(a, (b0 + r) * W, t00)
            store(a, (b1 + r) * W, t10)
            store(a, (b1 + r + 1) * W, t11)
            store(a, (b2 + r) * W, t20)
            store(a, (b2 + r + 1) * W, t21)
            store(a, (b2 + r + 2) * W, t22)
            store(a, (b3 + r) * W, t30)
            store(a, (b3 + r + 1) * W, t31)
            store(a, (b3 + r + 2) * W, t32)
            store(a, (b3 + r + 3) * W, t33)
            store(y, r * W, fma(t30, u3, fma(t20, u2, fma(t10, u1, fma(t00, u0, s0)))))
            store(y, (r + 1) * W, fma(t31, u3, fma(t21, u2, fma(t11, u1, fma(t10, u0, s1)))))
            store(y, (r + 2) * W, fma(t32, u3, fma(t22, u2, fma(t21, u1, fma(t20, u0, s2)))))
            store(y, (r + 3) * W, fma(t33, u3, fma(t32, u2, fma(t31, u1, fma(t30, u0, s3)))))

        p0, p1, p2, p3 = zero, zero, zero, zero
        whole = m - m % 4
        for c in range(0, whole, 4):
            p0 = fma(load(y, c * W, W), load(u, c * W, W), p0)
            p1 = fma(load(y, (c + 1) * W, W), load(u, (c + 1) * W, W), p1)
            p2 = fma(load(y, (c + 2) * W, W), load(u, (c + 2) * W, W), p2)
            p3 = fma(load(y, (c + 3) * W, W), load(u, (c + 3) * W, W), p3)
        for c in range(whole, m):
            if c == whole:
                p0 = fma(load(y, c * W, W), load(u, c * W, W), p0)
            elif c == whole + 1:
                p1 = fma(load(y, c * W, W), load(u, c * W, W), p1)
            else:
                p2 = fma(load(y, c * W, W), load(u, c * W, W), p2)
        h = minus_half * tau * tau * ((p0 + p2) + (p1 + p3))
        for c in range(m):
            uc = load(u, c * W, W)
            store(w, c * W, fma(h, uc, tau * load(y, c * W, W)))
            store(v, c * W, uc)
    store(diagonal, 0, load(a, 0, W))


@compiled
def tridiagonalise_across(a: np.ndarray, n: int, work: np.ndarray, diagonal: np.ndarray, squares: np.ndarray) -> None:
    """Tridiagonalise one matrix of n >= 2 rows, several elements of a row at a time.

    Parameters
    ----------
    a : float64 array, (L, L), L the next multiple of 8 from n
        Both triangles, all else zero; overwritten.
    work : float64 array, (4, L)
    diagonal, squares : float64 arrays, (n,)
        Filled, see `tridiagonalise_lanes`.
    """
    v, w, u, y = work[0], work[1], work[2], work[3]
    length = a.shape[1]
    zero, zero4 = splat(0.0, W), splat(0.0, 4)
    for c in range(length):
        v[c] = w[c] = u[c] = y[c] = 0.0  # of y, what narrow registers leave in a block of four is multiplied by zero
    squares[n - 1] = 0.0
    for m in range(n - 1, 0, -1):
        row = m * length
        others = m - 1
        vm, wm = splat(v[m], 4), splat(w[m], 4)
        v0, w0 = zero4 - vm, zero4 - wm
        store_first(diagonal, m, 1, fma(w0, vm, fma(v0, wm, splat(a[m, m], 4))))
        v[m] = w[m] = u[m] = 0.0  # v, w and u are zero from row m on: what is finished adds nothing and is left alone
        sums = zero4
        for c in range(0, m, 4):
            t = fma(w0, load(v, c, 4), fma(v0, load(w, c, 4), load(a, row + c, 4)))
            t = select(count_up(c, 4) < splat(float(m), 4), t, zero4)
            store(u, c, t)
            t = select(count_up(c, 4) < splat(float(others), 4), t, zero4)
            sums = fma(t, t, sums)
        rest, last = splat(sum_lanes(sums), 4), splat(u[others], 4)
        square = fma(last, last, rest)
        store_first(squares, others, 1, square)
        root = sqrt(square)
        reflected = select(last >= zero4, zero4 - root, root)
        store_first(u, others, 1, last - reflected)
        tau = select(rest > splat(NOTHING, 4), splat(1.0, 4) / fma(zero4 - reflected, last, square), zero4)

        for c in range(0, m, W):
            store(y, c, zero)
        for r in range(0, m, 4):
            b0 = r * length
            b1, b2, b3 = b0 + length, b0 + 2 * length, b0 + 3 * length
            v0, v1, v2, v3 = splat(-v[r], W), splat(-v[r + 1], W), splat(-v[r + 2], W), splat(-v[r + 3], W)
            w0, w1, w2, w3 = splat(-w[r], W), splat(-w[r + 1], W), splat(-w[r + 2], W), splat(-w[r + 3], W)
            u0, u1, u2, u3 = splat(u[r], W), splat(u[r + 1], W), splat(u[r + 2], W), splat(u[r + 3], W)
            corner = r - r % W
            beyond = corner
            for c in range(0, corner, W):  # below the diagonal
                vc, wc = load(v, c, W), load(w, c, W)
                t0 = fma(w0, vc, fma(v0, wc, load(a, b0 + c, W)))
                t1 = fma(w1, vc, fma(v1, wc, load(a, b1 + c, W)))
                t2 = fma(w2, vc, fma(v2, wc, load(a, b2 + c, W)))
                t3 = fma(w3, vc, fma(v3, wc, load(a, b3 + c, W)))
                store(a, b0 + c, t0)
                store(a, b1 + c, t1)
                store(a, b2 + c, t2)
                store(a, b3 + c, t3)
                store(y, c, fma(t3, u3, fma(t2, u2, fma(t1, u1, fma(t0, u0, load(y, c, W))))))
            for c in range(corner, r + 4, W):  # on it
                vc, wc, at = load(v, c, W), load(w, c, W), count_up(c, W)
                x0, x1, x2, x3 = load(a, b0 + c, W), load(a, b1 + c, W), load(a, b2 + c, W), load(a, b3 + c, W)
                below = fma(w0, vc, fma(v0, wc, x0))
                t0 = select(at <= splat(float(r), W), below, fma(v0, wc, fma(w0, vc, x0)))
                below = fma(w1, vc, fma(v1, wc, x1))
                t1 = select(at <= splat(float(r + 1), W), below, fma(v1, wc, fma(w1, vc, x1)))
                below = fma(w2, vc, fma(v2, wc, x2))
                t2 = select(at <= splat(float(r + 2), W), below, fma(v2, wc, fma(w2, vc, x2)))
                below = fma(w3, vc, fma(v3, wc, x3))
                t3 = select(at <= splat(float(r + 3), W), below, fma(v3, wc, fma(w3, vc, x3)))
                store(a, b0 + c, t0)
                store(a, b1 + c, t1)
                store(a, b2 + c, t2)
                store(a, b3 + c, t3)
                store(y, c, fma(t3, u3, fma(t2, u2, fma(t1, u1, fma(t0, u0, load(y, c, W))))))
                beyond = c + W
            for c in range(beyond, m, W):  # above it: what row c says of column r
                vc, wc = load(v, c, W), load(w, c, W)
                t0 = fma(v0, wc, fma(w0, vc, load(a, b0 + c, W)))
                t1 = fma(v1, wc, fma(w1, vc, load(a, b1 + c, W)))
                t2 = fma(v2, wc, fma(w2, vc, load(a, b2 + c, W)))
                t3 = fma(v3, wc, fma(w3, vc, load(a, b3 + c, W)))
                store(a, b0 + c, t0)
                store(a, b1 + c, t1)
                store(a, b2 + c, t2)
                store(a, b3 + c, t3)
                store(y, c, fma(t3, u3, fma(t2, u2, fma(t1, u1, fma(t0, u0, load(y, c, W))))))

        sums = zero4
        for c in range(0, m, 4):
            sums = fma(load(y, c, 4), load(u, c, 4), sums)
        h = splat(-0.5, 4) * tau * tau * splat(sum_lanes(sums), 4)
        for c in range(0, m, 4):
            uc = load(u, c, 4)
            t = fma(h, uc, tau * load(y, c, 4))
            store(w, c, select(count_up(c, 4) < splat(float(m), 4), t, zero4))
            store(v, c, uc)
    diagonal[0] = a[0, 0]
