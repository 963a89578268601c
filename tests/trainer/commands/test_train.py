# SPDX-License-Identifier: Apache-2.0
"""`sigmahat train` and `export` end to end on two tiny markets."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from sigmahat_deploy.cli import main
from sigmahat_kernels.combine import combine
from sigmahat_kernels.features import FEATURE_NAMES, compute_features
from sigmahat_kernels.members import MEMBER_FILES, Member
from sigmahat_kernels.parameters import N_PARAMETERS, split_parameters
from sigmahat_kernels.pipeline import Pipeline
from sigmahat_kernels.request import read_request
from sigmahat_trainer.commands.options import DEFAULT_PRESET, PRESETS
from sigmahat_trainer.config import TrainConfig, from_dict, replace_settings
from sigmahat_trainer.data import sample_cache
from sigmahat_trainer.data.dataset import WINDOW_LENGTHS
from sigmahat_trainer.data.panels import load_panel
from sigmahat_trainer.export import install, model_card
from sigmahat_trainer.model.member_file import CheckpointError, load_member
from sigmahat_trainer.provenance import provenance
from sigmahat_trainer.training import importance
from sigmahat_trainer.training import run as ensemble

N_ROWS = 260
DATES = np.busday_offset(np.datetime64("2012-01-02"), np.arange(N_ROWS), roll="forward")
CARDS = {"model_card.json", "MODEL_CARD.md"}
N_MEMBERS = 3
MEMBERS = {f"member_{k}/1/{file}" for k in range(1, N_MEMBERS + 1) for file in MEMBER_FILES.values()}
TRAIN_UNTIL, VALIDATE_UNTIL = (str(DATES[row]) for row in (150, 219))
TINY = ["--windows", "60", "--epochs", "1", "--batch-size", "16", "--horizon", "10", "--simulated-share", "0.2"]
TINY += ["--extraction-units", "64,64", "--tokens", "2", "--residual-units", "32", "--head-units", "16,16"]
TINY += ["--weight-decay", "3e-4"]


def sigmahat(*arguments):
    return CliRunner().invoke(main, list(map(str, arguments)))


def write_panel(path, *, n_assets, seed):
    rng = np.random.default_rng(seed)
    returns = 0.01 * rng.standard_normal((N_ROWS, 1)) * rng.uniform(0.5, 1.5, n_assets)
    returns += rng.uniform(0.005, 0.02, n_assets) * rng.standard_normal((N_ROWS, n_assets))
    returns[rng.random(returns.shape) < 0.005] = np.nan
    table = pd.DataFrame(returns.astype(np.float32), pd.DatetimeIndex(DATES), [f"A{i}" for i in range(n_assets)])
    if path.suffix == ".csv":
        table.to_csv(path)
    else:
        np.savez(path, dates=DATES, ret=table.to_numpy())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_panel(folder / "north.npz", n_assets=14, seed=1)
    write_panel(folder / "south.csv", n_assets=12, seed=2)
    return folder


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """(folder of the run, what the command said)."""
    out = tmp_path_factory.mktemp("train") / "new" / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ensemble, "VALIDATION_SAMPLES", 36)
        arguments = ["--data", data, "--out", out, "--train-until", TRAIN_UNTIL, "--validate-until", VALIDATE_UNTIL]
        result = sigmahat("train", *arguments, *TINY)
    assert result.exit_code == 0, (result.output, result.exception)
    return out, result


def repository_with_old_members(folder):
    for k in range(1, N_MEMBERS + 1):
        version = folder / f"member_{k}" / "1"
        version.mkdir(parents=True)
        (version / "model.onnx").write_bytes(b"old")
        (version.parent / "configs").mkdir()
        (version.parent / "configs" / "gpu.pbtxt").write_text(f'name: "member_{k}"')
    (folder / "model_card.json").write_text('{"old": true}')
    return folder


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """(model repository, what the command said)."""
    repository = repository_with_old_members(tmp_path_factory.mktemp("export") / "model_repository")
    result = sigmahat("export", trained[0], "--model-repository", repository)
    assert result.exit_code == 0, (result.output, result.exception)
    assert result.stderr.splitlines()[-1] == f"next: sigmahat serve --model-repository {repository}"
    return repository, result


# ------------------------------------------------------------------------------------------------------------- train


def test_train_writes_the_members_their_features_and_metrics_and_nothing_else(trained):
    folder, _ = trained
    members = [f"member_{k}.safetensors" for k in range(1, 4)]
    assert sorted(path.name for path in folder.iterdir()) == ["features.npz", "manifest.json", *members, "metrics.json"]


def test_members_differ_and_carry_the_settings_of_the_command(trained):
    members = [load_member(trained[0] / f"member_{k}.safetensors", feature_names=FEATURE_NAMES) for k in (1, 2, 3)]
    rows = np.load(trained[0] / "features.npz")["calibration"]
    answers = [member.network(member.network.median.new_tensor(rows)).detach().numpy() for member in members]
    assert (answers[0] != answers[1]).any()
    assert (answers[1] != answers[2]).any()
    for member in members:
        assert member.config.windows == 60
        assert member.config.epochs == 1
        assert member.config.network.extraction_units == (64, 64)
        assert member.config.weight_decay == 3e-4


def test_metrics_say_what_was_trained_on_what(trained, data):
    metrics = json.loads((trained[0] / "metrics.json").read_text())
    assert from_dict(TrainConfig, metrics["config"]).batch_size == 16
    assert metrics["train_until"] == TRAIN_UNTIL
    assert metrics["validate_until"] == VALIDATE_UNTIL
    assert metrics["data"] == [
        {"panel": name, "rows": N_ROWS, "assets": n, "first": str(DATES[0]), "last": str(DATES[-1])}
        for name, n in (("north", 14), ("south", 12))
    ]
    assert [len(history) for history in metrics["members"]] == [1, 1, 1]
    baseline = metrics["validation_of_constants"]["decision"]
    assert -14 < baseline < -6  # ln of a daily variance
    for history in metrics["members"]:
        assert history[0]["validation_decision"] == pytest.approx(baseline, abs=0.5)
    constants = metrics["constants"]
    assert sum(constants["target_weights"]) == pytest.approx(1.0, abs=1e-5)
    assert 0 < constants["memory"][0] < 1
    assert set(provenance()) <= set(metrics)
    assert metrics["commit"] == provenance()["commit"]
    assert 0 < metrics["seconds"]["windows"] < metrics["seconds"]["all"]


def test_command_compares_the_members_with_the_constants(trained):
    folder, result = trained
    assert result.stdout == ""  # a report is for people: standard error
    metrics = json.loads((folder / "metrics.json").read_text())
    baseline = metrics["validation_of_constants"]["decision"]
    assert f"{baseline:.4f}" in result.stderr
    for k, history in enumerate(metrics["members"], start=1):
        decision = history[0]["validation_decision"]
        (line,) = [line for line in result.stderr.splitlines() if f"member {k}" in line and "% volatility" in line]
        assert f"{decision:.4f}" in line
        assert f"{50 * (decision - baseline):+.1f} %" in line


def test_windows_are_drawn_before_and_after_the_training_days(data, tmp_path, monkeypatch):
    """Which panels, dates and numbers reach the drawing, and where the windows are kept."""
    calls = []

    class Enough(Exception):
        pass

    def draw(panels, cache, *, console, workers, **settings):
        calls.append((panels, settings, cache, workers))
        if len(calls) == 2:
            raise Enough

    monkeypatch.setattr(ensemble, "cached_samples", draw)
    arguments = ["--data", data, "--out", tmp_path / "run", "--workers", 5]
    arguments += ["--train-until", TRAIN_UNTIL, "--validate-until", VALIDATE_UNTIL]
    assert "Enough" in sigmahat("train", *arguments, *TINY, "--seed", 7).stderr
    (training, train_settings, *places), (validation, validation_settings, *_) = calls
    assert places == [tmp_path / "samples", 5]
    for panels, last in ((training, TRAIN_UNTIL), (validation, VALIDATE_UNTIL)):
        assert [panel.name for panel in panels] == ["north", "south"]
        assert {str(panel.dates[-1]) for panel in panels} == {last}
        assert {str(panel.dates[0]) for panel in panels} == {str(DATES[0])}
    assert train_settings["n_samples"] == 60
    assert train_settings["simulated_share"] == 0.2
    assert train_settings.get("first") is None
    assert train_settings["seed"] == 7
    assert validation_settings["n_samples"] == ensemble.VALIDATION_SAMPLES
    assert validation_settings["simulated_share"] == 0.0
    assert validation_settings["first"] == str(np.datetime64(TRAIN_UNTIL) + 1)  # not one holding period overlaps
    assert validation_settings["seed"] != 7
    assert {settings["horizon"] for _, settings, *_ in calls} == {10}
    calls.clear()
    assert "Enough" in sigmahat("train", *arguments, "--cache", tmp_path / "kept").stderr
    assert calls[0][2] == tmp_path / "kept"


def settled(folder):
    """The files of a run; of its metrics all but the time that it took."""
    files = contents(folder)
    metrics = json.loads(files.pop("metrics.json"))
    return files, {name: value for name, value in metrics.items() if name != "seconds"}


PROGRAM = """
import os, pathlib, signal, time
from sigmahat_deploy.cli import main
from sigmahat_trainer.training import run as ensemble

