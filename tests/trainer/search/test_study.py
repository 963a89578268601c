# SPDX-License-Identifier: Apache-2.0
"""`sigmahat draw` and `search`: what is recorded, what a cut-off search goes on with, what fails and why."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from filelock import FileLock
from rich.console import Console

from sigmahat_deploy.cli import main
from sigmahat_trainer.config import NetworkConfig, TrainConfig, from_dict
from sigmahat_trainer.data.dataset import Dataset, Sample, draw_dataset, open_dataset, save_dataset
from sigmahat_trainer.data.sample_sets import ALL, open_sample_sets, pool
from sigmahat_trainer.search import study as module
from sigmahat_trainer.search.plots import draw_search
from sigmahat_trainer.search.space import Vary
from sigmahat_trainer.search.study import RESULT, search
from sigmahat_trainer.training.constants import fit_constants
from sigmahat_trainer.training.member import train_member
from sigmahat_trainer.training.shared_losses import evaluate_losses

SMALL = NetworkConfig(
    extraction_units=(64, 64), tokens=2, attention_dimension=16, residual_units=32, head_units=(16, 16)
)
CONFIG = TrainConfig(network=SMALL, batch_size=32, epochs=2, seed=5)
VARY = [Vary("learning_rate"), Vary("schedule"), Vary("residual_units")]
QUIET = Console(quiet=True)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Simulated windows, small universes: 120 to train with, two panels of unequal size to judge by."""
    folder = tmp_path_factory.mktemp("dataset")

    def save(where, *, n_samples, seed):
        drawn = draw_dataset([], n_samples=n_samples, simulated_share=1.0, horizon=10, seed=seed, market_power=0.5)
        save_dataset(Dataset({n: stack for n, stack in drawn.by_size.items() if n.n_assets <= 50}), folder / where)

    save("training", n_samples=160, seed=0)
    save("validation/north", n_samples=60, seed=1)
    save("validation/south", n_samples=30, seed=2)
    return folder


@pytest.fixture(scope="module")
def found(dataset, tmp_path_factory):
    """(result, folder) of a search of three trials, uninterrupted."""
    folder = tmp_path_factory.mktemp("search") / "whole"
    return search(dataset, CONFIG, folder, trials=3, vary=VARY, console=QUIET), folder


def outcome(trial):
    return {name: value for name, value in trial.items() if name not in ("seconds", "trial")}


def test_the_record_is_what_training_gives(dataset, found):
    """The oracle: the same settings trained without a search."""
    result, folder = found
    assert json.loads((folder / RESULT).read_text()) == json.loads(json.dumps(result))
    assert {"machine", "versions", "commit", "figures", "config", "space", "dataset"} <= set(result)
    figures = result["figures"]
    trials = figures["trials"]
    assert [trial["state"] for trial in trials] == ["complete"] * 3
    assert trials[0]["settings"] == {"learning_rate": 5e-4, "schedule": "cosine", "residual_units": 32}  # CONFIG's own
    assert len({trial["settings"]["learning_rate"] for trial in trials}) == 3
    assert figures["best"] == min(trials, key=lambda trial: trial["loss"])

    drawn = open_sample_sets(dataset)
    constants = fit_constants(drawn.training, CONFIG)
    baseline = {n: evaluate_losses(constants, d, CONFIG)["decision"] for n, d in drawn.validation.items()}
    assert figures["constants"]["validation"] == pytest.approx(baseline, abs=1e-6)
    best = figures["best"]
    values = json.loads(json.dumps(result["config"]))
    for name, value in best["settings"].items():
        (values["network"] if name in values["network"] else values)[name] = value
    config = from_dict(TrainConfig, values)
    trained = train_member(drawn.training, pool(drawn.validation), constants, config, member=0)
    losses = {n: evaluate_losses(trained.network, d, config)["decision"] for n, d in drawn.validation.items()}
    assert best["validation"] == pytest.approx(losses, abs=1e-5)
    assert best["loss"] == pytest.approx((losses["north"] + losses["south"]) / 2, abs=1e-5)
    assert best["epochs"] == pytest.approx([h["validation_decision"] for h in trained.history], abs=1e-5)
    against = 50 * (best["loss"] - sum(baseline.values()) / 2)
    assert best["volatility_against_constants_percent"] == pytest.approx(against, abs=1e-3)


