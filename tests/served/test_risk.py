# SPDX-License-Identifier: Apache-2.0
"""The real Triton measures portfolios as the same pipeline does in process, to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tritonclient.grpc as triton
from click.testing import CliRunner
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from sigmahat_client import Risks, ShrinkageClient
from sigmahat_deploy.cli import main
from sigmahat_kernels.pipeline import Pipeline
from sigmahat_kernels.portfolios import read_portfolios
from sigmahat_kernels.request import MAX_PORTFOLIOS, PADDING, read_request
from sigmahat_kernels.risk import published_risk
from sigmahat_kernels.status import PortfolioStatus, Status

pytestmark = pytest.mark.server

REPOSITORY = Path(__file__).parents[2] / "model_repository"


def infer(url: str, model: str, tensors: dict[str, np.ndarray], outputs: list[str], **parameters: Any) -> Any:
    inputs = [
        triton.InferInput(name, array.shape, np_to_triton_dtype(array.dtype)).set_data_from_numpy(array)
        for name, array in tensors.items()
    ]
    wanted = [triton.InferRequestedOutput(name) for name in outputs]
    with triton.InferenceServerClient(url) as client:
        result = client.infer(model, inputs, outputs=wanted or None, parameters=parameters or None, client_timeout=60)
    return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}


def draw(panel: np.ndarray) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    universes = np.full((40, 30), PADDING, np.int32)
    for row in universes:
        size = rng.choice([2, 9, 30])
        row[:size] = rng.choice(panel.shape[1], size, replace=False)
    universes[7, 1] = universes[7, 0]
    return {"PANEL": panel, "UNIVERSES": universes}


@pytest.mark.parametrize(
    ("given", "parameters"),
    [("WEIGHTS", {"minimum_variance": True}), ("PORTFOLIOS", {}), ("PORTFOLIOS", {"classic": True}), (None, {})],
)
def test_served_equals_in_process(
    served: str, panel: np.ndarray, given: str | None, parameters: dict[str, bool]
) -> None:
    tensors = draw(panel)
    rng = np.random.default_rng(1)
    weights = rng.standard_normal((40, 2, 30)) * (tensors["UNIVERSES"] != PADDING)[:, None]
    positions = {"WEIGHTS": weights.astype(np.float32), "PORTFOLIOS": rng.standard_normal((3, 80)).astype(np.float32)}
    positions = {name: values for name, values in positions.items() if name == given}
    answer = infer(served, "risk", {**tensors, **positions}, [], **parameters)
    request = read_request(**{name.lower(): tensor for name, tensor in tensors.items()})
    portfolios = read_portfolios(request, **{name.lower(): values for name, values in positions.items()})
    expected = Pipeline(REPOSITORY).estimate(request, covariance=False, portfolios=portfolios, **parameters)
    assert (answer["STATUS"] == Status.GOOD).sum() == 39
    assert (answer["PORTFOLIO_STATUS"][7] == PortfolioStatus.UNIVERSE_REFUSED).all()
    np.testing.assert_array_equal(answer["INTENSITY"], expected.combined.intensity)
    assert expected.risk is not None
    for name, value in published_risk(expected.risk).items():
        assert answer[name].dtype == value.dtype, name
        np.testing.assert_array_equal(answer[name], value, err_msg=name)
    if given == "PORTFOLIOS":
        matrices = infer(served, "covariance", tensors, ["COVARIANCE"], **parameters)["COVARIANCE"].astype(float)
        used = tensors["UNIVERSES"] != PADDING
        own = np.where(used[:, None], np.moveaxis(positions["PORTFOLIOS"][:, tensors["UNIVERSES"]], 0, 1), 0.0)
        variance = np.einsum("upi,uij,upj->up", own, np.nan_to_num(matrices), own)
        np.testing.assert_allclose(answer["VARIANCE"][:7], variance[:7], rtol=1e-6)


def test_what_cannot_be_read_is_refused_in_words(served: str, panel: np.ndarray) -> None:
    tensors = draw(panel)
    weights = np.zeros((40, 1, 30), np.float32)
    for positions, words in (
        ({"WEIGHTS": weights[:, :, :5]}, "WEIGHTS must have shape (40, portfolios, 30), got (40, 1, 5)"),
        ({"WEIGHTS": weights, "PORTFOLIOS": np.zeros((1, 80), np.float32)}, "got both"),
        ({"PORTFOLIOS": np.zeros((MAX_PORTFOLIOS + 1, 80), np.float32)}, "more than the limit of 1,000"),
    ):
        with pytest.raises(InferenceServerException) as error:
            infer(served, "risk", {**tensors, **positions}, ["VARIANCE"])
        assert error.value.status() == "StatusCode.INVALID_ARGUMENT"
        assert words in str(error.value)


def test_the_client_gets_the_same_from_a_server_and_in_process(served: str, panel: np.ndarray) -> None:
    tensors = draw(panel)
    books = np.random.default_rng(1).standard_normal((3, 80))
    with ShrinkageClient(served) as near, ShrinkageClient.local(REPOSITORY) as local:
        found, expected = (
            client.risk(panel, tensors["UNIVERSES"], books, annualise=252, minimum_variance=True)
            for client in (near, local)
        )
        by_universe = near.risk(panel, tensors["UNIVERSES"], np.stack(expected_weights(expected)), annualise=252)
    np.testing.assert_array_equal(found.variance, expected.variance)
    np.testing.assert_array_equal(by_universe.variance, expected.variance)
    for name in ("marginal", "diagonal", "minimum_variance_weights"):
        for ours, theirs in zip(getattr(found, name), getattr(expected, name), strict=True):
            np.testing.assert_array_equal(ours, theirs, err_msg=name)
    assert list(map(str, found.failures)) == list(map(str, expected.failures))


def expected_weights(risks: Risks) -> list[np.ndarray]:
    """Weights of each universe, padded."""
    return [np.pad(weights, ((0, 0), (0, 30 - weights.shape[1]))) for weights in risks.weights]


def test_the_command_asks_a_server(served: str, panel: np.ndarray, tmp_path: Path) -> None:
    dates = np.arange("2020-01-01", "2020-10-27", dtype="datetime64[D]")
    tickers = [f"A{i}" for i in range(80)]
    np.savez(tmp_path / "returns.npz", dates=dates, tickers=np.array(tickers), ret=panel)
    (tmp_path / "p.csv").write_text("portfolio,asset,weight\nbook,A3,1\nbook,A7,-2\n")
    names = ["returns.npz", "--portfolios", "p.csv", "--out", "out.csv"]
    arguments = [str(tmp_path / name) if "." in name else name for name in names]
    result = CliRunner().invoke(main, ["risk", *arguments, "--url", served, "--horizon", "21"])
    assert result.exit_code == 0, result.stderr
    table = pd.read_csv(tmp_path / "out.csv")
    with ShrinkageClient(served) as client:
        returns = pd.DataFrame(panel, pd.DatetimeIndex(dates), tickers)
        expected = client.risk(returns, None, {"A3": 1, "A7": -2}, horizon=21)
    np.testing.assert_allclose(table["volatility"], expected.volatility[0], rtol=1e-12)
