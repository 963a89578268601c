# SPDX-License-Identifier: Apache-2.0
"""The cache of training samples: what it holds, whoever drew it, and when it must be drawn anew."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from sigmahat_trainer.data import sample_cache as module
from sigmahat_trainer.data.dataset import Sample, draw_dataset, open_dataset
from sigmahat_trainer.data.panels import ReturnPanel
from sigmahat_trainer.data.sample_cache import cached_samples, describe_samples

SETTINGS = {"n_samples": 30, "simulated_share": 0.3, "horizon": 10, "seed": 3, "market_power": 0.5, "first": None}
QUIET = Console(quiet=True)


def panel(name="north", seed=1):
    rng = np.random.default_rng(seed)
    dates = np.busday_offset(np.datetime64("2012-01-02"), np.arange(160), roll="forward")
    returns = 0.01 * rng.standard_normal((160, 14)).astype(np.float32)
    return ReturnPanel(name, returns, dates, rng.uniform(1, 40, (160, 4)).astype(np.float32))


PANELS = [panel(), panel("south", 2)]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(module, "SAMPLES_PER_CHUNK", 12)


def draw(cache, *, workers=1, panels=PANELS, **changes):
    return open_dataset(cached_samples(panels, cache, console=QUIET, workers=workers, **SETTINGS | changes))


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.npy")}


@pytest.fixture
def drawn(monkeypatch):
    """The seeds of the chunks that this process draws."""
    seeds = []

    def spy(panels, **settings):
        seeds.append(settings["seed"])
        return draw_dataset(panels, **settings)

    monkeypatch.setattr(module, "draw_dataset", spy)
    return seeds


def test_the_cache_holds_what_is_drawn_shard_by_shard(tmp_path):
    dataset = draw(tmp_path)
    expected = [
        draw_dataset(PANELS, **SETTINGS | {"n_samples": n, "seed": int(seed.generate_state(1, np.uint64)[0])})
        for n, seed in ((n, np.random.SeedSequence([3, k])) for k, n in enumerate((12, 12, 6)))
    ]
    assert len(dataset) == sum(map(len, expected)) == 30
    for size, stack in dataset.by_size.items():
        holders = [each.by_size[size] for each in expected if size in each.by_size]
        for name in Sample._fields:
            values = getattr(stack, name)
            assert isinstance(values, np.memmap)
            np.testing.assert_array_equal(values, np.concatenate([getattr(each, name) for each in holders]))
    assert len({each.features().tobytes() for each in expected}) == 3  # no chunk repeats another


def test_samples_are_the_same_however_many_processes_draw_them(tmp_path):
    draw(tmp_path / "one")
    draw(tmp_path / "three", workers=3)
    assert contents(tmp_path / "one") == contents(tmp_path / "three") != {}


def test_a_second_run_draws_nothing(tmp_path, drawn):
    first = draw(tmp_path)
    assert len(drawn) == 3
    again = draw(tmp_path, workers=2)
    assert len(drawn) == 3
    np.testing.assert_array_equal(again.features(), first.features())
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())  # no chunks, no draft
    assert (folder / "samples.json").is_file()


def changed(field, cell):
    values = getattr(PANELS[1], field).copy()
    values[cell] += np.array(1, "timedelta64[D]") if field == "dates" else np.float32(1e-3)
    return [PANELS[0], PANELS[1]._replace(**{field: values})]


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 4},
        {"n_samples": 31},
        {"horizon": 11},
        {"market_power": 0.0},
        {"first": "2012-02-01"},
        {"panels": PANELS[:1]},
        {"panels": [PANELS[0]._replace(name="west"), PANELS[1]]},
        {"panels": changed("returns", (100, 3))},
        {"panels": changed("dates", -1)},
        {"panels": changed("market", (100, 1))},
    ],
)
def test_whatever_decides_the_samples_has_its_own_folder(changes):
    same = describe_samples([panel(), panel("south", 2)], **SETTINGS)
    assert same == describe_samples(PANELS, **SETTINGS)
    changes = {"panels": PANELS, **SETTINGS, **changes}
    assert describe_samples(changes.pop("panels"), **changes) != same


def test_other_code_and_other_features_draw_anew(tmp_path, monkeypatch, drawn):
    for name, value in (("seed", 0), ("code_digest", lambda _: "other"), ("FEATURE_NAMES", ("other",))):
        if name != "seed":
            monkeypatch.setattr(module, name, value)
        draw(tmp_path, n_samples=6)
    assert len(drawn) == 3
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 3


KILLED = """
import os, pathlib, signal, sys
sys.path.insert(0, {tests!r})
import test_sample_cache as here
from sigmahat_trainer.data import sample_cache as module
module.SAMPLES_PER_CHUNK = 12
real, seeds = module.draw_dataset, []
def draw(panels, **settings):
    if len(seeds) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    seeds.append(settings["seed"])
    return real(panels, **settings)
module.draw_dataset = draw
here.draw(pathlib.Path({cache!r}))
"""


def test_a_killed_run_leaves_its_finished_chunks_to_the_next(tmp_path, drawn):
    script = KILLED.format(tests=str(Path(__file__).parent), cache=str(tmp_path / "killed"))
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    assert len(list((tmp_path / "killed").rglob("*.npz"))) == 2
    draw(tmp_path / "killed")
    assert len(drawn) == 1
    draw(tmp_path / "whole")
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_two_runs_at_once_draw_each_chunk_once(tmp_path, drawn):
    both = [threading.Thread(target=draw, args=(tmp_path,)) for _ in range(2)]
    for each in both:
        each.start()
    for each in both:
        each.join()
    assert len(drawn) == len(set(drawn)) == 3


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_reaches_the_caller_and_leaves_no_windows(tmp_path, workers):
    with pytest.raises(ValueError, match=r"no panel has \d+ days and a holding period of 300"):
        draw(tmp_path, workers=workers, horizon=300)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []
