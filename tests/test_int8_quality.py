# SPDX-License-Identifier: Apache-2.0
"""What int8 costs the committed ensemble on real returns, output by output and in the portfolios that follow.

The float16 files stand for the float networks, which are not committed: they are within 0.0005 of them, as the model
card says, a twentieth of what is allowed here.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from sigmahat_kernels.features import FEATURE_NAMES
from sigmahat_kernels.manifest import write_manifest
from sigmahat_kernels.members import MEAN_LIMIT, MEMBER_FILES, P99_LIMIT, Member, member_folders
from sigmahat_kernels.pipeline import Outputs, Pipeline, features_and_status
from sigmahat_kernels.request import PADDING, Request, read_request
from sigmahat_trainer.data.dataset import MIN_COVERAGE, eligible_assets, holding_returns
from sigmahat_trainer.evaluation.portfolios import gmv_weights
from sigmahat_trainer.export.gate import in_units

ROOT = Path(__file__).parents[1]
REPOSITORY = ROOT / "model_repository"
FOLDERS = member_folders(REPOSITORY)
DEMO = ROOT / "benchmarks" / "data" / "us_sp500_2016_2019.npz"
SHARED = ROOT.parent / "shared" / "data"
PANELS = [
    pytest.param(DEMO),
    *(
        pytest.param(SHARED / f"{name}.npz", marks=pytest.mark.data)
        for name in ("uk_ftse64_2000_2023", "us_etf_2005_2017", "us_factors_1963_2022")
    ),
]

WINDOW, HORIZON, N_UNIVERSES = 252, 21, 150
VOLATILITY_MEAN_LIMIT, VOLATILITY_P99_LIMIT = 0.005, 0.02  # relative, of a minimum-variance portfolio
SATURATED_LIMIT = 0.05


class Answers(NamedTuple):
    """The same batch answered twice."""

    request: Request
    features: np.ndarray
    int8: Outputs
    half: Outputs


@pytest.fixture(scope="module", params=PANELS, ids=lambda path: path.stem)
def answers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Answers:
    if not request.param.exists():
        pytest.skip(f"needs {request.param}")
    half = tmp_path_factory.mktemp("half")
    for name, folder in FOLDERS.items():
        (half / name / "1").mkdir(parents=True)
        shutil.copy(folder / MEMBER_FILES["fp16"], half / name / "1" / MEMBER_FILES["int8"])
    write_manifest(half, half.glob("member_*/1/*.onnx"))
    batch = real_batch(request.param)
    table, *_ = features_and_status(batch)
    return Answers(batch, table.features, Pipeline(REPOSITORY).estimate(batch), Pipeline(half).estimate(batch))


def real_batch(path: Path) -> Request:
    """150 universes of 5 to 200 names, spread over the panel's months, always the same."""
    with np.load(path) as file:
        panel = file["ret"].astype(np.float32)
    rng = np.random.default_rng(20)
    stops = np.linspace(WINDOW, len(panel) - HORIZON, N_UNIVERSES).astype(int)
    universes = np.full((N_UNIVERSES, 200), PADDING, np.int32)
    for row, stop in zip(universes, stops, strict=True):
        eligible = eligible_assets(panel[stop - WINDOW : stop], MIN_COVERAGE)
        size = rng.integers(5, min(200, len(eligible)) + 1)
        row[:size] = np.sort(rng.choice(eligible, size, replace=False))
    return read_request(panel, universes, windows=np.stack([stops - WINDOW, stops], axis=1).astype(np.int32))


def test_every_output(answers: Answers) -> None:
    """Of the ensemble, as it is published; `sigmahat export` holds each member to the same on validation windows."""
    both = [in_units(outputs.combined.parameters) for outputs in (answers.int8, answers.half)]
    for name in both[0]:
        change = np.abs(both[0][name] - both[1][name])
        assert change.mean() <= MEAN_LIMIT, name
        assert np.quantile(change, 0.99) <= P99_LIMIT, name
        assert change.max() > 0, name  # two ensembles indeed


