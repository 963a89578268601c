# SPDX-License-Identifier: Apache-2.0
"""Which returns are stale prices, run by run from the rule's words. Nothing of the product is imported."""

from __future__ import annotations

import math

import numpy as np


def stale_cells(returns):
    """Cells of runs of k >= 10 exact zeros with n p^k < 1e-6; missing cells are passed over. (T, m) bool."""
    stale = np.zeros(returns.shape, bool)
    for i in range(returns.shape[1]):
        rows = [t for t in range(len(returns)) if not math.isnan(returns[t, i])]
        zeros = sum(1 for t in rows if returns[t, i] == 0)
        if zeros == len(rows):
            continue
        run = []
        for t in [*rows, None]:
            if t is not None and returns[t, i] == 0:
                run.append(t)
                continue
            k = len(run)
            share = (zeros - k + 1) / (len(rows) - k + 2)
            if k >= 10 and len(rows) * share**k < 1e-6:
                stale[run, i] = True
            run = []
    return stale
