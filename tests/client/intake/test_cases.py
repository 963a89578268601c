# SPDX-License-Identifier: Apache-2.0
"""Every case of the list does what the list says, through `encode`, or through the whole pipeline for its values."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from client.intake import cases

from sigmahat_client import EstimateWarning, ShrinkageClient, SigmahatError
from sigmahat_client.intake import Job, encode

REPOSITORY = Path(__file__).parents[3] / "model_repository"
READ = [(case, section) for section, found in cases.SECTIONS.items() for case in found]


@pytest.fixture(scope="module")
def local() -> Iterator[ShrinkageClient]:
    pytest.importorskip("onnxruntime", reason="needs sigmahat[serve]")
    with ShrinkageClient.local(REPOSITORY) as client:
        yield client


def fragments(happens: str) -> list[str]:
    return re.findall(r"`(.*?)`", happens)


def arguments(make: Any) -> dict[str, Any]:
    try:
        found: dict[str, Any] = make()
    except ModuleNotFoundError as error:
        pytest.skip(f"needs {error.name}")
    return found


def assert_same(job: Job, other: Job) -> None:
    np.testing.assert_array_equal(job.panel, other.panel)
    np.testing.assert_array_equal(job.universes, other.universes)
    assert list(job.labels) == list(other.labels)
    assert (job.names, job.assets, job.labelled) == (other.names, other.assets, other.labelled)
    for one, two in ((job.rows.days, other.rows.days), (job.market, other.market), (job.windows, other.windows)):
        assert (one is None) == (two is None)
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    "case", [case for case, section in READ if section != "Values"], ids=lambda case: f"{case.comes_in}"
)
def test_what_comes_in_is_read_or_refused(case: cases.Case):
    assert case.happens.startswith("read" if case.expected else "refused")
    if case.expected:
        assert_same(encode(**arguments(case.send)), encode(**arguments(case.expected)))
        return
    sent = arguments(case.send)
    with pytest.raises(SigmahatError) as raised:
        encode(**sent)
    for words in fragments(case.happens):
        assert words in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("case", cases.VALUES, ids=lambda case: f"{case.comes_in}")
def test_what_comes_in_is_answered_or_refused(case: cases.Case, local: ShrinkageClient):
    assert case.happens.startswith("answered" if case.expected else "refused")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        estimates = local.estimate(covariance=True, **case.send())
    said = [str(warning.message) for warning in seen]
    if case.expected:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", EstimateWarning)
            expected = local.estimate(covariance=True, **case.expected())
        np.testing.assert_array_equal(estimates.covariance_of("all"), expected.covariance_of("all"))
        assert estimates.assets == expected.assets
    else:
        with pytest.raises(SigmahatError) as raised:
            estimates.raise_for_status()
        assert not said
        said = [str(raised.value)]
    for words in fragments(case.happens):
        assert words in " ".join(said)
    assert len(said) <= 1
