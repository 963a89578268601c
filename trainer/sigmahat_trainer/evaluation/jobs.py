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
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from threadpoolctl import threadpool_limits

from sigmahat_kernels.pipeline import Pipeline
from sigmahat_trainer.baselines.adapters import (
    Estimator,
    checkpoint_pipeline,
    closed_form,
    learned_constants,
    run_constants,
    served,
)
from sigmahat_trainer.baselines.average_oracle import average_oracle
from sigmahat_trainer.baselines.closed_form import BASELINES, Baseline
from sigmahat_trainer.baselines.dcc import dcc_nl
from sigmahat_trainer.baselines.learned import Fitted, load_fitted
from sigmahat_trainer.baselines.rienet import rienet
from sigmahat_trainer.data.episodes import sizes_of
from sigmahat_trainer.data.panels import ReturnPanel, load_panel
from sigmahat_trainer.evaluation.designs import evaluate_design
from sigmahat_trainer.evaluation.rolling import Cell, Methods, Period, evaluate, plan
from sigmahat_trainer.export.card import read_card

SERVED = "sigmahat"


class Sources(NamedTuple):
    """Where the methods come from; what is left out is not compared."""

    model_repository: Path | None = None  # INT8 members as they are served: the method `sigmahat`
    runs: tuple[Path, ...] = ()  # folders of `sigmahat train`, float32: methods named for the folders
    fitted: Path | None = None  # folder of `sigmahat fit-baselines`
    hindsight: bool = True
    dcc: bool = False  # a GARCH for every asset at every date: about 10 ms each


class Settings(NamedTuple):
    """Of an evaluation."""

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
    """What an evaluation found, one row as `evaluate.Evaluation` and `designs.evaluate_design` say."""

    scores: pd.DataFrame
    heads: pd.DataFrame
    simulated: pd.DataFrame


class Jobs(NamedTuple):
    """What there is to do, and why some of it cannot be done."""

    jobs: list[PanelJob | DesignJob]
    left_out: list[str]  # one reason a cell


def plan_jobs(paths: Sequence[Path], designs: Sequence[str], settings: Settings) -> Jobs:
    """The cells of each panel, and each design at every shape of its own grid.

    Sizes that a panel cannot fill are left out (`windows.sizes_of`), and so are cells without a date.

    Raises
    ------
    ValueError
        If a panel has no cell with a date.
    """
    jobs: list[PanelJob | DesignJob] = []
    left_out: list[str] = []
    for path in paths:
        panel, before = _panel(path), len(jobs)
        for size, length in product(sizes_of(panel, settings.sizes), settings.lengths):
            cell = Cell(size, length, settings.horizon)
            try:
                plan(panel, cell, settings.period, draws=1, seed=settings.seed)
            except ValueError as error:
                left_out.append(str(error))
            else:
                jobs.append(PanelJob(path, cell))
        if len(jobs) == before:
            raise ValueError(left_out[-1])
    if settings.simulated_draws:
        jobs += [DesignJob(*shape) for shape in product(designs, settings.simulated_sizes, settings.simulated_lengths)]
    return Jobs(jobs, left_out)


def run_grid(
    jobs: Sequence[PanelJob | DesignJob], sources: Sources, settings: Settings, *, processes: int, console: Console
) -> Rows:
    """Do all jobs, the large ones first.

    Raises
    ------
    ValueError
        If a panel has no date with enough assets.
    MemberError, CheckpointError, FileNotFoundError
        If a source is not there or cannot be used.
    """
    jobs = sorted(jobs, key=lambda job: -_cost(job))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    done: list[Rows] = []
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("cells", total=len(jobs))
        for rows in _results(jobs, sources, settings, processes):
            done.append(rows)
            progress.advance(task)
    return Rows(*(_sorted(pd.concat(frames, ignore_index=True)) for frames in zip(*done, strict=True)))


