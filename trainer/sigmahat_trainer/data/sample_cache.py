# SPDX-License-Identifier: Apache-2.0
"""Training samples drawn once, by many processes, and kept: the next run maps them into memory."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.lib.format import open_memmap
from rich.console import Console
from threadpoolctl import threadpool_limits

from sigmahat_kernels.features import FEATURE_NAMES
from sigmahat_kernels.files import new_folder, write_whole
from sigmahat_kernels.parallel import available_threads
from sigmahat_trainer.data.dataset import UNIVERSES_PER_WINDOW, draw_dataset, open_dataset
from sigmahat_trainer.data.panels import ReturnPanel
from sigmahat_trainer.processes import end_with_parent
from sigmahat_trainer.progress import track
from sigmahat_trainer.provenance import code_digest

SAMPLES_PER_CHUNK = 100 * UNIVERSES_PER_WINDOW
"""A few seconds of work: what a kill costs each process."""


def describe_samples(panels: Sequence[ReturnPanel], **settings: Any) -> dict[str, Any]:
    """Everything that decides what is drawn: arguments of `draw_dataset`, the panels' content, features and code."""
    return {
        **settings,
        "panels": {panel.name: _panel_digest(panel) for panel in panels},
        "samples_per_chunk": SAMPLES_PER_CHUNK,
        "features": list(FEATURE_NAMES),
        "numpy": np.__version__,
        "code": code_digest("sigmahat_trainer.data.dataset"),
    }


def cached_samples(
    panels: Sequence[ReturnPanel], cache: Path, *, console: Console, workers: int | None = None, **settings: Any
) -> Path:
    """Folder, for `open_dataset`, of what `draw_dataset` draws, chunk by chunk, unless the cache holds it already.

    Chunk k is seeded by (seed, k), so the samples are the same whoever draws which. Two runs that want the same samples
    draw them once: the second waits. A run that is killed leaves its finished chunks to the next.

    Parameters
    ----------
    panels : sequence of ReturnPanel
    cache : Path
        Gets one folder for each set of `describe_samples`, which may be deleted at any time between runs.
    console : Console
        Shows the progress.
    workers : int, optional
        Processes that draw; default one per available core.
    **settings
        As of `draw_dataset`.

    Raises
    ------
    ValueError
        As `draw_dataset`.
    """
    started = time.perf_counter()
    description = json.dumps(describe_samples(panels, **settings), sort_keys=True, indent=1)
    folder = cache / hashlib.sha256(description.encode()).hexdigest()[:16]
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not (known := folder.is_dir()):
            _draw(panels, settings, folder, description, workers or available_threads(), console)
        n_samples = len(open_dataset(folder))
    done = "found" if known else "drawn"
    console.print(f"{n_samples:,} samples {done} in {time.perf_counter() - started:.1f} s: {folder}")
    return folder


def _draw(
    panels: Sequence[ReturnPanel],
    settings: dict[str, Any],
    folder: Path,
    description: str,
    workers: int,
    console: Console,
) -> None:
    chunks = folder.with_suffix(".chunks")
    seeds = _chunk_seeds(settings["seed"], -(-settings["n_samples"] // SAMPLES_PER_CHUNK))
    paths = [chunks / f"{k:06d}.npz" for k in range(len(seeds))]
    work = [
        partial(_draw_chunk, path, **settings | {"n_samples": n_samples, "seed": seed})
        for path, n_samples, seed in zip(paths, _chunk_sizes(settings["n_samples"]), seeds, strict=True)
        if not path.exists()
    ]
    bar = partial(track, total=len(paths), completed=len(paths) - len(work), console=console)
    for _ in bar(_run(work, panels, min(workers, len(work))), f"{settings['n_samples']:,} samples"):
        pass
    for left_by_a_kill in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(left_by_a_kill)
    with new_folder(folder) as draft:
        _merge(paths, draft)
        (draft / "samples.json").write_text(description + "\n")
    shutil.rmtree(chunks)


def _chunk_sizes(n_samples: int) -> list[int]:
    return [min(SAMPLES_PER_CHUNK, n_samples - start) for start in range(0, n_samples, SAMPLES_PER_CHUNK)]


def _chunk_seeds(seed: int, n_chunks: int) -> list[int]:
    return [int(np.random.SeedSequence([seed, k]).generate_state(1, np.uint64)[0]) for k in range(n_chunks)]


Work = Callable[[Sequence[ReturnPanel]], None]


def _run(work: Sequence[Work], panels: Sequence[ReturnPanel], workers: int) -> Iterator[None]:
    """Do all the work, in any order; yields after each piece."""
    if workers <= 1:
        yield from (draw(panels) for draw in work)
        return
    context = multiprocessing.get_context("spawn")  # a forked process would inherit torch's threads in mid-air
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_receive, initargs=(panels,)) as pool:
        try:
            yield from (future.result() for future in as_completed([pool.submit(_work, draw) for draw in work]))
        finally:
            pool.shutdown(cancel_futures=True)  # after an error the rest is not wanted


_panels: Sequence[ReturnPanel] = ()
"""In a worker: the panels, sent once and not with every chunk."""


def _receive(panels: Sequence[ReturnPanel]) -> None:
    global _panels
    _panels = panels
    end_with_parent()


def _work(draw: Work) -> None:
    draw(_panels)


def _draw_chunk(path: Path, panels: Sequence[ReturnPanel], **settings: Any) -> None:
    # One BLAS thread: a worker has one core, and more might round otherwise.
    with threadpool_limits(1):
        dataset = draw_dataset(panels, **settings)
    arrays = {
        f"{size}-{name}": values for size, stack in dataset.by_size.items() for name, values in stack._asdict().items()
    }
    path.parent.mkdir(exist_ok=True)
    write_whole(path, lambda file: np.savez(file, **arrays))


def _merge(paths: Sequence[Path], folder: Path) -> None:
    """Set the chunks end to end, as `save_dataset` would have written them, holding one array of one at a time."""
    with ExitStack() as opened:
        files = [opened.enter_context(np.load(path)) for path in paths]
        for name in sorted({name for file in files for name in file.files}):
            holders = [file for file in files if name in file.files]
            counts = [len(file[f"{name.partition('-')[0]}-period"]) for file in holders]
            first = holders[0][name]
            merged = open_memmap(folder / f"{name}.npy", "w+", first.dtype, (sum(counts), *first.shape[1:]))
            for file, stop, count in zip(holders, np.cumsum(counts), counts, strict=True):
                merged[stop - count : stop] = file[name]
            merged.flush()


def _panel_digest(panel: ReturnPanel) -> str:
    digest = hashlib.sha256()
    for values in (panel.returns, panel.dates.astype(np.int64), panel.market):
        digest.update(f"{values.dtype} {values.shape}".encode() + np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()
