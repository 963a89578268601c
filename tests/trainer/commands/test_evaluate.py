# SPDX-License-Identifier: Apache-2.0
"""`sigmahat evaluate` and `fit-baselines` end to end on two tiny markets, in one process and in two."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from trainer.some_constants import CONSTANTS

from sigmahat_deploy.cli import main
from sigmahat_kernels.features import FEATURE_NAMES
from sigmahat_kernels.manifest import write_manifest
from sigmahat_kernels.pipeline import Pipeline
from sigmahat_trainer.baselines.adapters import closed_form, learned_constants, served
from sigmahat_trainer.baselines.closed_form import BASELINES
from sigmahat_trainer.config import TrainConfig
from sigmahat_trainer.data.panels import load_panel
from sigmahat_trainer.data.split import PERIODS, TRAIN_UNTIL, Period
from sigmahat_trainer.evaluation import jobs, plots
from sigmahat_trainer.evaluation.designs import ORACLE
from sigmahat_trainer.evaluation.methods import HINDSIGHT, Methods
from sigmahat_trainer.evaluation.results import headline, read_figures
from sigmahat_trainer.evaluation.rolling import Cell, evaluate
from sigmahat_trainer.export.onnx import export_onnx
from sigmahat_trainer.model.member_file import save_member
from sigmahat_trainer.model.network import MemberNetwork
from sigmahat_trainer.provenance import provenance

N_ROWS = 420
DATES = np.busday_offset(np.datetime64("2012-01-02"), np.arange(N_ROWS), roll="forward")
PERIOD = f"{DATES[200]}:{DATES[379]}"
GRID = ["--n", "8,12", "--window", "60,90,400", "--horizon", "15", "--draws", "2", "--resamples", "49"]


def sigmahat(*arguments):
    return CliRunner().invoke(main, list(map(str, arguments)))


def said(result):
    return " ".join(result.stderr.split())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for seed, (name, n_assets) in enumerate({"north": 14, "south": 9}.items()):
        rng = np.random.default_rng(seed)
        returns = 0.01 * rng.standard_normal((N_ROWS, 1)) * rng.uniform(0.5, 1.5, n_assets)
        returns += rng.uniform(0.005, 0.02, n_assets) * rng.standard_normal((N_ROWS, n_assets))
        returns[rng.random(returns.shape) < 0.005] = np.nan
        table = pd.DataFrame(returns.astype(np.float32), pd.DatetimeIndex(DATES), [f"A{i}" for i in range(n_assets)])
        if name == "south":
            table.to_parquet(folder / "south.parquet")
        else:
            np.savez(folder / "north.npz", dates=DATES, ret=table.to_numpy())
    return folder


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    """(folder of a run, model repository): members that were never trained, and one of them in ONNX, three times."""
    run, repository = tmp_path_factory.mktemp("train") / "untrained", tmp_path_factory.mktemp("repository")
    run.mkdir()
    for k in range(1, TrainConfig().members + 1):
        torch.manual_seed(k)
        network = MemberNetwork(len(FEATURE_NAMES)).eval()
        save_member(network, TrainConfig(), run / f"member_{k}.safetensors", feature_names=FEATURE_NAMES)
        target = repository / f"member_{k}" / "1" / "model.onnx"
        target.parent.mkdir(parents=True)
        if k == 1:
            export_onnx(network, target, {"features": ",".join(FEATURE_NAMES)})
        else:
            shutil.copy(repository / "member_1" / "1" / "model.onnx", target)
    (run / "metrics.json").write_text(json.dumps({"constants": CONSTANTS, "config": asdict(TrainConfig())}))
    write_manifest(repository, repository.glob("member_*/1/*.onnx"))
    (repository / "model_card.json").write_text(json.dumps({"constants": CONSTANTS}))
    return run, repository


@pytest.fixture(scope="module")
def fitted(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("fitted") / "baselines"
    settings = ["--train-until", DATES[199], "--windows", 24, "--oracle-windows", 4, "--rienet-epochs", 1]
    result = sigmahat("fit-baselines", data / "north.npz", data / "south.parquet", *GRID[:6], *settings, "--out", out)
    assert result.exit_code == 0, (result.output, result.exception)
    assert f"north.npz {data / 'south.parquet'} --baselines {out} --out " in result.stderr.splitlines()[-1]
    return out


@pytest.fixture(scope="module")
def evaluated(data, members, fitted, tmp_path_factory):
    """(folder of results, what the command said)."""
    out = tmp_path_factory.mktemp("evaluate") / "new" / "results"
    run, repository = members
    sources = ["--model-repository", repository, "--run", run, "--baselines", fitted, "--dcc", "--processes", 2]
    arguments = [
        *sources,
        *GRID,
        "--period",
        PERIOD,
        "--simulated-draws",
        2,
        "--simulated-window",
        "60,400",
        "--out",
        out,
    ]
    result = sigmahat("evaluate", data / "north.npz", data / "south.parquet", *arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return out, result


def test_results_are_figures_rows_and_pictures_and_nothing_else(evaluated):
    out, result = evaluated
    pictures = ["bias", "calibration-sigmahat", "calibration-untrained", "cumulative", "gain", "simulated"]
    pictures += ["cells-sigmahat", "cells-untrained", "long-only"]
    pictures += ["prial-sigmahat", "prial-untrained", "tracking", "volatility"]
    files = ["evaluation.json", "figures.json", *(f"{name}.parquet" for name in ("heads", "scores", "simulated"))]
    assert sorted(path.name for path in out.iterdir()) == sorted([*files, *(f"{name}.png" for name in pictures)])
    assert [path.name for path in out.parent.iterdir()] == ["results"]
    for name in pictures:
        assert (out / f"{name}.png").stat().st_size > 10_000
    assert result.stdout == ""
    for words in ("sigmahat against rienet: better in", "untrained, PRIAL (frobenius) of isotropic: not below", "bias"):
        assert words in said(result)
    assert f"to make figures and pictures of them again: sigmahat figures {out}" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("next: sigmahat export ")
    assert "…" not in result.stderr  # at 80 columns


def test_figures_are_made_again_of_the_rows(evaluated, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(evaluated[0], again, ignore=shutil.ignore_patterns("*.png", "figures.json"))
    described = json.loads((again / "evaluation.json").read_text())
    del described["figures"]  # as after an evaluation that ended before its figures
    (again / "evaluation.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match="has no figures"):
        read_figures(again / "evaluation.json")
    result = sigmahat("figures", again, "--resamples", 49)
    assert result.exit_code == 0, (result.output, result.exception)
    assert sorted(path.name for path in again.iterdir()) == sorted(path.name for path in evaluated[0].iterdir())
    for name in ("evaluation.json", "figures.json"):
        assert (again / name).read_text() == (evaluated[0] / name).read_text()


def test_a_failure_after_the_rows_loses_no_row(data, members, tmp_path, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(plots, "draw_plots", fail)
    result = quick(data, members, tmp_path / "results", "--n", 8, "--window", 60, "--period", PERIOD)
    assert (result.exit_code, "Error: MemoryError (unforeseen" in result.stderr) == (1, True)
    assert f"sigmahat figures {tmp_path / 'results'}" in result.stderr
    names = ["evaluation.json", "figures.json", "heads.parquet", "scores.parquet"]
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == names
    assert read_figures(tmp_path / "results" / "evaluation.json").panels


def test_a_cell_that_fails_loses_no_row_of_those_that_ended(data, members, tmp_path, monkeypatch):
    def fail_at_60(panel, cell, *arguments, **settings):
        if cell.n_obs == 60:
            raise ValueError("the shorter cell, which is done last, fails")
        return evaluate(panel, cell, *arguments, **settings)

    monkeypatch.setattr(jobs, "evaluate", fail_at_60)
    out = tmp_path / "results"
    result = quick(data, members, out, "--n", 8, "--window", "60,90", "--period", PERIOD)
    assert result.exit_code == 1
    assert "the shorter cell, which is done last, fails" in result.stderr.splitlines()[-1]
    assert f"rows of 1 of 2 cells are in {out}; " in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["results"]
    (left_out,) = json.loads((out / "evaluation.json").read_text())["settings"]["left_out"]
    assert left_out == "1 of 2 cells: the evaluation ended before them"
    again = sigmahat("figures", out, "--resamples", 0)
    assert again.exit_code == 0, (again.output, again.exception)
    (cell,) = read_figures(out / "evaluation.json").panels["north"]
    assert cell.n_obs == 90


def test_rows_of_an_earlier_version_have_no_figures(evaluated, tmp_path):
    columns = ["until", "negative_log_likelihood"]
    pd.read_parquet(evaluated[0] / "scores.parquet").drop(columns=columns).to_parquet(tmp_path / "scores.parquet")
    result = sigmahat("figures", tmp_path)
    assert result.exit_code == 1
    assert "lack until, negative_log_likelihood: an earlier version wrote them, evaluate again" in said(result)


def test_a_folder_without_rows_has_no_figures(tmp_path):
    result = sigmahat("figures", tmp_path)
    assert result.exit_code == 1
    assert "has no rows (*.parquet): is it a folder that" in said(result)


def test_every_method_is_scored_at_every_date_of_every_cell(evaluated):
    scores = pd.read_parquet(evaluated[0] / "scores.parquet")
    cells = scores.groupby(["panel", "n_assets", "n_obs"], sort=False)
    # 8 fits into one panel, 12 into none, and is left out.
    assert sorted(cells.groups) == [("north", 8, 60), ("north", 8, 90), ("south", 7, 60), ("south", 7, 90)]
    own = {
        "ridge_qis",
        "average_oracle",
        "rienet",
        "dcc_nl",
        "learned_constants",
        "tilted_constants",
        HINDSIGHT,
        "sigmahat",
        "untrained",
    }
    for _, rows in cells:
        assert set(rows["method"]) == own | set(BASELINES)
        assert (rows.groupby("method").size() == 11).all()  # 180 rows less a purge of 15, in steps of 15
        assert rows["gmv_log_variance"].notna().all()
    assert scores["date"].min() >= pd.Timestamp(DATES[200 + 15 - 1])
    assert scores["date"].max() <= pd.Timestamp(DATES[379 - 15])


def test_rows_are_those_of_the_library_whatever_the_number_of_processes(evaluated, members, data):
    scores = pd.read_parquet(evaluated[0] / "scores.parquet")
    pipeline = Pipeline(members[1])
    estimators = {"qis_correlation": closed_form(BASELINES["qis_correlation"]), "alone": served(pipeline)}
    first, last = PERIOD.split(":")
    panel = load_panel(data / "south.parquet")
    methods = Methods(estimators, {"sigmahat": pipeline})
    found = evaluate(panel, Cell(7, 60, 15), Period(first, last), methods, draws=2, seed=0)
    chosen = scores[(scores["panel"] == "south") & (scores["n_obs"] == 60)]
    for ours, theirs in (("qis_correlation", "qis_correlation"), ("sigmahat", "sigmahat"), ("alone", "sigmahat")):
        for column in ("gmv_variance", "random_long_short_qlike", "turnover"):
            a = found.scores.loc[found.scores["method"] == ours, column].to_numpy()
            np.testing.assert_allclose(a, chosen.loc[chosen["method"] == theirs, column].to_numpy(), rtol=1e-9)
    heads = pd.read_parquet(evaluated[0] / "heads.parquet")
    mine = heads[(heads["panel"] == "south") & (heads["n_obs"] == 60) & (heads["method"] == "sigmahat")]
    np.testing.assert_allclose(mine["error"].to_numpy(), found.heads["error"].to_numpy(), rtol=1e-9)
    assert len(heads) == 2 * 4 * 11 * 2  # pipelines, cells, dates, draws


def test_figures_hold_settings_and_what_the_rows_say(evaluated):
    content = json.loads((evaluated[0] / "evaluation.json").read_text())
    assert set(content) == {"settings", "figures", *provenance()}
    assert content["settings"]["period"] == PERIOD.split(":")
    assert content["settings"]["panels"] == ["north", "south"]
    left_out = content["settings"]["left_out"]  # 420 rows: no window of 400 ends in the period
    assert [reason.split(" ")[0] for reason in left_out] == ["north", "south"]
    assert all("assets of 400 returns" in reason for reason in left_out)
    figures = read_figures(evaluated[0] / "figures.json")
    (cell,) = (cell for cell in figures.panels["south"] if cell.n_obs == 60)
    assert (cell.n_assets, cell.horizon) == (7, 15)
    scores = pd.read_parquet(evaluated[0] / "scores.parquet").query("panel == 'south' and n_obs == 60")
    by_method = scores.groupby("method")["gmv_variance"].mean()
    for name, row in cell.methods.items():
        assert row.annual_volatility_percent == pytest.approx(100 * np.sqrt(252 * by_method[name]), rel=1e-4)
        others = {"learned_constants", "tilted_constants", "rienet"} if name in ("sigmahat", "untrained") else set()
        assert set(row.versus) == {"qis_correlation"} | others
    assert set(figures.heads) == {"sigmahat", "untrained"}
    assert set(figures.pooled) == {"all", "north", "south"}
    assert set(figures.bias) == {"all", "north", "south"}
    assert figures.every_cell["sigmahat"]["rienet"].cells == 4
    assert figures.every_shape["sigmahat"]["frobenius"]["isotropic"].shapes == 4
    assert set(figures.simulated) == {"isotropic", "sectors", "switching", "missing"}
    for shapes in figures.simulated.values():
        assert [shape[:2] for shape in shapes] == [(n, t) for n in (8, 12) for t in (60, 400)]
        assert {"sigmahat", "untrained", "rienet", "learned_constants", ORACLE} <= set(shapes[0].methods)
    small = read_figures(evaluated[0] / "evaluation.json")
    assert small == headline(figures, ["sigmahat", "untrained"])


def test_refitted_constants_win_over_those_of_the_card(evaluated, fitted, data):
    constants = json.loads((fitted / "constants.json").read_text())["constants"]["learned_constants"]
    assert constants != CONSTANTS
    first, last = PERIOD.split(":")
    estimators = {"learned_constants": learned_constants(constants)}
    panel = load_panel(data / "south.parquet")
    found = evaluate(panel, Cell(7, 60, 15), Period(first, last), Methods(estimators, {}), draws=2, seed=0).scores
    scores = pd.read_parquet(evaluated[0] / "scores.parquet").query("panel == 'south' and n_obs == 60")
    theirs = scores.loc[scores["method"] == "learned_constants", "gmv_variance"].to_numpy()
    np.testing.assert_allclose(found["gmv_variance"].to_numpy(), theirs, rtol=1e-9)


def test_the_test_period_has_to_be_asked_for():
    assert PERIODS["validation"][:2] == ("2013-01-01", "2015-12-31")
    assert PERIODS["test"][:2] == ("2016-01-01", None)
    assert PERIODS["validation"][0] > TRAIN_UNTIL
    shown = sigmahat("evaluate", "--help").output
    assert "[default: validation]" in " ".join(shown.split())


def quick(data, members, out, *more, panel="north.npz"):
    few = ["--simulated-draws", 0, "--processes", 1, "--no-hindsight", "--resamples", 0]
    return sigmahat("evaluate", data / panel, "--run", members[0], *GRID, *few, "--out", out, *more)


def test_a_shape_without_an_oracle_is_evaluated_without_it(data, members, fitted, tmp_path):
    more = ["--baselines", fitted, "--n", 8, "--window", "60,70", "--period", PERIOD]
    result = quick(data, members, tmp_path / "results", *more)
    assert result.exit_code == 0, (result.output, result.exception)
    scores = pd.read_parquet(tmp_path / "results" / "scores.parquet")
    by_length = {length: set(rows["method"]) for length, rows in scores.groupby("n_obs")}
    assert by_length[60] - by_length[70] == {"average_oracle"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--period", "2030-01-01:"], "north has no date from 2030-01-01 to its end with 8 assets of 400 returns"),
        (["--period", "soon"], "validation, test or FIRST:LAST (ISO dates) is wanted, got 'soon'"),
        (["--period", "2013-05-01:2013-04-01"], "lie before the last, got '2013-05-01:2013-04-01'"),
        (["--n", "50,many"], "whole numbers, parted by commas, are wanted; got '50,many'"),
        (["--window", "1"], "numbers from 2 on are wanted, got 1"),
        (["--model-repository", "."], "no member at"),
        (
            ["--simulated-draws", "1"],
            "0 or at least 2 draws of each design are wanted, got 1: standard errors need two",
        ),
    ],
)
def test_what_cannot_be_evaluated_is_said_and_nothing_is_left_behind(data, members, tmp_path, more, message):
    result = quick(data, members, tmp_path / "results", "--period", PERIOD, *more)
    assert result.exit_code in (1, 2)
    assert message in said(result).replace("│ ", "").replace(" │", "")
    assert list(tmp_path.iterdir()) == []


def test_results_are_never_written_over(data, members, tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "mine").write_text("mine")
    result = quick(data, members, tmp_path / "results", "--period", PERIOD)
    assert result.exit_code == 1
    assert "is there already" in said(result)
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["mine"]


def test_a_file_without_returns_is_an_error_in_plain_words(members, tmp_path):
    np.savez(tmp_path / "north.npz", dates=DATES, close=np.ones((N_ROWS, 3)))
    result = quick(tmp_path, members, tmp_path / "results", "--period", PERIOD)
    assert result.exit_code == 1
    assert "arrays dates and ret, but ret is not" in said(result)