def load_methods(sources: Sources, place: tuple[str, Cell] | None) -> Methods:
    """All that can be compared on a panel, by name, and cell; an Average Oracle if one was fitted to their shape.

    On simulated returns, None, there is no oracle, no hindsight and no DCC.
    """
    loaded = _load(sources)
    forms: dict[str, Baseline] = dict(BASELINES)
    estimators: dict[str, Estimator] = {name: closed_form(form) for name, form in forms.items()}
    if place is not None:
        panel, cell = place
        oracles = loaded.fitted.oracles if loaded.fitted is not None else {}
        if (panel, cell.n_assets, cell.n_obs) in oracles:
            estimators["average_oracle"] = closed_form(average_oracle(oracles[panel, cell.n_assets, cell.n_obs]))
        if sources.dcc:
            estimators["dcc_nl"] = dcc_nl(cell.horizon)
    if loaded.fitted is not None and loaded.fitted.rienet is not None:
        estimators["rienet"] = rienet(loaded.fitted.rienet)
    estimators |= {name: learned_constants(constants) for name, constants in loaded.constants.items()}
    hindsight = loaded.constants.get("tilted_constants") if sources.hindsight and place is not None else None
    return Methods(estimators, loaded.pipelines, hindsight)


class _Loaded(NamedTuple):
    pipelines: dict[str, Pipeline]
    constants: dict[str, dict[str, list[float]]]
    fitted: Fitted | None


@cache
def _load(sources: Sources) -> _Loaded:
    """The refitted constants win over those of the members: they have seen no simulated returns."""
    pipelines = {run.resolve().name: checkpoint_pipeline(run) for run in sources.runs}
    constants = {"tilted_constants": run_constants(sources.runs[0])} if sources.runs else {}
    if sources.model_repository is not None:
        pipelines[SERVED] = Pipeline(sources.model_repository)
        constants = {"tilted_constants": read_card(sources.model_repository)["constants"]}
    fitted = load_fitted(sources.fitted) if sources.fitted is not None else None
    return _Loaded(pipelines, fitted.constants if fitted else constants, fitted)


@cache
def _panel(path: Path) -> ReturnPanel:
    return load_panel(path)


def _results(
    jobs: Sequence[PanelJob | DesignJob], sources: Sources, settings: Settings, processes: int
) -> Iterator[Rows]:
    if processes == 1:
        for job in jobs:
            yield _work(job, sources, settings)
        return
    context = multiprocessing.get_context("spawn")  # a forked process would inherit torch's threads in mid-air
    with ProcessPoolExecutor(min(processes, len(jobs)), mp_context=context) as pool:
        futures = [pool.submit(_work, job, sources, settings) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _work(job: PanelJob | DesignJob, sources: Sources, settings: Settings) -> Rows:
    """One job, on one thread of BLAS and of torch: the processes fill the cores."""
    import torch

    torch.set_num_threads(1)
    with threadpool_limits(limits=1):
        return _score(job, sources, settings)


def _score(job: PanelJob | DesignJob, sources: Sources, settings: Settings) -> Rows:
    nothing = pd.DataFrame()
    if isinstance(job, DesignJob):
        methods = load_methods(sources, None)
        estimators = {**methods.estimators, **{name: served(p) for name, p in methods.pipelines.items()}}
        rows = evaluate_design(*job, estimators, draws=settings.simulated_draws, seed=settings.seed)
        return Rows(nothing, nothing, rows)
    panel = _panel(job.path)
    methods = load_methods(sources, (panel.name, job.cell))
    found = evaluate(panel, job.cell, settings.period, methods, draws=settings.draws, seed=settings.seed)
    return Rows(found.scores, found.heads, nothing)


def _cost(job: PanelJob | DesignJob) -> float:
    n_assets, n_obs = job.cell[:2] if isinstance(job, PanelJob) else job[1:]
    return float(n_assets**2 * (n_assets + n_obs))


def _sorted(rows: pd.DataFrame) -> pd.DataFrame:
    """The order of the jobs' ends is chance; that of methods within a date is kept."""
    keys = [k for k in ("panel", "design", "n_assets", "n_obs", "horizon", "date", "draw") if k in rows]
    return rows.sort_values(keys, kind="stable", ignore_index=True) if keys else rows
