# SPDX-License-Identifier: Apache-2.0
"""The in-process backend, and the doors to other libraries, which are tried through it."""

from __future__ import annotations

import asyncio
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pandas as pd
import pytest

from sigmahat_client import (
    AssetsDropped,
    AsyncShrinkageClient,
    DeadlineExceeded,
    InvalidRequest,
    ServerError,
    ShrinkageClient,
    UniverseError,
)
from sigmahat_client.shared_memory import Pool
from sigmahat_kernels.status import Status

pytest.importorskip("onnxruntime", reason="needs sigmahat[serve]")
from sigmahat_kernels.pipeline import Pipeline
from sigmahat_kernels.request import read_request

REPOSITORY = Path(__file__).parents[2] / "model_repository"


@pytest.fixture(scope="module")
def local() -> Iterator[ShrinkageClient]:
    with ShrinkageClient.local(REPOSITORY) as client:
        yield client


@pytest.fixture(scope="module")
def returns() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    values = 0.01 * (rng.standard_normal((120, 1)) + rng.standard_t(5, (120, 12)))
    return pd.DataFrame(values, pd.bdate_range("2020-01-01", periods=120), [f"A{i}" for i in range(12)])


UNIVERSES = {"one": ["A1", "A2", "A5"], "bad": ["A1", "XX"], "two": ["A3", "A4"]}


def test_local_is_the_pipeline(local: ShrinkageClient, returns: pd.DataFrame):
    estimates = local.estimate(returns, UNIVERSES, covariance=True, classic=True)
    request = read_request(
        returns.to_numpy(np.float32),
        np.array([[1, 2, 5], [1, 13, -1], [3, 4, -1]]),
        dates=(returns.index - pd.Timestamp("1970-01-01")).days.to_numpy(),
    )
    expected = Pipeline(REPOSITORY).estimate(request, classic=True)
    np.testing.assert_array_equal(estimates.intensity, expected.combined.intensity)
    np.testing.assert_array_equal(estimates.covariance_of("two"), expected.covariance[2, :2, :2])
    assert [(error.status, error.asset) for error in estimates.failures] == [(Status.UNKNOWN_ASSET, "XX")]


def test_local_with_blocks_and_asyncio(returns: pd.DataFrame, local: ShrinkageClient):
    blocks = {asset: "even" if int(asset[1:]) % 2 == 0 else "odd" for asset in returns}

    async def ask() -> Any:
        async with AsyncShrinkageClient.local(REPOSITORY) as client:
            return await client.estimate(returns, {"all": list(returns)}, blocks=blocks)

    estimates = asyncio.run(ask())
    np.testing.assert_array_equal(estimates.block_intensity, local.estimate(returns, blocks=blocks).block_intensity)
    assert np.isfinite(estimates.block_intensity).all()


