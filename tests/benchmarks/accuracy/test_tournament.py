# SPDX-License-Identifier: Apache-2.0
"""The tournament end to end on two tiny markets, and its standings against sums over the rows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.accuracy import tournament
from benchmarks.accuracy.tables import tournament as tournament_table
from sigmahat_kernels.released import released_repository
from sigmahat_trainer.evaluation.significance import newey_west_t

N_ROWS = 330
PERIOD = "2013-01-01:2013-08-30"
CONTESTANTS = {"har_qis": 1, "cm_iewma": 2}


@pytest.fixture(scope="module")
def panels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two markets in 2012 and 2013, and one that ends before the period."""
    folder = tmp_path_factory.mktemp("panels")
    dates = np.busday_offset(np.datetime64("2012-06-01"), np.arange(N_ROWS), roll="forward")
    for seed, (name, n_rows, n_assets) in enumerate([("north", N_ROWS, 14), ("south", N_ROWS, 9), ("past", 120, 14)]):
        rng = np.random.default_rng(seed)
        returns = 0.01 * (rng.standard_normal((n_rows, 1)) + rng.standard_normal((n_rows, n_assets)))
        np.savez(
            folder / f"{name}.npz",
            dates=dates[:n_rows],
            tickers=np.array([f"A{k}" for k in range(n_assets)]),
            ret=returns.astype(np.float32),
        )
    return folder


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second ensemble: the same members in a folder of another name."""
    folder = tmp_path_factory.mktemp("ensembles") / "other"
    shutil.copytree(released_repository(), folder, ignore=shutil.ignore_patterns("configs", "model_*.onnx"))
    return folder


@pytest.fixture(scope="module")
def played(panels: Path, other: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("played")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tournament, "installed_contestants", lambda: (dict(CONTESTANTS), ["one: not installed"]))
        tournament.main(arguments(panels, other, folder))
    return folder


def arguments(panels: Path, other: Path, folder: Path, **changed: str) -> list[str]:
    settings = {
        "--members": str(released_repository()),
        "--ensemble": str(other),
        "--period": PERIOD,
        "--n": "8",
        "--window": "60",
        "--horizon": "15",
        "--processes": "1",
        "--rows": str(folder / "rows"),
        "--out": str(folder / "tournament.json"),
    }
    return [str(panels), *(word for pair in (settings | changed).items() for word in pair)]


def figures_of(played: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((played / "tournament.json").read_text())
    return content


def scores_of(played: Path) -> pd.DataFrame:
    return pd.concat(pd.read_parquet(path) for path in sorted((played / "rows").glob("*scores.parquet")))


def test_standings_pictures_and_rows_are_there(played: Path) -> None:
    assert {path.name for path in played.glob("*.*")} == {"tournament.json", "tournament.png", "tournament_gain.png"}
    content = figures_of(played)
    left_out = content["settings"]["left_out"]
    assert left_out[0] == "one: not installed"
    assert left_out[1].startswith("past has no date from 2013-01-01 to 2013-08-30 with 8 assets of 60 returns")
    assert content["settings"]["panels"] == ["north", "south"]
    assert {"sigmahat", "other", "har_qis", "cm_iewma", "qis_correlation"} <= set(content["figures"]["methods"])


def test_a_standing_is_the_mean_over_markets_of_the_rows(played: Path) -> None:
    scores, methods = scores_of(played), figures_of(played)["figures"]["methods"]
    for field, column, factor in (
        ("gmv", "gmv_log_variance", 50.0),
        ("negative_log_likelihood", "negative_log_likelihood", 1.0),
        ("equal_weight_qlike", "equal_weight_qlike", 1.0),
    ):
        table = scores.pivot(index=["panel", "step"], columns="method", values=column)
        for name in ("sigmahat", "cm_iewma"):
            steps = (table[name] - table["qis_correlation"]).dropna().groupby("step").mean()
            found = methods[name]["against_reference"]["differences"][field]
            assert found["difference"] == pytest.approx(factor * steps.mean(), rel=1e-4)
            assert found["t"] == pytest.approx(newey_west_t(steps.to_numpy()), rel=1e-4)
    of_slow = scores[scores["method"] == "cm_iewma"]
    assert methods["cm_iewma"]["dates"] == len(of_slow) < methods["sigmahat"]["dates"]
    assert (of_slow["step"] % 2 == 0).all()
    own = scores[(scores["method"] == "sigmahat") & (scores["panel"] == "north")]
    bias = methods["sigmahat"]["markets"]["north"]["bias"]["equal_weight"]["value"]
    assert bias == pytest.approx(np.sqrt(own["equal_weight_square"].mean()), rel=1e-4)
    assert methods["sigmahat"]["gross_leverage"] == pytest.approx(
        scores.loc[scores["method"] == "sigmahat", "gmv_gross"].mean(), rel=1e-4
    )


def test_the_same_members_under_another_name_have_no_spread(played: Path) -> None:
    ensembles = figures_of(played)["figures"]["ensembles"]
    assert set(ensembles) == {"all", "north", "south"}
    methods = figures_of(played)["figures"]["methods"]
    spread = ensembles["all"]["gmv"]
    assert spread["mean"] == methods["other"]["against_reference"]["differences"]["gmv"]["difference"]
    assert spread["standard_deviation"] == pytest.approx(0.0, abs=1e-9)
    bias = methods["sigmahat"]["markets"]["north"]["bias"]["equal_weight"]["value"]
    assert ensembles["north"]["bias_equal_weight"]["lowest"] == bias


def test_what_was_found_is_not_looked_for_again(
    played: Path, panels: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def ask(jobs: list[Any], *rest: Any, **more: Any) -> list[Any]:
        asked.extend(jobs)
        return []

    monkeypatch.setattr(tournament, "installed_contestants", lambda: (dict(CONTESTANTS), []))
    monkeypatch.setattr(tournament, "run_jobs", ask)
    tournament.main(arguments(panels, other, played, **{"--out": str(played / "again" / "tournament.json")}))
    assert not asked
    assert figures_of(played / "again")["figures"] == figures_of(played)["figures"]
    (gone,) = (played / "rows").glob("north*scores.parquet")
    kept = gone.rename(gone.with_suffix(".kept"))
    with pytest.raises(FileNotFoundError):  # `run_jobs` does nothing here, so its rows stay missing
        tournament.main(arguments(panels, other, played))
    kept.rename(gone)
    assert [(job.path.stem, job.cell.n_assets) for job in asked] == [("north", 8)]


def test_rows_of_another_tournament_are_not_mixed_in(
    played: Path, panels: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tournament, "installed_contestants", lambda: (dict(CONTESTANTS), []))
    with pytest.raises(ValueError, match=r"--without: one of har_qis, cm_iewma, .* is wanted, got gerber"):
        tournament.main([*arguments(panels, other, played), "--without", "har_qis", "gerber"])
    with pytest.raises(ValueError, match="rows of another tournament: remove it, or name another with --rows"):
        tournament.main(arguments(panels, other, played, **{"--seed": "1"}))


def test_the_table_of_the_documentation_has_a_row_a_method(played: Path) -> None:
    methods = figures_of(played)["figures"]["methods"]
    header, _, *rows = tournament_table(played / "tournament.json").splitlines()
    assert len(rows) == len(methods)
    found = dict(zip(header.split(" | "), next(row for row in rows if "cm_iewma" in row).split(" | "), strict=True))
    gmv = methods["cm_iewma"]["against_reference"]["differences"]["gmv"]
    assert found["volatility, % (t)"] == f"{gmv['difference']:+.1f} ({gmv['t']:+.1f})"
    assert found["turnover a year"] == ""  # it was never asked twice in a row