def test_each_member_on_average(answers: Answers) -> None:
    for member, folder in FOLDERS.items():
        both = [in_units(Member(folder / MEMBER_FILES[name])(answers.features)) for name in ("int8", "fp16")]
        for name in both[0]:
            assert np.abs(both[0][name] - both[1][name]).mean() <= MEAN_LIMIT, (member, name)


def test_few_inputs_lie_beyond_the_clip(answers: Answers) -> None:
    """There int8 saturates. A member that real inputs drive there was trained on other data, or normalises wrongly."""
    good = answers.int8.status == 0
    for folder in FOLDERS.values():
        model = onnx.load(folder / MEMBER_FILES["int8"])
        clip = next(node for node in model.graph.node if node.op_type == "Clip")
        opening = onnx.utils.Extractor(model).extract_model(["FEATURES"], [clip.input[0]])
        session = onnxruntime.InferenceSession(opening.SerializeToString(), providers=["CPUExecutionProvider"])
        (normalised,) = session.run(None, {"FEATURES": answers.features[good]})
        limits = [numpy_helper.to_array(t) for t in model.graph.initializer if t.name in clip.input[1:]]
        assert (np.abs(normalised) > max(limits)).mean() < SATURATED_LIMIT


def test_card_reports_what_export_held_the_members_to() -> None:
    card = json.loads((REPOSITORY / "model_card.json").read_text())
    for name in ("int8_difference", "int8_fp16_difference", "fp16_difference"):
        assert len(card[name]) == len(FOLDERS)
        for member in card[name]:
            assert all(value["mean"] <= MEAN_LIMIT and value["p99"] <= P99_LIMIT for value in member.values())
    assert card["intensity_difference"]["mean"] <= MEAN_LIMIT
    assert card["intensity_difference"]["p99"] <= P99_LIMIT
    for clipped in card["clipped_inputs"]:
        assert clipped["most_feature"] in FEATURE_NAMES
        assert clipped["share"] < SATURATED_LIMIT


def test_intensity(answers: Answers) -> None:
    change = np.abs(answers.int8.combined.intensity - answers.half.combined.intensity)
    assert change.mean() <= MEAN_LIMIT
    assert np.quantile(change, 0.99) <= P99_LIMIT


def test_volatility_of_minimum_variance_portfolios(answers: Answers) -> None:
    """Of the month after, and as the covariance itself forecasts it."""
    realised, forecast = [], []
    for u, (row, (_, stop)) in enumerate(zip(answers.request.universes, answers.request.windows, strict=True)):
        universe = row[row != PADDING]
        after = holding_returns(answers.request.panel, stop, HORIZON)[:, universe]
        both = []
        for outputs in (answers.int8, answers.half):
            assert outputs.covariance is not None
            covariance = outputs.covariance[u, : len(universe), : len(universe)].astype(np.float64)
            weights = gmv_weights(covariance)
            both.append((np.sqrt(((after @ weights) ** 2).mean()), np.sqrt(weights @ covariance @ weights)))
        realised.append(abs(np.log(both[0][0] / both[1][0])))
        forecast.append(abs(np.log(both[0][1] / both[1][1])))
    for change in (realised, forecast):
        assert np.mean(change) <= VOLATILITY_MEAN_LIMIT
        assert np.quantile(change, 0.99) <= VOLATILITY_P99_LIMIT


def test_page_says_what_int8_products_change() -> None:
    figures = json.loads((REPOSITORY.parent / "benchmarks" / "results" / "int8_products.json").read_text())["figures"]
    page = " ".join((REPOSITORY.parent / "docs" / "engines.md").read_text().split())
    for text in (
        f"the intensity by {figures['intensity_change_mean']:.4f} on average and "
        f"{figures['intensity_change_most']:.3f}",
        f"portfolios by {figures['volatility_change_percent_mean']:.2f} % on average and "
        f"{figures['volatility_change_percent_most']:.1f} %",
        f"{figures['fused_ms']:.1f} ms for the three members instead of {figures['as_written_ms']:.1f}, "
        f"{figures['fused_single_universe_ms']:.2f} ms for a single universe instead of "
        f"{figures['as_written_single_universe_ms']:.2f}",
    ):
        assert text in page
