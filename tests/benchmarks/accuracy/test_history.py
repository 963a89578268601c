# SPDX-License-Identifier: Apache-2.0
"""Longer histories, coarser returns, and parts of the estimate: what is compared, by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from benchmarks.accuracy import history, parts, spacing
from sigmahat_trainer.data.dataset import Dataset, draw_dataset
from sigmahat_trainer.data.panels import ReturnPanel


def make_panel(n_rows: int, n_assets: int = 3, first: str = "2010-01-01") -> ReturnPanel:
    returns = 0.01 * np.random.default_rng(n_rows).standard_normal((n_rows, n_assets)).astype(np.float32)
    dates = np.busday_offset(np.datetime64(first), np.arange(n_rows), roll="forward")
    return ReturnPanel("here", returns, dates, np.full((n_rows, 4), np.nan, np.float32))


def test_coarser_returns_are_products_of_the_last_rows() -> None:
    panel = make_panel(13)
    panel.returns[3:8, 1] = np.nan  # a whole period
    panel.returns[9, 2] = np.nan  # a part of one
    weekly = spacing.compounded(panel, 5)
    assert weekly.returns.shape == (2, 3)
    np.testing.assert_array_equal(weekly.dates, panel.dates[[7, 12]])
    for asset, period in ((0, 0), (0, 1), (2, 1)):
        growth = 1.0
        for row in range(3 + 5 * period, 8 + 5 * period):
            growth *= 1.0 if np.isnan(panel.returns[row, asset]) else 1.0 + float(panel.returns[row, asset])
        assert weekly.returns[period, asset] == pytest.approx(growth - 1.0, rel=1e-6)
    assert np.isnan(weekly.returns[0, 1])
    assert np.isfinite(weekly.returns[1, 1])


def test_lengths_are_compared_with_a_year_date_by_date() -> None:
    year = np.linspace(-5.0, -4.0, 12)
    wobble = 1.0 + 0.1 * (-1.0) ** np.arange(12)  # of mean 1
    rows = [
        pd.DataFrame(
            {"panel": name, "n_assets": 7, "126": year + gap, "252": year, "504": year - gap, "1008": year - 2 * gap}
        )
        for name, gap in (("a", 0.01 * wobble), ("b", -0.005 * wobble))
    ]
    figures = history.figures_of(pd.concat(rows, ignore_index=True))
    assert figures["panels"]["a"]["504"]["difference"] == pytest.approx(-1.0)
    assert figures["panels"]["b"]["126"]["difference"] == pytest.approx(-0.5)
    together = figures["against_252_rows"]["1008"]
    assert together["difference"] == pytest.approx((-2.0 + 1.0) / 2)
    assert (together["worst"], together["panels_worse"], together["panels"]) == (pytest.approx(1.0), 1, 2)


def test_a_part_is_taken_out_of_the_samples_and_nothing_else_is() -> None:
    drawn = draw_dataset([], n_samples=12, simulated_share=1.0, horizon=5, seed=1, market_power=0.5)
    bare = parts.without(drawn, list(parts.PARTS))
    for size, stack in drawn.by_size.items():
        other = bare.by_size[size]
        assert not other.loadings.any()
        assert stack.loadings.any()
        assert not other.asset_statistics[..., parts.N_FIRST_STATISTICS :].any()
        changed = {name for name, values in stack._asdict().items() if (values != getattr(other, name)).any()}
        assert changed == {"loadings", "asset_statistics"}
        first = slice(parts.N_FIRST_STATISTICS)
        np.testing.assert_array_equal(other.asset_statistics[..., first], stack.asset_statistics[..., first])
    assert isinstance(bare, Dataset)