def test_a_killed_search_goes_on_as_if_it_had_not_been(dataset, found, tmp_path):
    """kill -9 in the second trial: its training process ends too, and its proposal is made again."""
    folder = tmp_path / "cut"
    program = "import sys; from sigmahat_deploy.cli import main; main(sys.argv[1:])"
    (tmp_path / "run.py").write_text(f"if __name__ == '__main__':\n    {program}\n")
    options = ["--extraction-units", "64,64", "--tokens", "2", "--attention-dimension", "16", "--residual-units", "32"]
    options += ["--head-units", "16,16", "--batch-size", "32", "--epochs", "2", "--seed", "5"]
    options += ["--windows", str(CONFIG.windows)]
    options += [word for each in VARY for word in ("--vary", each.name)]
    command = [sys.executable, tmp_path / "run.py", "search", dataset, "--out", folder, "--trials", "3", *options]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen([*map(str, command)], env=environment, stderr=subprocess.DEVNULL)
    for _ in range(1200):
        time.sleep(0.05)
        if (folder / RESULT).exists() and trial_states(folder) == ["complete", "running"]:
            break
    children = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    process.kill()
    process.wait()
    assert trial_states(folder) == ["complete", "running"]
    for _ in range(600):
        if not any(alive(pid) for pid in children):
            break
        time.sleep(0.05)
    assert not any(alive(pid) for pid in children)

    result = search(dataset, CONFIG, folder, trials=3, vary=VARY, console=QUIET)
    trials = result["figures"]["trials"]
    assert [trial["state"] for trial in trials] == ["complete", "interrupted", "complete", "complete"]
    finished = [outcome(trial) for trial in trials if trial["state"] != "interrupted"]
    assert finished == [outcome(trial) for trial in found[0]["figures"]["trials"]]


def trial_states(folder):
    return [trial["state"] for trial in json.loads((folder / RESULT).read_text())["figures"]["trials"]]


