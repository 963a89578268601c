# SPDX-License-Identifier: Apache-2.0
"""A whole evaluation: all cells of all panels and all designs, side by side in processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from threadpoolctl import threadpool_limits

from sigmahat_trainer.baselines.adapters import served
from sigmahat_trainer.data.episodes import sizes_of
from sigmahat_trainer.data.panels import ReturnPanel, check_names, load_panel
from sigmahat_trainer.data.split import Period
from sigmahat_trainer.evaluation.designs import evaluate_design
from sigmahat_trainer.evaluation.methods import Place, Sources, load_methods
from sigmahat_trainer.evaluation.rolling import Cell, evaluate, plan
from sigmahat_trainer.evaluation.scores import Score
from sigmahat_trainer.progress import Progress


class Extent(NamedTuple):
    """How far an evaluation goes: its shapes, its dates, its draws."""

    sizes: tuple[int, ...]
    lengths: tuple[int, ...]
    horizon: int
    period: Period
    draws: int
    simulated_draws: int
    simulated_sizes: tuple[int, ...]
    simulated_lengths: tuple[int, ...]
    seed: int


class PanelJob(NamedTuple):
    """One cell of one panel."""

    path: Path
    cell: Cell


class DesignJob(NamedTuple):
    """One shape of one design."""

    design: str
    n_assets: int
    n_obs: int


class Rows(NamedTuple):
    """What an evaluation found, one row as `rolling.Evaluation` and `designs.evaluate_design` say."""

    scores: pd.DataFrame
    heads: pd.DataFrame
    simulated: pd.DataFrame


class Jobs(NamedTuple):
    """What there is to do, and why some of it cannot be done."""

    jobs: list[PanelJob | DesignJob]
    left_out: list[str]  # one reason a cell


def plan_jobs(paths: Sequence[Path], designs: Sequence[str], extent: Extent) -> Jobs:
    """The cells of each panel, and each design at every shape of its own grid.

    Sizes that a panel cannot fill are left out (`episodes.sizes_of`), and so are cells without a date.

    Raises
    ------
    ValueError
        If a panel has no cell with a date, or two have one name.
    """
    check_names(paths)
    jobs: list[PanelJob | DesignJob] = []
    left_out: list[str] = []
    for path in paths:
        panel, before = _panel(path), len(jobs)
        for size, length in product(sizes_of(panel, extent.sizes), extent.lengths):
            cell = Cell(size, length, extent.horizon)
            try:
                plan(panel, cell, extent.period, draws=1, seed=extent.seed)
            except ValueError as error:
                left_out.append(str(error))
            else:
                jobs.append(PanelJob(path, cell))
        if len(jobs) == before:
            raise ValueError(left_out[-1])
    if extent.simulated_draws:
        jobs += [DesignJob(*shape) for shape in product(designs, extent.simulated_sizes, extent.simulated_lengths)]
    return Jobs(jobs, left_out)


def run_jobs(
    jobs: Sequence[PanelJob | DesignJob], sources: Sources, extent: Extent, *, processes: int, console: Console
) -> Iterator[Rows]:
    """Do all jobs, the large ones first; yields the rows of each as it ends.

    Raises
    ------
    ValueError
        If a panel has no date with enough assets.
    MemberError, CheckpointError, FileNotFoundError
        If a source is not there or cannot be used.
    """
    jobs = sorted(jobs, key=lambda job: -_cost(job))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("cells", total=len(jobs))
        for rows in _results(jobs, sources, extent, processes):
            yield rows
            progress.advance(task)


@cache
def _panel(path: Path) -> ReturnPanel:
    return load_panel(path)


def save_rows(done: Sequence[Rows], folder: Path) -> None:
    """Write a Parquet file a table, of all that `run_jobs` yielded; none for an empty one."""
    for name, tables in zip(Rows._fields, zip(*done, strict=True), strict=True):
        table = _sorted(pd.concat(tables, ignore_index=True))
        if not table.empty:
            table.to_parquet(folder / f"{name}.parquet", index=False, compression="zstd")


def load_rows(folder: Path) -> Rows:
    """Read what `save_rows` wrote.

    Raises
    ------
    FileNotFoundError
        If there are no rows.
    ValueError
        If an earlier version wrote them.
    """
    paths = {name: folder / f"{name}.parquet" for name in Rows._fields}
    if not any(path.is_file() for path in paths.values()):
        raise FileNotFoundError(f"{folder} has no rows (*.parquet): is it a folder that `sigmahat evaluate` wrote?")
    rows = Rows(*(pd.read_parquet(path) if path.is_file() else pd.DataFrame() for path in paths.values()))
    lacking = [name for name in ("until", *Score._fields) if name not in rows.scores and not rows.scores.empty]
    if lacking:
        raise ValueError(
            f"the rows in {folder} lack {', '.join(lacking)}: an earlier version wrote them, evaluate again"
        )
    return rows


def _results(jobs: Sequence[PanelJob | DesignJob], sources: Sources, extent: Extent, processes: int) -> Iterator[Rows]:
    if processes == 1:
        for job in jobs:
            yield _work(job, sources, extent)
        return
    context = multiprocessing.get_context("spawn")  # a forked process would inherit torch's threads in mid-air
    with ProcessPoolExecutor(min(processes, len(jobs)), mp_context=context) as pool:
        futures = [pool.submit(_work, job, sources, extent) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _work(job: PanelJob | DesignJob, sources: Sources, extent: Extent) -> Rows:
    """One job, on one thread of BLAS and of torch: the processes fill the cores."""
    import torch

    torch.set_num_threads(1)
    with threadpool_limits(limits=1):
        return _score(job, sources, extent)


def _score(job: PanelJob | DesignJob, sources: Sources, extent: Extent) -> Rows:
    nothing = pd.DataFrame()
    if isinstance(job, DesignJob):
        methods = load_methods(sources, None)
        estimators = {**methods.estimators, **{name: served(p) for name, p in methods.pipelines.items()}}
        rows = evaluate_design(*job, estimators, draws=extent.simulated_draws, seed=extent.seed)
        return Rows(nothing, nothing, rows)
    panel = _panel(job.path)
    methods = load_methods(sources, Place(panel.name, *job.cell))
    found = evaluate(panel, job.cell, extent.period, methods, draws=extent.draws, seed=extent.seed)
    return Rows(found.scores, found.heads, nothing)


def _cost(job: PanelJob | DesignJob) -> float:
    n_assets, n_obs = job.cell[:2] if isinstance(job, PanelJob) else job[1:]
    return float(n_assets**2 * (n_assets + n_obs))


def _sorted(rows: pd.DataFrame) -> pd.DataFrame:
    """The order of the jobs' ends is chance; that of methods within a date is kept."""
    keys = [k for k in ("panel", "design", "n_assets", "n_obs", "horizon", "date", "draw") if k in rows]
    return rows.sort_values(keys, kind="stable", ignore_index=True) if keys else rows
