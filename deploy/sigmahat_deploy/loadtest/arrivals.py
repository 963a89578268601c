# SPDX-License-Identifier: Apache-2.0
"""When independent callers send."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def poisson(rate: float, seconds: float, seed: Sequence[int]) -> np.ndarray:
    """Times (n,) in seconds, increasing, all below `seconds`, of `rate` arrivals a second on average.

    >>> times = poisson(50.0, 100.0, [0])
    >>> 4700 < len(times) < 5300, bool((np.diff(times) > 0).all())
    (True, True)
    """
    rng = np.random.default_rng(seed)
    # As many as come in time but for one chance in 1e23.
    expected = rate * seconds
    times = np.cumsum(rng.exponential(1 / rate, size=int(expected + 10 * expected**0.5 + 10)))
    return times[times < seconds]