ensemble.VALIDATION_SAMPLES = 36
real = ensemble.train_member

def kill_the_command(*args, member, progress, **settings):
    # Runs in a member's process, after its checkpoint: the one that started it goes, and it would stay.
    def report(*_):
        pathlib.Path({pids!r}, str(os.getpid())).touch()
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(600)

    return real(*args, member=member, progress=report, **settings)

if {killed}:
    ensemble.train_member = kill_the_command
if __name__ == "__main__":
    main()
"""


def start(starter, tmp_path, data, out, *, killed=False):
    """Run `sigmahat train` outside this process."""
    (tmp_path / "pids").mkdir()
    (tmp_path / "program.py").write_text(PROGRAM.format(pids=str(tmp_path / "pids"), killed=killed))
    arguments = ["--data", data, "--out", out, "--train-until", TRAIN_UNTIL, "--validate-until", VALIDATE_UNTIL]
    command = [sys.executable, *starter, tmp_path / "program.py", "train", *arguments, *TINY]
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)


def test_processes_of_torchrun_write_the_files_that_one_command_writes(trained, data, tmp_path):
    starter = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = start(starter, tmp_path, data, tmp_path / "new" / "run")
    assert done.returncode == 0, done.stderr
    assert settled(tmp_path / "new" / "run") == settled(trained[0])
    assert done.stderr.count("learned constants") == 1  # the others are silent


def is_running(pid):
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def test_a_command_that_was_killed_goes_on_when_it_is_given_again(trained, data, tmp_path, monkeypatch):
    run = tmp_path / "new" / "run"
    assert start([], tmp_path, data, run, killed=True).returncode == -9
    for path in (tmp_path / "pids").iterdir():  # the members' processes end with it
        deadline = time.monotonic() + 60
        while is_running(int(path.name)):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert {"constants.pt"} < {path.name for path in (run / "checkpoints").glob("*.pt")}
    arguments = ["--data", data, "--out", run, "--train-until", TRAIN_UNTIL, "--validate-until", VALIDATE_UNTIL]

    def refused(*changes):
        result = sigmahat("train", *arguments, *TINY, *changes)
        assert result.exit_code == 1
        return " ".join(result.stderr.split())

    monkeypatch.setattr(ensemble, "VALIDATION_SAMPLES", 36)
    unchanged = contents(run)
    monkeypatch.setattr(ensemble, "cached_samples", None)  # said before anything is drawn
    assert "config.seed was 0, is 8, training.seed was 0, is 8, validation.seed was 1, is 9" in refused("--seed", 8)
    assert "config.epochs was 1, is 2" in refused("--epochs", 2)
    assert f"validation.first was {np.datetime64(TRAIN_UNTIL) + 1}, is " in refused("--train-until", DATES[140])
    assert contents(run) == unchanged
    monkeypatch.undo()

    monkeypatch.setattr(ensemble, "VALIDATION_SAMPLES", 36)
    monkeypatch.setattr(ensemble, "fit_constants", None)  # nor is anything repeated
    monkeypatch.setattr(sample_cache, "draw_dataset", None)
    assert sigmahat("train", *arguments, *TINY).exit_code == 0
    assert settled(run) == settled(trained[0])


def test_a_finished_run_is_left_as_it_is_and_says_what_comes_next(trained, data, monkeypatch):
    run = trained[0]
    before = {path: path.stat().st_mtime_ns for path in run.iterdir()}
    arguments = ["--data", data, "--out", run, "--train-until", TRAIN_UNTIL, "--validate-until", VALIDATE_UNTIL]
    monkeypatch.setattr(ensemble, "VALIDATION_SAMPLES", 36)
    monkeypatch.setattr(ensemble, "cached_samples", None)  # nothing is drawn, nothing trained
    again = sigmahat("train", *arguments, *TINY)
    assert again.exit_code == 0, again.output
    assert f"{run} holds this run already, finished: nothing to do" in " ".join(again.stderr.split())
    for result in (trained[1], again):
        assert result.stderr.splitlines()[-1] == f"next: sigmahat export {run}"
    other = sigmahat("train", *arguments, *TINY, "--seed", 8)
    assert other.exit_code == 1
    said = " ".join(other.stderr.split())
    assert f"{run} holds a finished run of other settings, data or code; name a new folder: config.seed was 0" in said
    assert {path: path.stat().st_mtime_ns for path in run.iterdir()} == before


def test_a_finished_run_that_does_not_say_what_it_was_is_refused(trained, data, tmp_path):
    shutil.copytree(trained[0], tmp_path / "run")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    del metrics["run"]
    (tmp_path / "run" / "metrics.json").write_text(json.dumps(metrics))
    result = sigmahat("train", "--data", data, "--out", tmp_path / "run", *TINY)
    assert result.exit_code == 1
    assert "config.seed was not there, is 0" in " ".join(result.stderr.split())


@pytest.fixture
def given_config(monkeypatch):
    """Stands in for the training: returns the configurations that the command made."""
    configs = []

    def train_ensemble(panels, config, folder, **_):
        configs.append((config, [panel.name for panel in panels]))
        losses = {"decision": -9.0}
        members = [[{"validation_decision": -9.1}]]
        return {"validation_of_constants": losses, "members": members, "seconds": {"all": 1.0}}

    monkeypatch.setattr(ensemble, "train_ensemble", train_ensemble)
    return configs


SMALL, FULL = PRESETS["small"], PRESETS["full"]


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ([], SMALL),
        (["--preset", "full"], FULL),
        (["--preset", "small"], SMALL),
        (["--preset", "small", "--epochs", "3"], {**SMALL, "epochs": 3}),
        (["--windows", "500", "--preset", "small"], {**SMALL, "windows": 500}),
        (["--seed", "4", "--preset", "small", "--dropout", "0.45"], {**SMALL, "seed": 4, "dropout": 0.45}),
    ],
)
def test_preset_sets_what_is_not_given(data, tmp_path, given_config, options, settings):
    result = sigmahat("train", "--data", data, "--out", tmp_path, *options)
    assert result.exit_code == 0, result.output
    ((config, panels),) = given_config
    assert panels == ["north", "south"]
    assert config == replace_settings(TrainConfig(), settings)
    assert "-5.0 % volatility" in result.stderr


def test_small_preset_is_smaller():
    small, full = (replace_settings(TrainConfig(), PRESETS[name]) for name in ("small", "full"))
    assert small.windows * small.epochs <= 0.3 * full.windows * full.epochs


def test_every_preset_sets_what_the_default_one_sets():
    """Else a setting of the default preset would stay beside another one."""
    assert all(settings.keys() >= PRESETS[DEFAULT_PRESET].keys() for settings in PRESETS.values())


@pytest.mark.parametrize("command", ["train", "draw", "search"])
def test_help_says_what_a_command_without_a_preset_does(command):
    said = " ".join(sigmahat(command, "--help").stdout.split())
    assert "full: --windows 108000 --simulated-share 0.35 --epochs 3 --batch-size 128" in said
    assert "[default: small]" in said
    assert "passes over the training samples [1..1000, default 6]" in said


def test_folder_without_panels_is_an_error_in_plain_words(tmp_path):
    (tmp_path / "data").mkdir()
    result = sigmahat("train", "--data", tmp_path / "data", "--out", tmp_path / "run")
    assert result.exit_code == 1
    assert "Error: no return panel (*.csv, *.csv.gz, *.parquet, *.feather, *.npz) in " in " ".join(
        result.stderr.split()
    )
    assert not (tmp_path / "run").exists()


def test_panel_that_lacks_its_returns_is_an_error_in_plain_words(tmp_path):
    np.savez(tmp_path / "north.npz", dates=DATES, close=np.ones((N_ROWS, 3)))
    result = sigmahat("train", "--data", tmp_path, "--out", tmp_path / "run")
    assert result.exit_code == 1
    assert "north.npz: there should be arrays dates and ret, but ret is not" in result.stderr


def test_panels_that_end_before_validation_begins_are_an_error_in_plain_words(data, tmp_path):
    arguments = ["--data", data, "--out", tmp_path / "run", "--train-until", str(DATES[-3])]
    result = sigmahat("train", *arguments, *TINY)
    assert result.exit_code == 1
    message = f"Error: no panel has {min(WINDOW_LENGTHS)} days and a holding period of 10 from {DATES[-3] + 1} on"
    assert message in " ".join(result.stderr.split())
    assert isinstance(result.exception, SystemExit)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--epochs", "0"], "epochs must be a whole number in 1..1000, got 0"),
        (["--preset", "tiny"], "'tiny' is not one of"),
        (["--data", "nowhere"], "Directory 'nowhere' does not exist"),
    ],
)
def test_bad_options_are_usage_errors(data, tmp_path, options, message):
    result = sigmahat("train", "--data", data, "--out", tmp_path / "run", *options)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


# ------------------------------------------------------------------------------------------------------------ export


@pytest.fixture
def quick_export(exported, monkeypatch):
    """The files that a real export made, instead of minutes of tracing for each test."""
    written = []

    def export_onnx(network, path, metadata, half=False):
        written.append(path)
        shutil.copy(exported[0] / path.parent.name / "1" / path.name, path)

    monkeypatch.setattr(install, "export_onnx", export_onnx)
    return written


def some_request(data):
    panel = load_panel(data / "north.npz")
    universes = np.array([[0, 1, 2, 3, 4, 5], [2, 4, 6, 8, -1, -1]], np.int32)
    return read_request(panel.returns, universes, windows=np.array([[20, 200], [100, 260]]))


def test_exported_members_are_the_trained_ones_in_int8(trained, exported, data):
    features = compute_features(some_request(data)).features
    commit = json.loads((trained[0] / "metrics.json").read_text())["commit"]
    for k in range(1, N_MEMBERS + 1):
        path = exported[0] / f"member_{k}" / "1" / "model.onnx"
        member = Member(path)
        assert member.metadata["commit"] == commit
        assert b"QuantizeLinear" in path.read_bytes()
        network = load_member(trained[0] / f"member_{k}.safetensors", feature_names=FEATURE_NAMES).network
        expected = split_parameters(network(network.median.new_tensor(features)).detach().numpy())
        answers = member(features)
        assert answers.shape == (2, N_PARAMETERS)
        heads = split_parameters(answers)
        for name in ("target_intensity", "target_weights", "memory", "volatility"):
            np.testing.assert_allclose(getattr(heads, name), getattr(expected, name), atol=0.03)


def test_exported_repository_estimates_covariances(exported, data):
    pipeline = Pipeline(exported[0])
    request = some_request(data)
    outputs = pipeline.estimate(request)
    assert outputs.status.tolist() == [0, 0]
    for k, size in enumerate((6, 4)):
        covariance = outputs.covariance[k, :size, :size].astype(float)
        returns = request.panel[slice(*request.windows[k])][:, request.universes[k, :size]]
        assert np.linalg.eigvalsh(covariance)[0] > 0
        ratio = np.sqrt(np.diag(covariance)) / np.nanstd(returns, axis=0)
        assert ratio.min() > 0.6
        assert ratio.max() < 1.6
        ours = outputs.covariance[k, :size, :size]
        np.testing.assert_array_equal(ours, ours.T)
    intensity = outputs.combined.intensity
    assert (intensity > 0.05).all()
    assert (intensity < 0.95).all()


def test_export_leaves_the_rest_of_the_repository_alone(exported):
    repository, _ = exported
    expected = {f"member_{k}/configs/gpu.pbtxt" for k in (1, 2, 3)}
    assert set(contents(repository)) == expected | MEMBERS | CARDS | {"manifest.json"}
    assert contents(repository)["member_2/configs/gpu.pbtxt"] == b'name: "member_2"'


def test_card_holds_the_run_and_what_int8_changed(trained, exported):
    metrics = json.loads((trained[0] / "metrics.json").read_text())
    card = model_card.read_card(exported[0])
    kept = {name: value for name, value in metrics.items() if name not in ("members", "run")}
    assert {name: card[name] for name in kept} == kept
    assert not {"members", "run"} & set(card)
    assert card["validation_of_members"] == [
        {name: value for name, value in history[-1].items() if name.startswith("validation_")}
        for history in metrics["members"]
    ]
    assert len(card["int8_difference"]) == N_MEMBERS
    for k, difference in enumerate(card["int8_difference"], start=1):
        for name in ("target_intensity", "regime"):
            line = f"{difference[name]['mean']:.4f}, {difference[name]['p99']:.4f}"
            assert line in exported[1].stderr, (k, name)
            assert 0 < difference[name]["mean"] <= difference[name]["p99"] < 0.03


def test_card_holds_what_int8_does_to_the_ensemble_and_what_the_clip_limits(trained, exported):
    card = model_card.read_card(exported[0])
    rows = np.load(trained[0] / "features.npz")["validation"]
    networks = [
        load_member(trained[0] / f"member_{k}.safetensors", feature_names=FEATURE_NAMES).network for k in (1, 2, 3)
    ]
    status = np.zeros((len(rows), 1), np.int32)
    files = [Member(exported[0] / f"member_{k}" / "1" / "model.onnx") for k in (1, 2, 3)]
    served_intensity = combine([member(rows) for member in files], status).intensity
    answers = [network(network.median.new_tensor(rows)).detach().numpy() for network in networks]
    change = np.abs(served_intensity - combine(answers, status).intensity)
    assert card["intensity_difference"]["mean"] == pytest.approx(change.mean(), rel=1e-3)
    assert card["intensity_difference"]["p99"] == pytest.approx(np.quantile(change, 0.99), rel=1e-3)
    for k, network in enumerate(networks):
        norm = network.input_norm
        scaled = (rows - network.median.numpy()) * network.scale.numpy()
        deviation = np.sqrt(norm.running_var.numpy() + norm.eps)
        weight, bias = norm.weight.detach().numpy(), norm.bias.detach().numpy()
        beyond = np.abs((scaled - norm.running_mean.numpy()) / deviation * weight + bias) > 6
        reported = card["clipped_inputs"][k]
        assert reported["share"] == pytest.approx(beyond.mean(), abs=1e-4)
        assert reported["most_share"] == pytest.approx(beyond.mean(axis=0).max(), abs=0.02)
        assert reported["most_feature"] in FEATURE_NAMES
        # Float16 costs a tenth of what int8 does.
        half, int8 = card["fp16_difference"][k], card["int8_difference"][k]
        for name in half:
            assert half[name]["mean"] < max(0.2 * int8[name]["mean"], 1e-4)


def test_an_ensemble_whose_intensity_int8_changes_too_much_is_refused(trained, tmp_path, monkeypatch, quick_export):
    monkeypatch.setattr(install, "intensity_difference", lambda *_: {"mean": 0.02, "p99": 0.02})
    result = sigmahat("export", trained[0], "--model-repository", tmp_path)
    assert result.exit_code == 1
    assert "too much; intensity: mean 0.0200 above 0.01" in result.stderr
    assert contents(tmp_path) == {}


def test_readable_card_says_the_same_as_the_card(exported):
    card, page = model_card.read_card(exported[0]), (exported[0] / "MODEL_CARD.md").read_text()
    lines = page.splitlines()
    assert f"| north | 14 | {DATES[0]} | {VALIDATE_UNTIL} |" in lines  # the days after that were not used
    assert "60 training windows" in page
    assert "seeds 0 to 2" in page
    for name, values in card["constants"].items():
        assert f"| {name} | {' '.join(f'{value:.3f}' for value in values)} |" in lines
    losses = [card["validation_of_constants"]["decision"]]
    losses += [member["validation_decision"] for member in card["validation_of_members"]]
    assert any(line.endswith(f"| {' | '.join(f'{loss:.4f}' for loss in losses)} | ") for line in lines)
    regime = [f"{member['regime']['mean']:.4f}, {member['regime']['p99']:.4f}" for member in card["int8_difference"]]
    assert f"| regime | {' | '.join(regime)} | " in lines
    clipped = [f"{100 * member['share']:.2f} %" for member in card["clipped_inputs"]]
    assert f"| inputs beyond ±6, where INT8 and FP32 are limited | {' | '.join(clipped)} | " in lines
    tables = [list(rows) for is_row, rows in itertools.groupby(lines, lambda line: line.startswith("|")) if is_row]
    assert len(tables) == 4
    assert "Preprocessing (" not in page
    for rows in tables:
        assert len({row.count("|") for row in rows}) == 1, rows
        assert len(rows) >= 4


def test_members_with_preprocessing_are_trained_exported_and_described(data, tmp_path, monkeypatch):
    monkeypatch.setattr(ensemble, "VALIDATION_SAMPLES", 36)
    monkeypatch.setattr(importance, "IMPORTANCE_SAMPLES", 16)
    run, repository = tmp_path / "run", tmp_path / "repository"
    repository.mkdir()
    arguments = ["--data", data, "--out", run, "--train-until", TRAIN_UNTIL, "--validate-until", VALIDATE_UNTIL]
    switches = ["--selected-features", "40", "--rank-transform", "all", "--principal-components", "12"]
    switches += ["--median-imputation", "on", "--expanding-normalisation", "on"]
    result = sigmahat("train", *arguments, *TINY, "--members", 1, *switches)
    assert result.exit_code == 0, (result.output, result.exception)
    (network,) = [load_member(run / "member_1.safetensors", feature_names=FEATURE_NAMES).network]
    assert list(network.preprocessing.keys()) == ["imputation", "ranks", "selection", "components"]
    assert network.preprocessing.names(FEATURE_NAMES) == tuple(f"component_{k}" for k in range(1, 13))
    result = sigmahat("export", run, "--model-repository", repository)  # past the gate, in every precision
    assert result.exit_code == 0, (result.output, result.exception)
    card, page = model_card.read_card(repository), (repository / "MODEL_CARD.md").read_text()
    assert card["clipped_inputs"][0]["most_feature"].startswith("component_")
    expected = "expanding_normalisation on, median_imputation on, rank_transform all, selected_features 40, "
    assert f": {expected}principal_components 12.\n\n|" in page


def test_export_into_an_empty_folder(trained, tmp_path, quick_export):
    assert sigmahat("export", trained[0], "--model-repository", tmp_path).exit_code == 0
    assert set(contents(tmp_path)) == MEMBERS | CARDS | {"manifest.json"}


def test_a_member_that_int8_changes_too_much_leaves_the_repository_untouched(
    trained, tmp_path, monkeypatch, quick_export
):
    """Though those before it passed."""
    repository = repository_with_old_members(tmp_path / "model_repository")
    before = contents(repository)
    measured = []
    real = install.int8_difference

    def last_is_bad(network, path, features):
        difference = real(network, path, features)
        measured.append(difference)
        if len(measured) == len(MEMBERS):
            difference = difference | {"memory": {"mean": 0.02, "p99": 0.01}}
        return difference

    monkeypatch.setattr(install, "int8_difference", last_is_bad)
    result = sigmahat("export", trained[0], "--model-repository", repository)
    assert result.exit_code == 1
    assert "Error: int8 changes the answers too much; memory: mean 0.0200 above 0.01" in result.stderr
    assert len(measured) == len(MEMBERS)
    assert contents(repository) == before


def test_gate_measures_on_validation_rows_and_calibration_uses_training_rows(
    trained, tmp_path, monkeypatch, quick_export
):
    rows = np.load(trained[0] / "features.npz")
    seen = {"calibration": [], "validation": []}
    real_quantize, real_difference = install.quantize, install.int8_difference

    def quantize(network, features):
        seen["calibration"].append(features.numpy())
        return real_quantize(network, features)

    def difference(network, path, features):
        seen["validation"].append(features)
        return real_difference(network, path, features)

    monkeypatch.setattr(install, "quantize", quantize)
    monkeypatch.setattr(install, "int8_difference", difference)
    assert sigmahat("export", trained[0], "--model-repository", tmp_path).exit_code == 0
    for name, given in seen.items():
        assert len(given) == (N_MEMBERS if name == "calibration" else len(MEMBERS))
        for features in given:
            np.testing.assert_array_equal(features, rows[name])
    training, validation = ({row.tobytes() for row in rows[name]} for name in seen)
    assert len(training) > 40
    assert not training & validation


def run_without(trained, folder, name):
    shutil.copytree(trained[0], folder)
    (folder / name).unlink()
    return folder


@pytest.mark.parametrize("name", ["metrics.json", "features.npz", "member_3.safetensors"])
def test_run_that_is_not_complete_is_an_error_in_plain_words(trained, tmp_path, quick_export, name):
    repository = repository_with_old_members(tmp_path / "model_repository")
    before = contents(repository)
    run = run_without(trained, tmp_path / "run", name)
    result = sigmahat("export", run, "--model-repository", repository)
    assert result.exit_code == 1
    assert not isinstance(result.exception, FileNotFoundError)
    assert name in result.stderr.replace("\n", "")
    assert contents(repository) == before


def test_a_run_of_another_number_of_members_is_refused_before_anything_is_done(trained, tmp_path, monkeypatch):
    repository = repository_with_old_members(tmp_path / "model_repository")
    shutil.rmtree(repository / "member_3")
    before = contents(repository)
    monkeypatch.setattr(install, "quantize", None)
    result = sigmahat("export", trained[0], "--model-repository", repository)
    assert result.exit_code == 1
    said = result.stderr.replace("\n", " ")
    assert "is configured for 2 members, the run has 3" in said
    assert "make_configurations.py --members 3 first" in said
    assert contents(repository) == before


@pytest.mark.parametrize("name", ["member_2.safetensors", "features.npz"])
def test_a_run_whose_file_was_changed_is_refused(trained, tmp_path, quick_export, name):
    repository = repository_with_old_members(tmp_path / "model_repository")
    before = contents(repository)
    shutil.copytree(trained[0], tmp_path / "run")
    changed = bytearray((tmp_path / "run" / name).read_bytes())
    changed[-1] ^= 1
    (tmp_path / "run" / name).write_bytes(changed)
    result = sigmahat("export", tmp_path / "run", "--model-repository", repository)
    assert result.exit_code == 1
    assert f"{name} is not the file that" in result.stderr.replace("\n", "")
    assert contents(repository) == before


def test_members_of_other_features_are_refused(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(install, "FEATURE_NAMES", (*FEATURE_NAMES[:-1], "another"))
    with pytest.raises(CheckpointError):
        install.export_ensemble(trained[0], tmp_path)
    result = sigmahat("export", trained[0], "--model-repository", tmp_path)
    assert result.exit_code == 1
    assert "another" in result.stderr
    assert contents(tmp_path) == {}
