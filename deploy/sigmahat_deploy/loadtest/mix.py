# SPDX-License-Identifier: Apache-2.0
"""The requests of a load test: real windows of a panel, universes of realistic sizes, the same for the same seed."""

from __future__ import annotations

import base64
import json
import math
from typing import NamedTuple

import numpy as np
import pandas as pd

from sigmahat_deploy.loadtest.errors import LoadTestError

Tensors = dict[str, np.ndarray]

MIN_COVERAGE = 0.9
"""An asset is drawn for a universe only if it has this share of the window's returns."""


class Sizes(NamedTuple):
    """Of what is drawn. Both ranges are filled evenly on the log scale: small is common, large occurs."""

    n_requests: int = 64
    n_obs: int = 252
    assets: tuple[int, int] = (20, 200)  # of a universe, both ends included
    universes: tuple[int, int] = (1, 128)  # of a request, both ends included


_STEPS = np.array([3**0.5, (5**0.5 - 1) / 2])
"""Multiples of these, modulo 1, fill a square evenly from the first on, those of the golden ratio a line most evenly of
all: any stretch of requests has nearly as many universes as all have."""


def draw_mix(returns: pd.DataFrame, sizes: Sizes, seed: int) -> tuple[Tensors, ...]:
    """Draw requests.

    Parameters
    ----------
    returns : DataFrame of shape (T, N)
        Simple returns, as `read_returns` gives them; NaN = missing.
    sizes : Sizes
        The largest universe may be smaller than asked, if fewer assets have returns in a window.
    seed : int
        Decides everything.

    Returns
    -------
    tuple of dict
        One request each: PANEL (n_obs, N) float32, UNIVERSES (U, n) int32 of distinct columns, DATES (n_obs,) int32.

    Raises
    ------
    LoadTestError
        If the panel has too few rows, or a window too few assets.
    """
    if len(returns) < sizes.n_obs:
        raise LoadTestError(
            f"the load test needs {sizes.n_obs} rows of returns, got {len(returns)}: give a longer panel"
        )
    rng = np.random.default_rng(seed)
    panel = returns.to_numpy(np.float32)
    days = returns.index.to_numpy().astype("datetime64[D]").astype(np.int32)
    requests = []
    for place in (rng.random(2) + np.arange(sizes.n_requests)[:, None] * _STEPS) % 1:
        stop = int(rng.integers(sizes.n_obs, len(panel) + 1))
        window = np.ascontiguousarray(panel[stop - sizes.n_obs : stop])
        candidates = np.flatnonzero(np.isfinite(window).mean(axis=0) >= MIN_COVERAGE)
        smallest, largest = sizes.assets[0], min(sizes.assets[1], len(candidates))
        if largest < smallest:
            raise LoadTestError(
                f"the load test needs {smallest} assets with returns in the {sizes.n_obs} rows before row {stop}, "
                f"got {len(candidates)}: give a wider panel"
            )
        n_assets, n_universes = _size(place[0], smallest, largest), _size(place[1], *sizes.universes)
        universes = np.stack([rng.choice(candidates, n_assets, replace=False) for _ in range(n_universes)])
        requests.append(
            {"PANEL": window, "UNIVERSES": universes.astype(np.int32), "DATES": days[stop - sizes.n_obs : stop]}
        )
    return tuple(requests)


def perf_analyzer_data(requests: tuple[Tensors, ...]) -> str:
    """Write requests as perf_analyzer's ``--input-data`` takes them, whose bytes are little-endian and row-major."""
    steps = [
        {
            name: {"content": {"b64": base64.b64encode(tensor.tobytes()).decode()}, "shape": list(tensor.shape)}
            for name, tensor in request.items()
        }
        for request in requests
    ]
    return json.dumps({"data": steps})


def _size(place: float, smallest: int, largest: int) -> int:
    """An integer between both ends, included: where on the log scale `place`, in [0, 1), is.

    >>> [_size(place, 1, 128) for place in (0.0, 0.5, 0.999)]
    [1, 11, 128]
    """
    return int(math.exp(math.log(smallest) + place * math.log((largest + 1) / smallest)))
