# SPDX-License-Identifier: Apache-2.0
"""What the demo's request asks of a GPU stays within what was promised."""

from __future__ import annotations

import pytest

from benchmarks.speed.device_calls import N_WINDOWS, SIZES, STEPS, count, draw_request

MOST = {"launches": 60, "array_calls": 1_500, "host_copies": 40, "waits": 12}
"""Of features and matrices together, for 2,000 universes of 20 to 200 assets over 36 windows."""


@pytest.mark.parametrize("missing", [0.0, 0.0002])
def test_counts_of_the_demo(missing: float) -> None:
    """They do not grow with the number of universes, so that few tell of many: these use all columns of each window.

    Of returns of which so few are missing, nearly every universe misses one.
    """
    counts = [
        {step: count(draw_request(n_universes, SIZES, N_WINDOWS, missing), step) for step in STEPS}
        for n_universes in (576, 720)
    ]
    assert counts[0] == counts[1]
    for name, most in MOST.items():
        assert sum(of_step[name] for of_step in counts[0].values()) <= most, name


def test_windows_of_several_lengths_share_launches() -> None:
    """From 252 to 987 rows: two batches, each of windows up to twice as long as its shortest."""
    request = draw_request(144, SIZES, N_WINDOWS, expanding=True)
    counts = {step: count(request, step) for step in STEPS}
    assert [of_step["launches"] for of_step in counts.values()] == [2 * 15, 2]
    for name, most in MOST.items():
        assert sum(of_step[name] for of_step in counts.values()) <= 2 * most, name


def test_risk_asks_for_little_more_than_matrices() -> None:
    counts = count(draw_request(24, (20, 200), 3), "risk")
    assert counts["launches"] == 1
    assert counts["array_calls"] <= 200
    assert counts["host_copies"] <= 40


def test_sizes_share_launches() -> None:
    """One of each step for each size class, two of tridiagonalise for those above 64; one of what spectra and pairs
    say; one of all matrices."""
    equal, mixed = (draw_request(24, sizes, 3) for sizes in ((100, 100), (20, 200)))
    assert [count(equal, step)["launches"] for step in STEPS] == [5, 1]
    assert [count(mixed, step)["launches"] for step in STEPS] == [15, 1]
    with_gaps = draw_request(24, (20, 200), 3, missing=0.001)
    assert [count(with_gaps, step)["launches"] for step in STEPS] == [15, 2]  # and one that completes the correlations
