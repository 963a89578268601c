# SPDX-License-Identifier: Apache-2.0
"""The same code on CuPy arrays gives the same numbers as on NumPy's."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from sigmahat_kernels.assemble import assemble
from sigmahat_kernels.backend import to_numpy
from sigmahat_kernels.features import FEATURE_NAMES, FeatureTable, compute_features
from sigmahat_kernels.parameters import HEADS, Parameters
from sigmahat_kernels.portfolios import read_portfolios
from sigmahat_kernels.request import PADDING, Request, read_request
from sigmahat_kernels.risk import measure_portfolios
from sigmahat_kernels.status import Status

pytestmark = pytest.mark.gpu

# Features are float32; the rest is for the logarithm of an eigenvalue near zero.
RTOL, ATOL = 1e-5, 1e-5


def universes_of(n_columns: int, largest: int, n: int = 40) -> np.ndarray:
    rng = np.random.default_rng(3)
    rows = np.full((n, largest), PADDING, np.int32)
    for row in rows:
        size = rng.integers(2, largest + 1)
        row[:size] = rng.choice(n_columns, size, replace=False)
    return rows


def both(cupy: ModuleType, request: Request) -> tuple[FeatureTable, FeatureTable]:
    on_device = compute_features(request._replace(panel=cupy.asarray(request.panel)), threads=1)
    return compute_features(request), on_device


def assert_equal_tables(on_host: FeatureTable, on_device: FeatureTable) -> None:
    np.testing.assert_array_equal(on_device.status, on_host.status)
    np.testing.assert_array_equal(on_device.status_asset, on_host.status_asset)
    for column, name in enumerate(FEATURE_NAMES):
        np.testing.assert_allclose(
            on_device.features[:, column], on_host.features[:, column], rtol=RTOL, atol=ATOL, err_msg=name
        )


@pytest.mark.parametrize("n_rows", [300, 60, 40])
@pytest.mark.parametrize("missing", [False, True])
def test_features(cupy: ModuleType, panel: np.ndarray, n_rows: int, missing: bool) -> None:
    returns = panel[-n_rows:] if missing else np.nan_to_num(panel[-n_rows:])
    rng = np.random.default_rng(1)
    market = np.exp(rng.standard_normal((n_rows, 4))).astype(np.float32)
    request = read_request(returns, universes_of(80, 60), market=market, dates=np.arange(18_000, 18_000 + n_rows))
    on_host, on_device = both(cupy, request)
    assert (on_host.status == Status.GOOD).any()
    assert_equal_tables(on_host, on_device)


def test_windows(cupy: ModuleType, panel: np.ndarray) -> None:
    windows = np.array([[0, 100], [50, 300], [200, 230], [0, 100]], np.int32)
    universes = universes_of(79, 50, 4)
    assert_equal_tables(*both(cupy, read_request(np.nan_to_num(panel), universes, windows)))


def bad_inputs(panel: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """name -> (panel, universes): what must end in a status or in a defined result."""
    clean = np.nan_to_num(panel)
    pair = np.array([[0, 1]], np.int32)
    wide = np.tile(clean, (1, 13))[:, :1_000] + np.random.default_rng(2).normal(0, 0.01, (300, 1_000))

    def changed(column: int, values: object) -> np.ndarray:
        copy = clean.copy()
        copy[:, column] = values
        return copy

    several = universes_of(80, 30, 20)
    return {
        "two assets": (clean, pair),
        "equal": (changed(1, clean[:, 0]), pair),
        "opposite": (changed(1, -clean[:, 0]), pair),
        "near-duplicate": (changed(1, clean[:, 0] * (1 + 1e-6 * clean[:, 2])), np.arange(20, dtype=np.int32)[None]),
        "constant": (changed(1, 0.01), several),
        "infinite": (changed(1, np.inf), several),
        "too large": (changed(1, 1e9), several),
        "empty column": (changed(1, np.nan), several),
        "fewer rows than assets": (clean[:25], np.arange(80, dtype=np.int32)[None]),
        "as many rows as assets": (clean[:40], np.arange(40, dtype=np.int32)[None]),
        "1,000 assets": (wide.astype(np.float32), np.arange(1_000, dtype=np.int32)[None]),
    }


@pytest.mark.parametrize(
    "name",
    [
        *("two assets", "equal", "opposite", "near-duplicate", "constant", "infinite", "too large", "empty column"),
        *("fewer rows than assets", "as many rows as assets", "1,000 assets"),
    ],
)
def test_bad_input_ends_alike(cupy: ModuleType, panel: np.ndarray, name: str) -> None:
    returns, universes = bad_inputs(panel)[name]
    on_host, on_device = both(cupy, read_request(returns.astype(np.float32), universes))
    np.testing.assert_array_equal(np.isnan(on_device.features), np.isnan(on_host.features))
    assert_equal_tables(on_host, on_device)


def test_features_repeat_to_the_last_bit(cupy: ModuleType, panel: np.ndarray) -> None:
    request = read_request(cupy.asarray(panel), universes_of(80, 60))
    first, second = (compute_features(request, threads=1) for _ in range(2))
    np.testing.assert_array_equal(first.features, second.features)


def some_parameters(n: int) -> Parameters:
    """The same answer for n universes."""
    rows = {"target_intensity": [0.5, 0.3, 0.6], "target_weights": [0.4, 0.1, 0.5], "volatility": [0.3, 0.4, 0.3, 0.1]}
    answers = {name: np.tile(values, (n, 1)) for name, values in rows.items()}
    rest = {name: np.full((n, width), 0.4) for name, width in HEADS.items() if name not in answers}
    return Parameters(**answers, **rest)


def test_risk(cupy: ModuleType, panel: np.ndarray) -> None:
    request = read_request(panel, universes_of(80, 60))
    status = compute_features(request).status
    books = read_portfolios(request, portfolios=np.random.default_rng(5).standard_normal((3, 80)))
    there = request._replace(panel=cupy.asarray(panel))
    on_host, on_device = (
        measure_portfolios(asked, some_parameters(len(status)), status, books, minimum_variance=True)._asdict()
        for asked in (request, there)
    )
    for name, value in on_host.items():
        scale = np.nanmax(np.abs(value))
        np.testing.assert_allclose(on_device[name], value, rtol=1e-5, atol=1e-5 * scale, err_msg=name)


def test_covariance(cupy: ModuleType, panel: np.ndarray) -> None:
    universes = universes_of(80, 60)
    parameters = some_parameters(len(universes))
    request = read_request(panel, universes)
    status = compute_features(request).status
    on_host = assemble(request, parameters, status)
    on_device = to_numpy(assemble(read_request(cupy.asarray(panel), universes), parameters, status, threads=1))
    np.testing.assert_allclose(on_device, on_host, rtol=1e-5, atol=1e-5 * np.nanmax(np.abs(on_host)))