def test_local_needs_nothing_that_only_linux_has(tmp_path: Path, returns: pd.DataFrame):
    """A process of its own, in which the names are gone before anything of ours is imported."""
    returns.to_csv(tmp_path / "returns.csv")
    code = f"""
import os, signal, sys
import numpy as np, onnxruntime, pandas, pyarrow.parquet, rich.progress, threadpoolctl, tritonclient.grpc
for name in (
    "sched_getaffinity", "posix_fallocate", "fork", "getuid", "geteuid", "getpgid", "killpg", "pidfd_open", "setsid",
    "sysconf", "uname", "O_NOFOLLOW",
):
    delattr(os, name)
for name in ("SIGHUP", "SIGKILL", "SIGCHLD", "SIGUSR1", "pthread_sigmask"):
    delattr(signal, name)
sys.modules.update(fcntl=None, resource=None, pwd=None, grp=None, termios=None)
from sigmahat_client import ShrinkageClient, AsyncShrinkageClient
from sigmahat_deploy.cli import main
main(["estimate", "returns.csv", "--local", "--out", "out.csv", "--covariances", "out.npz"], standalone_mode=False)
try:
    main(["serve"])
except SystemExit as end:
    assert end.code == 1
from sigmahat_client.shared_memory import Pool
returns = 0.01 * np.random.default_rng(0).standard_normal((120, 5))
with ShrinkageClient.local({str(REPOSITORY)!r}) as client:
    client.estimate(returns, covariance=True).raise_for_status()
ShrinkageClient("127.0.0.1:1").close()
assert Pool(lambda *_: sys.exit("registered"), lambda _: None).take(1 << 20) is None
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(pd.read_csv(tmp_path / "out.csv")) == 1
    no_module = "needs Linux: the Python of this system has no module resource"
    assert any(f"sigmahat serve {words}" in done.stderr for words in (no_module, "needs packages that are not"))


@pytest.mark.parametrize("absent", ["os.posix_fallocate", "/dev/shm"])
def test_memory_is_shared_only_where_the_system_has_what_it_needs(
    absent: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    registered: list[str] = []

    def pool() -> Pool:
        return Pool(lambda name, nbytes: registered.append(name), lambda name: None)

    assert pool().take(1 << 20) is not None
    if absent == "/dev/shm":
        monkeypatch.setattr("sigmahat_client.shared_memory._FOLDER", tmp_path / "shm")
    else:
        monkeypatch.delattr(absent)
    assert pool().take(1 << 20) is None
    assert len(registered) == 1


def test_local_errors_are_the_same_classes(local: ShrinkageClient, returns: pd.DataFrame, tmp_path: Path):
    with pytest.raises(DeadlineExceeded, match="0 of 1"):
        local.estimate(returns, deadline_s=1e-9)
    with pytest.raises(InvalidRequest):
        local.estimate(returns, {})
    with pytest.raises(RuntimeError, match="no member at"):
        ShrinkageClient.local(tmp_path)


def test_an_arrow_table_is_read_with_its_dates(local: ShrinkageClient, returns: pd.DataFrame):
    pa = pytest.importorskip("pyarrow")
    holed = returns.mask(np.random.default_rng(0).random(returns.shape) < 0.02)
    table = pa.Table.from_pandas(holed.reset_index(names="date"), preserve_index=False)
    expected = local.estimate(holed, UNIVERSES, covariance=True)
    estimates = local.estimate(table, UNIVERSES, covariance=True)
    pd.testing.assert_frame_equal(estimates.to_frame(), expected.to_frame())
    pd.testing.assert_frame_equal(estimates.covariance_of("one"), expected.covariance_of("one"))
    for bad in (table.add_column(0, "name", pa.array(["x"] * 120)), table.select(["date"])):
        with pytest.raises(InvalidRequest, match="returns"):
            local.estimate(bad)


def test_estimates_become_an_arrow_table(local: ShrinkageClient, returns: pd.DataFrame, tmp_path: Path):
    pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    estimates = local.estimate(returns, UNIVERSES, covariance=True)
    pq.write_table(estimates.to_arrow(), tmp_path / "estimates.parquet")
    back = pd.read_parquet(tmp_path / "estimates.parquet")
    assert back["universe"].tolist() == list(UNIVERSES)
    assert [list(assets) for assets in back["assets"]] == list(UNIVERSES.values())
    np.testing.assert_array_equal(back["intensity"], estimates.intensity)
    np.testing.assert_array_equal(back["covariance"][0].reshape(3, 3), estimates.covariance_of("one"))
    assert back["covariance"][1] is None


def test_batches_of_any_kind(local: ShrinkageClient, returns: pd.DataFrame):
    pa = pytest.importorskip("pyarrow")
    from sigmahat_client.batches import result_schema, score_batches

    frame = pd.DataFrame({"universe": ["a", "a"], "assets": [["A1", "A2"], ["A3", "A1"]]})
    frame["start"], frame["stop"] = [0, 30], [100, 120]
    record_batch = pa.RecordBatch.from_pandas(frame)
    given = [frame, pa.Table.from_pandas(frame), record_batch, record_batch.slice(0, 0), frame.iloc[:0]]
    found = list(score_batches(given, returns, model_repository=REPOSITORY, covariance=True))
    assert list(map(type, found)) == list(map(type, given))
    assert [len(batch) for batch in found] == [2, 2, 2, 0, 0]
    expected = local.estimate(returns, frame["assets"].tolist(), windows=[[0, 100], [30, 120]], covariance=True)
    np.testing.assert_array_equal(found[0]["intensity"], expected.intensity)
    assert found[0]["universe"].tolist() == ["a", "a"]
    np.testing.assert_array_equal(found[0]["covariance"][1], expected.covariance_of(1).to_numpy().ravel())
    assert found[1].schema.equals(result_schema(covariance=True), check_metadata=False)
    assert found[3].schema.equals(found[2].schema, check_metadata=False)
    with pytest.raises(InvalidRequest, match=r"universe and assets, got \['assets'\]"):
        next(score_batches([frame[["assets"]]], returns, model_repository=REPOSITORY))


EXPECTED_FAILURES = {
    "check_n_features_in_after_fitting": "fits 15 samples; the service wants 20",
    "check_positive_only_tag_during_fit": "iris less its overall mean: columns that keep their sign, so levels",
    **dict.fromkeys(
        ("check_fit_idempotent", "check_fit_check_is_fitted", "check_n_features_in"), "values of 100 +- 1: prices"
    ),
}


@pytest.mark.filterwarnings("ignore::sigmahat_client.EstimateWarning")  # its data are no returns
def test_scikit_learn_accepts_the_estimator():
    checks = pytest.importorskip("sklearn.utils.estimator_checks")
    from sigmahat_client.estimator import ShrinkageCovariance

    estimator = ShrinkageCovariance(model_repository=str(REPOSITORY))
    outcomes = checks.check_estimator(estimator, on_skip=None, expected_failed_checks=EXPECTED_FAILURES)
    assert {o["check_name"] for o in outcomes if o["status"] != "passed"} <= {
        *EXPECTED_FAILURES,
        "check_array_api_input",
    }
    assert len(outcomes) > 30


def test_the_estimator_gives_what_the_client_gives(local: ShrinkageClient, returns: pd.DataFrame):
    pytest.importorskip("sklearn")
    from sigmahat_client.estimator import ShrinkageCovariance

    fitted = ShrinkageCovariance(model_repository=REPOSITORY).fit(returns)
    expected = local.estimate(returns, covariance=True)
    np.testing.assert_array_equal(fitted.covariance_, expected.covariance_of("all"))
    assert fitted.shrinkage_ == expected.intensity[0]
    np.testing.assert_allclose(fitted.precision_ @ fitted.covariance_, np.eye(12), atol=1e-6)
    np.testing.assert_allclose(fitted.location_, returns.mean())
    assert fitted.feature_names_in_.tolist() == list(returns)
    pickle.loads(pickle.dumps(fitted)).score(returns)  # noqa: S301
    with pytest.raises(UniverseError, match="'A3': the asset's returns do not vary"):
        ShrinkageCovariance(model_repository=REPOSITORY).fit(returns.assign(A3=0.0))


def test_estimators_without_arguments_need_no_server(
    returns: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("sklearn")
    from sigmahat_client.estimator import ShrinkageCovariance

    monkeypatch.chdir(tmp_path)
    named = ShrinkageCovariance(model_repository=REPOSITORY).fit(returns)
    np.testing.assert_array_equal(ShrinkageCovariance().fit(returns).covariance_, named.covariance_)
    with pytest.raises(InvalidRequest, match="give url or model_repository, got both"):
        ShrinkageCovariance(url="127.0.0.1:1", model_repository=REPOSITORY).fit(returns)


def test_the_estimator_takes_values_of_any_size(returns: pd.DataFrame):
    pytest.importorskip("sklearn")
    from sigmahat_client.estimator import ShrinkageCovariance

    estimator = ShrinkageCovariance(model_repository=REPOSITORY)
    plain = estimator.fit(returns).covariance_
    for unit in (1e2, 1e4):  # percent, basis points
        np.testing.assert_allclose(estimator.fit(returns * unit).covariance_ / unit**2, plain, rtol=1e-5)
    other = estimator.fit(returns * 7e5).covariance_
    assert 0.5 < (other / 49e10 / plain).diagonal().mean() < 2.0


def estimators() -> list[Any]:
    found = [pytest.importorskip("sigmahat_client.estimator").ShrinkageCovariance(model_repository=REPOSITORY)]
    try:
        from sigmahat_client.skfolio import ShrinkageCovariance
    except ModuleNotFoundError:
        return found
    return [*found, ShrinkageCovariance(model_repository=REPOSITORY, nearest=False)]


@pytest.mark.parametrize(
    "change",
    [
        lambda frame: frame,
        lambda frame: frame.tz_localize("Asia/Tokyo"),
        lambda frame: frame.to_period("D"),
        lambda frame: frame.set_axis(frame.index.strftime("%Y-%m-%d")),
        lambda frame: frame.set_axis(pd.date_range("2024-01-02 09:30", periods=len(frame), freq="5min")),
        lambda frame: frame.reset_index(drop=True),
        lambda frame: frame.set_axis(pd.MultiIndex.from_product([["Close"], frame.columns]), axis="columns"),
        lambda frame: frame.reset_index(names="date"),
        lambda frame: pytest.importorskip("polars").from_pandas(frame.reset_index(names="date")),
        lambda frame: pytest.importorskip("pyarrow").Table.from_pandas(frame),
        lambda frame: pytest.importorskip("xarray").DataArray(frame.rename_axis("time").rename_axis("asset", axis=1)),
    ],
    ids=["days", "zone", "periods", "texts", "intraday", "none", "fields", "column", "polars", "arrow", "xarray"],
)
def test_every_door_gives_the_same_answer_to_the_bit(local: ShrinkageClient, returns: pd.DataFrame, change: Any):
    from sigmahat_client.batches import score_batches

    sent = change(returns.mask(np.random.default_rng(1).random(returns.shape) < 0.05))
    expected = local.estimate(sent, covariance=True)
    matrix = expected.covariance[0]

    async def ask() -> Any:
        async with AsyncShrinkageClient.local(REPOSITORY) as client:
            return await client.estimate(sent, covariance=True)

    np.testing.assert_array_equal(asyncio.run(ask()).covariance[0], matrix)
    batch = pd.DataFrame({"universe": ["all"], "assets": [list(expected.assets[0])]})
    (scored,) = score_batches([batch], sent, model_repository=REPOSITORY, covariance=True)
    np.testing.assert_array_equal(scored["covariance"][0], matrix.ravel())
    for estimator in estimators():
        fitted = estimator.fit(sent)
        np.testing.assert_array_equal(fitted.covariance_, matrix)
        assert fitted.shrinkage_ == expected.intensity[0]
        assert np.isfinite(fitted.score(sent))


def test_every_door_refuses_what_the_client_refuses(local: ShrinkageClient, returns: pd.DataFrame):
    prices = 100 * (1 + returns).cumprod()
    for bad, words in ((returns[::-1], "must strictly increase"), (pd.concat([returns, returns[-1:]]), "increase")):
        for door in (local.estimate, *(estimator.fit for estimator in estimators())):
            with pytest.raises(InvalidRequest, match=words):
                door(bad)
    with pytest.raises(UniverseError, match=r"'A0': .* \(10\d\.\d+ in row 0 .* 120 of 120 rows above the limit 10\)"):
        estimators()[0].fit(prices)
    mixed = (100 * returns).assign(A3=prices["A3"])  # percent and a price: nothing is rescaled
    with pytest.raises(UniverseError, match=r"'A0': .* mean absolute value"):
        estimators()[0].fit(mixed)


def test_intraday_returns_are_not_daily(local: ShrinkageClient, returns: pd.DataFrame):
    sent = returns.set_axis(pd.date_range("2024-01-02 09:30", periods=len(returns), freq="5min"))
    estimates = local.estimate(sent, {"one": list(sent)[:6], "bad": ["A1", "XX"]})
    assert estimates.warnings == ({"UNUSUAL_SPACING": ()}, {})
    assert local.estimate(returns, {"one": list(sent)[:6]}).warnings == ({},)


@pytest.mark.parametrize(
    "spoil", [lambda column: column.where(column.index != column.index[7], 101.5), lambda c: 100 * c]
)
def test_units_are_those_of_most_columns(local: ShrinkageClient, returns: pd.DataFrame, spoil: Any):
    # One value, or one column, in another unit does not bring the other columns to a hundredth of what they are.
    sent = returns.assign(A3=spoil(returns["A3"]))
    assert local.estimate(sent).status.tolist() == [Status.NOT_RETURNS]
    scikit_learn, *skfolio = estimators()
    with pytest.raises(UniverseError, match="asset 'A3': the asset's values are too large"):
        scikit_learn.fit(sent)
    for estimator in skfolio:
        with pytest.warns(AssetsDropped, match="'A3'"):
            fitted = estimator.fit(sent)
        expected = local.estimate(returns.drop(columns="A3"), covariance=True).covariance[0]
        kept = sent.columns != "A3"
        np.testing.assert_array_equal(fitted.covariance_[np.ix_(kept, kept)], expected)


def rows_likelihood(row: np.ndarray, location: np.ndarray, covariance: np.ndarray) -> float:
    stats = pytest.importorskip("scipy.stats")
    seen = np.isfinite(row)
    return float(stats.multivariate_normal(location[seen], covariance[np.ix_(seen, seen)]).logpdf(row[seen]))


def test_scores_and_distances_with_missing_returns(returns: pd.DataFrame):
    """Each row has the density of the assets that it holds."""
    linear = pytest.importorskip("sklearn.covariance")
    estimator = estimators()[0].fit(returns)
    reference = linear.EmpiricalCovariance().fit(returns)
    reference.location_ = estimator.location_
    reference._set_covariance(estimator.covariance_)
    np.testing.assert_allclose(estimator.score(returns), reference.score(returns), rtol=1e-9)
    np.testing.assert_allclose(estimator.mahalanobis(returns), reference.mahalanobis(returns), rtol=1e-7)

    holed = returns.mask(np.random.default_rng(2).random(returns.shape) < 0.2)
    holed.iloc[5] = np.nan
    location, covariance = estimator.location_, estimator.covariance_
    rows = [row for row in holed.to_numpy() if np.isfinite(row).any()]
    expected = np.mean([rows_likelihood(row, location, covariance) for row in rows])
    np.testing.assert_allclose(estimator.score(holed), expected, rtol=1e-9)
    distances = estimator.mahalanobis(holed)
    assert np.flatnonzero(np.isnan(distances)).tolist() == [5]
    seen = holed.iloc[7].notna().to_numpy()
    deviation = holed.to_numpy()[7, seen] - location[seen]
    np.testing.assert_allclose(distances[7], deviation @ np.linalg.inv(covariance[np.ix_(seen, seen)]) @ deviation)
    assert np.isnan(estimator.score(holed.iloc[5:6]))


def test_cross_validation_with_missing_returns(returns: pd.DataFrame):
    selection = pytest.importorskip("sklearn.model_selection")
    holed = returns.mask(np.random.default_rng(2).random(returns.shape) < 0.05)
    scores = selection.cross_val_score(estimators()[0], holed, cv=selection.TimeSeriesSplit(3))
    assert np.isfinite(scores).all()
    assert len(scores) == 3


def test_the_estimator_s_location_and_output(returns: pd.DataFrame):
    base = pytest.importorskip("sklearn.base")
    centred = base.clone(estimators()[0]).set_params(assume_centered=True).fit(returns)
    np.testing.assert_array_equal(centred.location_, np.zeros(12))
    np.testing.assert_array_equal(centred.covariance_, estimators()[0].fit(returns).covariance_)
    plain = centred.mahalanobis(returns)
    assert isinstance(plain, np.ndarray)
    series = base.clone(centred.set_output(transform="pandas")).fit(returns).mahalanobis(returns)
    pd.testing.assert_series_equal(series, pd.Series(plain, returns.index, name="mahalanobis"))
    assert isinstance(centred.set_output(transform="default").mahalanobis(returns), np.ndarray)
    with pytest.raises(ValueError, match='"default" or "pandas", got \'polars\''):
        centred.set_output(transform="polars")


def test_skfolio_leaves_out_what_cannot_be_used(local: ShrinkageClient, returns: pd.DataFrame):
    pytest.importorskip("skfolio")
    from sigmahat_client.skfolio import ShrinkageCovariance

    estimator = ShrinkageCovariance(model_repository=REPOSITORY, nearest=False, window_size=100)
    active = np.ones(returns.shape, bool)
    active[-1, 3] = False  # delisted
    active[:60, 4] = False  # listed late
    spoilt = returns.assign(A7=np.nan)
    with pytest.warns(AssetsDropped, match=r"without 1 of 11 assets: 'A7' \(SHORT_HISTORY, 0 of 100 rows\)"):
        estimator.fit(spoilt, active_mask=active)
    kept = [name for name in returns if name not in ("A3", "A7")]
    window = returns.where(active).iloc[20:]
    np.testing.assert_array_equal(
        estimator.covariance_[np.ix_(*[[list(returns).index(name) for name in kept]] * 2)],
        local.estimate(window, {"all": kept}, covariance=True).covariance[0],
    )
    assert [name for name, x in zip(returns, estimator.location_, strict=True) if np.isnan(x)] == ["A3", "A7"]
    assert np.isnan(estimator.covariance_[3]).all()
    np.testing.assert_allclose(estimator.location_[4], window["A4"].mean())
    with pytest.raises(ValueError, match="window_size must be from 1 to the 120 rows"):
        ShrinkageCovariance(model_repository=REPOSITORY, window_size=121).fit(returns)
    with pytest.raises(ValueError, match="active_mask must have the shape of X"):
        estimator.fit(returns, active_mask=active[1:])


def test_names_of_any_type_survive(local: ShrinkageClient, returns: pd.DataFrame):
    pa = pytest.importorskip("pyarrow")
    assets = [1, "two", ("three", 3), *range(10, 19)]
    universes = {("tech", 1): [1, "two"], "all": assets, 7: [("three", 3), 1]}
    estimates = local.estimate(returns.to_numpy(), universes, assets=assets, covariance=True)
    assert estimates.to_frame().index.tolist() == list(universes)
    table = estimates.to_arrow()
    assert table["universe"].to_pylist() == ["('tech', 1)", "all", "7"]
    assert table["assets"].to_pylist()[2] == ["('three', 3)", "1"]
    assert table.schema.field("assets").type == pa.list_(pa.string())
    assert estimates.covariance_of("all").columns.tolist() == assets
    assert estimates.covariance_of(("tech", 1)).loc[1, "two"] == estimates.covariance[0][0, 1]


def test_dropped_assets_keep_windows_and_blocks_in_place(local: ShrinkageClient, returns: pd.DataFrame):
    spoilt = returns.assign(A1=returns["A1"].where(np.arange(120) < 70))  # too short in the second window alone
    universes = {"early": ["A1", "A2", "A3"], "late": ["A2", "XX", "A1", "A3", "A4"]}
    windows = {"early": (0, 60), "late": (60, 120)}
    windows_of_late = {"late": windows["late"]}
    blocks = {f"A{i}": "odd" if i % 2 else "even" for i in range(12)} | {"XX": "odd"}
    with pytest.warns(AssetsDropped, match="universe 'late' is estimated without 2 of 5 assets") as seen:
        found = local.estimate(spoilt, universes, windows=windows, blocks=blocks, covariance=True, on_bad_asset="drop")
    assert Path(seen[0].filename) == Path(__file__)
    assert found.assets == (("A1", "A2", "A3"), ("A2", "A3", "A4"))
    assert [[(a.asset, a.status, a.n_returns) for a in dropped] for dropped in found.dropped] == [
        [],
        [("XX", Status.UNKNOWN_ASSET, 0), ("A1", Status.SHORT_HISTORY, 10)],
    ]
    plain = local.estimate(
        returns,
        {"early": ["A1", "A2", "A3"], "late": ["A2", "A3", "A4"]},
        windows=windows,
        blocks=blocks,
        covariance=True,
    )
    for one, two in zip(found.covariance, plain.covariance, strict=True):
        np.testing.assert_array_equal(one, two)
    with (
        pytest.warns(AssetsDropped),
        pytest.raises(UniverseError, match=r"at least 2 assets; left out: 'A1' \(SHORT_HISTORY, 10 of 60 rows\)"),
    ):
        local.estimate(spoilt, {"late": ["A1", "A2"]}, windows=windows_of_late, on_bad_asset="drop").raise_for_status()
    with pytest.raises(InvalidRequest, match='"raise" or "drop", got \'ignore\''):
        local.estimate(returns, on_bad_asset="ignore")


def test_all_unusable_assets_are_named_at_once(local: ShrinkageClient, returns: pd.DataFrame):
    spoilt = returns.assign(A2=0.0, A5=np.nan, A7=returns["A7"].where(np.arange(120) != 4, -3.0))
    estimates = local.estimate(spoilt, {"all": ["A0", "A7", "YY", "A2", "A5", "A0"]})
    (error,) = estimates.failures
    assert [(a.asset, a.status, a.n_returns) for a in error.refused] == [
        ("YY", Status.UNKNOWN_ASSET, 0),
        ("A7", Status.IMPOSSIBLE_RETURN, 120),
        ("A2", Status.CONSTANT_ASSET, 120),
        ("A5", Status.SHORT_HISTORY, 0),
        ("A0", Status.DUPLICATE_ASSET, 0),
    ]
    assert error.asset == "YY"
    assert "'A7' (IMPOSSIBLE_RETURN, -3 in row 4 (2020-01-07); 1 of 120 rows)" in str(error)
    assert pickle.loads(pickle.dumps(error)).refused == error.refused  # noqa: S301


def test_an_asset_that_is_listed_twice_is_named_once(local: ShrinkageClient, returns: pd.DataFrame):
    (error,) = local.estimate(returns, {"one": ["A0", "A1", "A0"]}).failures
    assert str(error) == "universe 'one', asset 'A0': the asset is listed twice"


def test_a_short_window_is_no_fault_of_its_assets(local: ShrinkageClient, returns: pd.DataFrame):
    estimates = local.estimate(returns, {"one": ["A0", "A1"]}, windows={"one": (0, 10)}, on_bad_asset="drop")
    assert estimates.status.tolist() == [Status.TOO_FEW_OBSERVATIONS]
    assert (estimates.assets, estimates.dropped) == ((("A0", "A1"),), ((),))


def test_skfolio_walks_forward(returns: pd.DataFrame):
    pytest.importorskip("skfolio")
    from skfolio.model_selection import WalkForward, cross_val_predict
    from skfolio.optimization import MeanRisk
    from skfolio.prior import EmpiricalPrior

    from sigmahat_client.skfolio import ShrinkageCovariance

    covariance = ShrinkageCovariance(model_repository=str(REPOSITORY))
    model = MeanRisk(prior_estimator=EmpiricalPrior(covariance_estimator=covariance))
    portfolio = cross_val_predict(model, returns, cv=WalkForward(train_size=60, test_size=20))
    assert len(portfolio.portfolios) == 3
    for i, part in enumerate(portfolio.portfolios):
        fitted = covariance.fit(returns.iloc[20 * i : 20 * i + 60]).covariance_
        # The minimum-variance weights, long only: no other long-only weights have less variance under this matrix.
        weights = part.weights
        assert weights.min() > -1e-6
        gradient = fitted @ weights
        assert gradient[weights > 1e-3].max() <= gradient.min() * 1.02


class Spans:
    """An OpenTelemetry exporter that keeps what it gets."""

    def __init__(self) -> None:
        self.found: list[Any] = []

    def export(self, spans: Any) -> Any:
        from opentelemetry.sdk.trace.export import SpanExportResult

        self.found += spans
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        pass


def test_a_call_is_a_span_and_the_server_gets_its_context(monkeypatch: pytest.MonkeyPatch):
    trace = pytest.importorskip("opentelemetry.trace")
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    from client.fake_server import fake_server
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    spans = Spans()
    provider = sdk.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    sent: list[str] = []
    panel = 0.01 * np.random.default_rng(0).standard_normal((25, 4))

    def hook(server: Any, number: int, context: Any) -> None:
        sent.append(dict(context.invocation_metadata())["traceparent"])
        if number == 2:
            context.abort(grpc.StatusCode.INTERNAL, "boom")

    with fake_server(hook) as server, ShrinkageClient(server.url) as client:
        client.estimate(panel)
        list(client.stream(panel, covariance=True))
        with pytest.raises(ServerError):
            client.estimate(panel)
    assert [span.name for span in spans.found] == ["shrinkage", "covariance", "shrinkage"]
    for span, header in zip(spans.found, sent, strict=True):
        assert header.startswith(f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-")
    assert spans.found[0].attributes == {
        "sigmahat.universes": 1,
        "sigmahat.widest": 4,
        "sigmahat.requests": 1,
        "sigmahat.answered": 1,
    }
    assert not spans.found[2].status.is_ok
