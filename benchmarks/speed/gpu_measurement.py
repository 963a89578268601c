# SPDX-License-Identifier: Apache-2.0
"""How the programs for a GPU node measure: each figure is written as soon as it is known, and what fails is named."""

from __future__ import annotations

import argparse
import json
import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.figures import four_digits, write_figures
from sigmahat_kernels.cuda import device


class Scale(NamedTuple):
    """How much is measured."""

    columns: int  # of the panel
    rows: int
    universes: int  # of a request, or in a call of a solver
    repeats: int
    cells: int  # of the arrays that are copied and multiplied
    rotations: int = 4  # sets of universes taken in turn, so that no run finds its own in the cache


FULL = Scale(columns=3_000, rows=756, universes=8_192, repeats=20, cells=2**27)
REHEARSAL = Scale(columns=60, rows=126, universes=6, repeats=1, cells=2**12, rotations=1)
"""What the emulator does in seconds: every call once, and no figure worth a look."""


class GpuLimits(NamedTuple):
    """What bounds the kernels."""

    n_multiprocessors: int
    clock_hz: float
    single_to_double: int


class Lines:
    """One JSON object a line, on disk before the next is begun: a program that is killed loses nothing.

    Parameters
    ----------
    path : Path or None
        Lines are added; None prints them only.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._started = time.monotonic()

    def add(self, name: str, value: Any, remark: str = "") -> None:
        """Write and print one figure."""
        at = round(time.monotonic() - self._started, 1)
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as file:
                file.write(json.dumps({"name": name, "value": value, "at_s": at}) + "\n")
                file.flush()
                os.fsync(file.fileno())
        shown = f"{value:,g}" if isinstance(value, int | float) else value
        print(f"[{at:5.0f} s] {name}: {shown} {remark}", flush=True)


class Measurement:
    """The figures, written after each part; and the parts that failed."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        import cupy

        self.cupy = cupy
        self.scale = REHEARSAL if arguments.rehearsal else FULL
        properties = cupy.cuda.runtime.getDeviceProperties(device.current_device())
        self.gpu = GpuLimits(
            properties["multiProcessorCount"], 1e3 * _clock_khz(cupy, properties), device.single_to_double_ratio()
        )
        self.figures: dict[str, float] = {}
        self.failed: dict[str, str] = {}
        self.out, self._stop = arguments.out, time.monotonic() + arguments.seconds
        self._lines = Lines(arguments.lines)
        self._facts: dict[str, Any] = {
            "machine": {
                "gpu": properties["name"].decode(),
                "multiprocessors": self.gpu.n_multiprocessors,
                "clock_mhz": round(self.gpu.clock_hz / 1e6),
                "shared_memory_per_block": device.shared_memory_limit(),
                "single_to_double_ratio": self.gpu.single_to_double,
            },
            "versions": {
                "cupy": cupy.__version__,
                "cuda_driver": cupy.cuda.runtime.driverGetVersion(),
                "cuda_runtime": cupy.cuda.runtime.runtimeGetVersion(),
            },
            **({"commit": arguments.commit} if arguments.commit else {}),
        }

    def part(self, name: str, work: Callable[..., None], *arguments: Any) -> None:
        """Run `work(*arguments)`; what it raises is kept under its name, and the rest goes on."""
        if time.monotonic() > self._stop:
            self.failed[name] = "left out: no time left"
        else:
            try:
                work(*arguments)
            except Exception as error:  # a library may refuse a size; the others are still worth having
                self.failed[name] = f"{type(error).__name__}: {error}"
                self._lines.add(f"{name} failed", self.failed[name])
                traceback.print_exc()
                self.cupy.get_default_memory_pool().free_all_blocks()
        self.write()

    def record(self, name: str, value: float, remark: str = "") -> None:
        """Keep and print one figure."""
        self.figures[name] = four_digits(value)
        self._lines.add(name, self.figures[name], remark)

    def write(self) -> None:
        """Replace the result file by what is known so far."""
        write_figures(self.out, self.figures, **self._facts, **({"failed": self.failed} if self.failed else {}))

    def seconds_of(
        self, prepare: Callable[[int], Any], work: Callable[[Any], object], repeats: int | None = None
    ) -> float:
        """Median device time of `work(prepare(turn))`, after two warm-ups; preparing is not timed."""
        begin, end = self.cupy.cuda.Event(), self.cupy.cuda.Event()
        times = []
        for turn in range((repeats or self.scale.repeats) + 2):
            prepared = prepare(turn)
            begin.record()
            work(prepared)
            end.record()
            end.synchronize()
            times.append(1e-3 * self.cupy.cuda.get_elapsed_time(begin, end))
        return float(np.median(times[2:]))

    def finish(self) -> int:
        """Name the parts that failed; the exit code of the program."""
        print(f"{len(self.figures)} figures in {self.out}")
        for name, reason in self.failed.items():
            print(f"failed: {name}: {reason}")
        return 1 if self.failed else 0


def options(description: str, out: Path, seconds: float) -> argparse.ArgumentParser:
    """What every program takes on its command line."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=out)
    parser.add_argument("--lines", type=Path, help="file to which each figure is added as soon as it is known")
    parser.add_argument("--seconds", type=float, default=seconds, help="no part is begun after so long")
    parser.add_argument("--rehearsal", action="store_true", help="everything once, of a size that an emulator can do")
    parser.add_argument("--commit", help="commit of the checkout, where git cannot tell")
    return parser


def needs_gpu(parser: argparse.ArgumentParser) -> None:
    """End the program, with a reason, where CuPy finds no device."""
    try:
        import cupy

        found = cupy.cuda.is_available()
    except ImportError as error:
        parser.exit(2, f"needs CuPy on a machine with a CUDA device: {error}\n")
    if not found:
        parser.exit(2, "needs a CUDA device, and CuPy finds none\n")


def draw_panel(n_obs: int, n_columns: int) -> np.ndarray:
    """Returns with a market, sectors and fat tails; (n_obs, n_columns) float32."""
    rng = np.random.default_rng(0)
    market = rng.standard_t(5, (n_obs, 1)) * rng.normal(1.0, 0.3, n_columns)
    sectors = rng.standard_normal((n_obs, 11))[:, rng.integers(11, size=n_columns)]
    own = rng.standard_t(4, (n_obs, n_columns))
    return (0.008 * market + 0.006 * sectors + 0.012 * own).astype(np.float32)


def draw_universes(n: int, size: int, n_columns: int, seed: int) -> np.ndarray:
    """Sorted columns of `n` universes; (n, size) int64."""
    rng = np.random.default_rng(seed)
    return np.array([np.sort(rng.choice(n_columns, size, replace=False)) for _ in range(n)])


def _clock_khz(cupy: Any, properties: dict[str, Any]) -> float:
    """The highest clock; CUDA 13 took it out of the properties."""
    return properties.get("clockRate") or cupy.cuda.Device().attributes["ClockRate"]
