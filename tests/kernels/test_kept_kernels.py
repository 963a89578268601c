# SPDX-License-Identifier: Apache-2.0
"""Kernels are compiled once and kept; whatever the place they are kept in is like, the same numbers come out."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kernels.test_compiled_assembly import draw_universes
from kernels.test_covariance import simulate_parameters, simulate_returns
from numba import config, float64, int64

from sigmahat_kernels.assemble import assemble
from sigmahat_kernels.features import compute_features
from sigmahat_kernels.lanes import compiled, kept
from sigmahat_kernels.portfolios import read_portfolios
from sigmahat_kernels.request import read_request
from sigmahat_kernels.risk import measure_portfolios

KERNEL = """
import numpy as np
from sigmahat_kernels.lanes import kept
from sigmahat_kernels.lanes.compiled import compiled_for
from numba import float64, int64

@compiled_for((float64[::1], int64))
def power_sum(x, power):
    total = 0.0
    for i in range(len(x)):
        total += x[i] ** power
    return total

print(power_sum(np.arange(4.0), 2), dict(power_sum.stats.cache_hits) != {}, kept.kept_in())
"""


def run(tmp_path: Path, **environment: str) -> tuple[str, str]:
    """(standard output, standard error) of a process that needs one kernel."""
    program = tmp_path / "kernel.py"
    program.write_text(KERNEL)
    folders = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "NUMBA_CACHE_DIR": ""}
    done = subprocess.run(
        [sys.executable, program],
        env={**os.environ, **folders, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout, done.stderr


def test_a_second_process_loads_what_the_first_compiled_and_waits_in_silence(tmp_path: Path) -> None:
    stdout, stderr = run(tmp_path)
    (folder,) = (tmp_path / "cache" / "sigmahat").iterdir()
    assert stdout == f"14.0 False {folder}\n"
    assert stderr == f"compiling kernels for this CPU, once, some 15 s; they are kept in {folder}\n"
    assert run(tmp_path) == (f"14.0 True {folder}\n", "")


def test_two_processes_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: run(tmp_path)[0], range(2)))
    assert all(stdout.startswith("14.0 ") for stdout in both)
    (folder,) = (tmp_path / "cache" / "sigmahat").iterdir()
    (file,) = folder.iterdir()
    assert sha256(file.read_bytes()[32:]).digest() == file.read_bytes()[:32]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's cache of one's own, in this process."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(config, "CACHE_DIR", "")
    kept.kept_in.cache_clear()
    kept._say_once.cache_clear()
    yield tmp_path / "cache" / "sigmahat"
    kept.kept_in.cache_clear()


def power_sum(x, power):
    total = 0.0
    for i in range(len(x)):
        total += x[i] ** power
    return total


def compile_once():
    """A dispatcher as a new process has it; whether its code was loaded."""
    kernel: Any = compiled.compiled_for((float64[::1], int64))(power_sum)
    assert kernel(np.arange(4.0), 2) == 14.0
    return bool(kernel.stats.cache_hits)


@pytest.mark.parametrize("damage", ["empty", "cut", "one bit", "of another"])
def test_a_damaged_file_is_compiled_anew(place: Path, damage: str) -> None:
    assert not compile_once()
    (file,) = kept.kept_in().iterdir()
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    file.write_bytes({"empty": b"", "cut": whole[:-9], "one bit": bytes(flipped), "of another": b"\x80" * 99}[damage])
    assert not compile_once()
    assert file.read_bytes()[32:34] == whole[32:34]
    assert compile_once()


def test_nowhere_to_keep_them(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    place.parent.write_text("no folder")
    assert kept.kept_in() is None
    assert not compile_once()
    assert not compile_once()
    (record,) = caplog.records  # once
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        "compiling kernels for this CPU, in every process that uses them, some 15 s: "
        "no folder to keep them in can be written, NUMBA_CACHE_DIR names one"
    )


def test_a_folder_that_fills_up(place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def no_space(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept, "write_whole", no_space)
    assert not compile_once()
    assert "every process compiles them anew: [Errno 28] No space left on device" in caplog.messages[-1]


def test_an_image_s_kernels_are_used_and_another_processor_s_are_made_in_the_user_s_cache(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "image"
    monkeypatch.setattr(config, "CACHE_DIR", str(image))
    assert kept.kept_in().parent == image
    assert not compile_once()
    monkeypatch.setattr(
        kept, "_made", lambda folder: image not in folder.parents and folder.mkdir(parents=True) is None
    )
    kept.kept_in.cache_clear()
    assert kept.kept_in().parent == image  # read-only from here on, and good
    assert compile_once()
    monkeypatch.setattr(kept, "_key", lambda: "kernels-of-another-processor")
    kept.kept_in.cache_clear()
    assert kept.kept_in() == place / "kernels-of-another-processor"
    assert not compile_once()


def test_every_source_of_the_package_counts_whatever_its_time_and_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lanes").mkdir()
    constant = tmp_path / "constant.py"
    constant.write_text("LIMIT = 3.0\n")
    (tmp_path / "lanes" / "vectors.py").write_text("")
    monkeypatch.setattr(kept, "_PACKAGE", tmp_path)
    before, time = kept._key(), constant.stat()
    assert kept._key() == before
    constant.write_text("LIMIT = 4.0\n")
    os.utime(constant, ns=(time.st_atime_ns, time.st_mtime_ns))
    assert kept._key() != before


def test_another_user_s_folder_is_not_read(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not compile_once()
    kept.kept_in.cache_clear()
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    monkeypatch.setattr(Path, "stat", lambda path, **options: os.stat_result((0o40755, 0, 0, 2, 999, 0, 0, 0, 0, 0)))
    assert kept.kept_in() is None


def test_few_old_folders_are_left(place: Path) -> None:
    for age in range(20):
        folder = place / f"kernels-{age:02}"
        folder.mkdir(parents=True)
        os.utime(folder, (1e9 - age, 1e9 - age))
    (place / "perf_analyzer").mkdir()
    own = kept.kept_in()
    left = {folder.name for folder in place.iterdir()}
    assert left == {own.name, "perf_analyzer", *(f"kernels-{age:02}" for age in range(15))}


# -------------------------------------------------------------------------------------------------- whether at all


@pytest.fixture
def asked_anew() -> None:
    compiled.can_compile.cache_clear()
    yield
    compiled.can_compile.cache_clear()


def test_a_compiler_that_fails_is_said_once_and_numpy_does_the_work(
    asked_anew: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(name: str) -> None:
        raise RuntimeError("no such target 'x'\nmore of it")

    monkeypatch.setattr(compiled, "import_module", fail)
    assert not compiled.can_compile()
    assert not compiled.can_compile()
    assert caplog.messages == [
        "kernels cannot be compiled, so NumPy and LAPACK do their work, slower: no such target 'x'"
    ]


def test_without_numba_or_with_it_switched_off_nothing_is_said(
    asked_anew: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(config, "DISABLE_JIT", 1)
    assert not compiled.can_compile()
    compiled.can_compile.cache_clear()
    monkeypatch.setitem(sys.modules, "numba", None)
    assert not compiled.can_compile()
    assert not caplog.messages


def test_no_module_with_kernels_is_forgotten() -> None:
    folder = Path(compiled.__file__).parent
    holding = {path.stem for path in folder.glob("*.py") if "\n@compiled_for" in path.read_text()}
    assert holding == set(compiled.KERNELS)


def test_what_python_calls_was_compiled_before_its_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Features in the direct and the dual form, matrices and risk, of universes of many sizes and with gaps."""
    assert compiled.can_compile()
    before = signatures()
    rows = draw_universes(np.random.default_rng(0), 70, [2, 3, 30, 70] * 5)
    for missing in (0.0, 0.05):
        request = read_request(simulate_returns(40, 70, missing=missing), rows)
        table = compute_features(request)
        assert table.solvers == ("lanes",)
        assemble(request, simulate_parameters(20), table.status)
        measure_portfolios(request, simulate_parameters(20), table.status, read_portfolios(request))
    assert signatures() == before


def signatures() -> dict[str, list[Any]]:
    """What each kernel was compiled for."""
    modules = [import_module(f"sigmahat_kernels.lanes.{name}") for name in compiled.KERNELS]
    found = {f"{m.__name__}.{name}": value for m in modules for name, value in vars(m).items()}
    return {name: list(value.signatures) for name, value in found.items() if hasattr(value, "signatures")}