def alive(pid):
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")")[1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_settings_that_are_none_are_a_failed_trial_with_its_reason(dataset, tmp_path):
    config = TrainConfig(network=SMALL, batch_size=32, epochs=1)
    result = search(dataset, config, tmp_path, trials=2, vary=[Vary("attention_heads", 3, 3)], console=QUIET)
    assert [trial["state"] for trial in result["figures"]["trials"]] == ["failed", "failed"]
    assert "attention_dimension must be divisible by attention_heads, got 16 and 3" in trial_of(result)["reason"]
    assert result["figures"]["best"] is None
    assert not list(tmp_path.glob("*.png"))


def test_windows_that_spoil_the_loss_fail_and_do_not_stop_the_search(dataset, tmp_path):
    """Two at a time; validation returns are not numbers, so every loss is NaN."""
    drawn = open_sample_sets(dataset)
    save_dataset(drawn.training, tmp_path / "training")
    spoiled = {
        n: stack._replace(forward=np.full_like(stack.forward, np.nan))
        for n, stack in drawn.validation["south"].by_size.items()
    }
    save_dataset(Dataset(spoiled), tmp_path / "validation")
    result = search(tmp_path, CONFIG, tmp_path / "out", trials=2, processes=2, vary=VARY, console=QUIET)
    assert [trial["state"] for trial in result["figures"]["trials"]] == ["failed", "failed"]
    assert trial_of(result)["reason"] == "ValueError: the validation loss is nan after epoch 1"


def test_a_process_that_dies_is_a_failed_trial(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_train_trial", os._exit)  # called with what it does not take: exit code 1
    result = search(dataset, CONFIG, tmp_path, trials=1, vary=VARY, console=QUIET)
    assert trial_of(result)["reason"] == "its process ended with exit code 1"
    assert trial_of(result)["epochs"] == []


def trial_of(result):
    return result["figures"]["trials"][0]


def test_a_trial_below_the_median_is_stopped(dataset, tmp_path, monkeypatch):
    """The first learns fast, the second hardly; two of three epochs are enough to see it."""
    monkeypatch.setattr(module, "STARTUP_TRIALS", 1)
    config = replace(CONFIG, learning_rate=1e-2, epochs=3)
    vary = [Vary("schedule"), Vary("learning_rate")]
    result = search(dataset, config, tmp_path, trials=2, vary=vary, console=QUIET)
    first, second = result["figures"]["trials"]
    assert (first["state"], len(first["epochs"])) == ("complete", 3)
    assert second["settings"]["learning_rate"] < 1e-2
    assert second["epochs"][-1] > first["epochs"][len(second["epochs"]) - 1]
    assert second["state"] == "pruned"
    assert 1 <= len(second["epochs"]) < 3
    assert "loss" not in second
    assert result["figures"]["best"] == first


def test_another_search_is_refused(dataset, found, tmp_path):
    _, folder = found
    with pytest.raises(ValueError, match=r"holds a search with another config and space: name a new folder"):
        search(dataset, TrainConfig(network=SMALL, epochs=3), folder, trials=4, console=QUIET)
    with FileLock(tmp_path / ".lock"), pytest.raises(ValueError, match="another search is running"):
        search(dataset, CONFIG, tmp_path, trials=1, console=QUIET)
    shutil.copytree(dataset, tmp_path / "other")
    path = next((tmp_path / "other" / "validation" / "south").glob("*-features.npy"))
    np.save(path, np.load(path) + 1)  # as many windows, but others
    with pytest.raises(ValueError, match=r"holds a search with another dataset: name a new folder"):
        search(tmp_path / "other", CONFIG, folder, trials=4, vary=VARY, console=QUIET)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no samples for training"):
        search(tmp_path / "empty", CONFIG, tmp_path / "out", trials=1, console=QUIET)


def test_enough_trials_and_no_time_end_at_once(dataset, found):
    result, folder = found
    assert search(dataset, CONFIG, folder, trials=2, vary=VARY, console=QUIET)["figures"] == result["figures"]
    assert (
        search(dataset, CONFIG, folder, trials=9, timeout_s=0, vary=VARY, console=QUIET)["figures"]
        == (result["figures"])
    )


def test_pictures(found, tmp_path):
    result, folder = found
    assert {path.name for path in folder.glob("*.png")} == {"history.png", "slices.png"}  # too few for importance
    figures = {**result["figures"], "importance": {"learning_rate": 0.7, "schedule": 0.3}}
    for path in draw_search({**result, "figures": figures}, tmp_path):
        assert path.stat().st_size > 5_000
    assert {path.name for path in tmp_path.iterdir()} == {"history.png", "slices.png", "importance.png"}


def test_pooled_windows_are_all_windows():
    def stack_of(*values):
        return Sample(*(np.array(values, float)[:, None] for _ in Sample._fields))

    parts = {"a": Dataset({5: stack_of(1, 2), 7: stack_of(3)}), "b": Dataset({3: stack_of(4), 5: stack_of(5)})}
    pooled = {size: stack.features[:, 0].tolist() for size, stack in pool(parts).by_size.items()}
    assert pooled == {3: [4.0], 5: [1.0, 2.0, 5.0], 7: [3.0]}


def test_drawing_and_searching_by_command(tmp_path):
    """Two markets, one of which ends before the validation days: it trains and does not judge."""
    dates = np.busday_offset(np.datetime64("2012-01-02"), np.arange(260), roll="forward")
    rng = np.random.default_rng(0)
    for name, n_rows in {"north": 260, "south": 140}.items():
        returns = 0.01 * (rng.standard_normal((n_rows, 1)) + rng.standard_normal((n_rows, 8)))
        np.savez(tmp_path / f"{name}.npz", dates=dates[:n_rows], ret=returns.astype(np.float32))
    out = tmp_path / "drawn"
    command = ["draw", "--data", tmp_path, "--out", out, "--windows", 60, "--horizon", 10, "--validation-windows", 20]
    command += ["--train-until", dates[150], "--validate-until", dates[219]]
    done = CliRunner().invoke(main, [*map(str, command)])
    assert done.exit_code == 0, done.output
    assert done.stderr.splitlines()[-1] == f"next: sigmahat search {out} --out {out}-search"
    drawn = open_sample_sets(out)
    assert set(drawn.validation) == {"north"}
    assert 40 <= len(drawn.training) <= 66
    assert CliRunner().invoke(main, [*map(str, command)]).exit_code == 1  # it is there already

    save_dataset(drawn.validation["north"], tmp_path / "plain" / "validation")
    save_dataset(drawn.training, tmp_path / "plain" / "training")
    assert set(open_sample_sets(tmp_path / "plain").validation) == {ALL}
    assert len(open_dataset(out / "training")) == len(drawn.training)

    command = ["search", out, "--out", tmp_path / "search", "--trials", 1, "--preset", "full", "--epochs", 1]
    command += ["--batch-size", 16, "--vary", "dropout=0.1:0.3"]
    done = CliRunner().invoke(main, [*map(str, command)])
    assert done.exit_code == 0, done.output
    assert "1 complete" in done.stderr
    assert "--dropout 0.3" in done.stderr
    best = "--learning-rate 0.001 --weight-decay 0.001 --batch-size 16 --epochs 1"
    others = "--windows 108000 --simulated-share 0.35 --residual-weight 0.005"
    assert done.stderr.splitlines()[-1] == f"next: sigmahat train --data PANELS --out RUN {best} {others}"
    config = json.loads((tmp_path / "search" / RESULT).read_text())["config"]
    assert (config["learning_rate"], config["epochs"]) == (1e-3, 1)  # of the preset; and what was given beside it
    done = CliRunner().invoke(main, [*map(str, command), "--vary", "dropout=a"])
    assert "SETTING or SETTING=LOW:HIGH is wanted, got 'dropout=a'" in done.stderr
