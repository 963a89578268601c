# SPDX-License-Identifier: Apache-2.0
"""``sigmahat evaluate``, ``figures`` and ``fit-baselines``."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click
import numpy as np
from rich.console import Console

from sigmahat_kernels.files import check_new, new_folder, write_whole
from sigmahat_trainer.commands.options import (
    any_folder,
    existing_folder,
    plain_errors,
    say,
    say_next,
    train_until,
)
from sigmahat_trainer.data.split import PERIODS, Period

if TYPE_CHECKING:
    from sigmahat_trainer.evaluation.jobs import Rows

HEADLINE, EVERYTHING = "evaluation.json", "figures.json"
"""Files of figures: those that tables and pictures read, and all of them."""

_panels = click.argument("panels", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))


def _numbers(context: click.Context, parameter: click.Parameter, text: str) -> tuple[int, ...]:
    try:
        values = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"whole numbers, parted by commas, are wanted; got {text!r}") from None
    if min(values) < 2:
        raise click.BadParameter(f"numbers from 2 on are wanted, got {min(values)}")
    return values


def _numbers_if_any(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[int, ...] | None:
    return None if text is None else _numbers(context, parameter, text)


def _none_or_several(context: click.Context, parameter: click.Parameter, draws: int) -> int:
    if draws == 1:
        raise click.BadParameter("0 or at least 2 draws of each design are wanted, got 1: standard errors need two")
    return draws


def _period(context: click.Context, parameter: click.Parameter, text: str) -> Period:
    if text in PERIODS:
        return PERIODS[text]
    first, colon, last = text.partition(":")
    try:
        if not colon:
            raise ValueError
        bounds = [np.datetime64(day, "D") for day in (first, last) if day]
    except ValueError:
        raise click.BadParameter(f"{', '.join(PERIODS)} or FIRST:LAST (ISO dates) is wanted, got {text!r}") from None
    if not first or (len(bounds) == 2 and bounds[0] >= bounds[1]):
        raise click.BadParameter(f"the first day must be given and lie before the last, got {text!r}")
    return Period(first, last or None)


_sizes = click.option(
    "--n",
    "sizes",
    default="50,100,200",
    show_default=True,
    callback=_numbers,
    help="Assets of a universe; a panel too small for all gets four fifths of its own.",
)
_lengths = click.option(
    "--window",
    "lengths",
    default="126,252,504",
    show_default=True,
    callback=_numbers,
    help="Rows that an estimator sees.",
)
_horizon = click.option(
    "--horizon", default=21, show_default=True, type=click.IntRange(2), help="Rows for which a portfolio is held."
)
_out = click.option(
    "--out",
    type=any_folder,
    required=True,
    help="Folder that is made for the results; it must not exist.",
)
_resamples = click.option(
    "--resamples", default=4_999, show_default=True, type=click.IntRange(0), help="Of the bootstrap test of variances."
)


@click.command("fit-baselines")
@_panels
@_sizes
@_lengths
@_horizon
@train_until
@click.option(
    "--windows",
    default=12_000,
    show_default=True,
    type=click.IntRange(1),
    help="For the constants, the ridge and RIEnet.",
)
@click.option(
    "--oracle-windows", default=400, show_default=True, type=click.IntRange(1), help="For each Average Oracle."
)
@click.option("--rienet-epochs", default=8, show_default=True, type=click.IntRange(0), help="0 leaves RIEnet out.")
@click.option("--seed", default=0, show_default=True)
@_out
def fit_baselines(
    panels: tuple[Path, ...],
    sizes: tuple[int, ...],
    lengths: tuple[int, ...],
    horizon: int,
    train_until: str,
    windows: int,
    oracle_windows: int,
    rienet_epochs: int,
    seed: int,
    out: Path,
) -> None:
    """Fit the baselines that learn (constants, a ridge of volatilities, Average Oracle, RIEnet) to PANELS.

    These are files of returns as `sigmahat estimate` reads them, or folders of such.
    """
    from sigmahat_trainer.baselines.learned import fit_baselines as fit
    from sigmahat_trainer.data.panels import load_panel, panel_files
    from sigmahat_trainer.data.split import split_panels

    console = Console(stderr=True)
    with plain_errors(), new_folder(out) as folder:
        files = panel_files(panels)
        split = split_panels([load_panel(path) for path in files], train_until=train_until, console=console)
        fit(
            split.training,
            folder,
            sizes=sizes,
            lengths=lengths,
            horizon=horizon,
            windows=windows,
            oracle_windows=oracle_windows,
            epochs=rienet_epochs,
            seed=seed,
            console=console,
        )
    say_next(console, f"sigmahat evaluate {shlex.join(map(str, panels))} --baselines {out} --out {out}-validation")


@click.command()
@_panels
@click.option(
    "--model-repository",
    type=existing_folder,
    default=None,
    help="INT8 members, as they are served.  [default: those that come with this package, unless --run is given]",
)
@click.option(
    "--run",
    "runs",
    multiple=True,
    type=existing_folder,
    help="Folder of `sigmahat train` (float32) or a model repository; may be repeated, an ensemble each.",
)
@click.option("--baselines", type=existing_folder, default=None, help="Folder of `sigmahat fit-baselines`.")
@_sizes
@_lengths
@_horizon
@click.option(
    "--period",
    default="validation",
    show_default=True,
    callback=_period,
    help="validation (2013-2015), test (from 2016 on) or FIRST:LAST. A panel that begins after 2012 is "
    "validated on its first third and tested on what follows.",
)
@click.option("--draws", default=4, show_default=True, type=click.IntRange(1), help="Universes at each date.")
@click.option(
    "--simulated-draws",
    default=20,
    show_default=True,
    type=click.IntRange(0),
    callback=_none_or_several,
    help="Of each design with known truth, 2 at least; 0 for none.",
)
@click.option(
    "--simulated-n",
    "simulated_sizes",
    callback=_numbers_if_any,
    help="Assets of a design; the protocol: 30,50,100,200,500.  [default: as --n]",
)
@click.option(
    "--simulated-window",
    "simulated_lengths",
    callback=_numbers_if_any,
    help="Rows of a design; the protocol: 63,126,252,504.  [default: as --window]",
)
@click.option(
    "--hindsight/--no-hindsight",
    default=True,
    show_default=True,
    help="Fit the best constants to the very period, as a bound.",
)
@click.option(
    "--dcc/--no-dcc",
    default=False,
    show_default=True,
    help="Compare with DCC-NL too, on PANELS: about 10 ms for each asset at each date.",
)
@_resamples
@click.option("--processes", default=None, type=click.IntRange(1), help="Side by side.  [default: one a core]")
@click.option("--seed", default=0, show_default=True)
@_out
def evaluate(
    panels: tuple[Path, ...],
    model_repository: Path | None,
    runs: tuple[Path, ...],
    baselines: Path | None,
    sizes: tuple[int, ...],
    lengths: tuple[int, ...],
    horizon: int,
    period: Period,
    draws: int,
    simulated_draws: int,
    simulated_sizes: tuple[int, ...] | None,
    simulated_lengths: tuple[int, ...] | None,
    hindsight: bool,
    dcc: bool,
    resamples: int,
    processes: int | None,
    seed: int,
    out: Path,
) -> None:
    """Compare the ensemble with every baseline, rolling and out of sample, on PANELS and on simulated designs.

    Portfolios are of minimum variance (with short sales and without), trackers of all assets by a random half of them,
    and random ones. PANELS are files of returns as `sigmahat estimate` reads them, or folders of such.

    OUT receives first scores.parquet (a row a panel, cell, date and method), heads.parquet (a row a universe: what the
    auxiliary heads said and what came of it) and simulated.parquet (a row a draw of a design); then evaluation.json
    (the figures that tables and pictures read), figures.json (all of them) and pictures. `sigmahat figures OUT` makes
    the latter three of the rows again. If a cell fails, the rows of those that ended are kept.
    """
    from sigmahat_kernels.parallel import available_threads
    from sigmahat_kernels.released import released_repository
    from sigmahat_trainer.data.panels import panel_files
    from sigmahat_trainer.evaluation.designs import DESIGNS
    from sigmahat_trainer.evaluation.jobs import Extent, plan_jobs, run_jobs
    from sigmahat_trainer.evaluation.methods import Sources
    from sigmahat_trainer.provenance import provenance

    if model_repository is None and not runs:
        model_repository = released_repository()
    console = Console(stderr=True)
    sources = Sources(model_repository, runs, baselines, hindsight, (("dcc_nl", 1),) if dcc else ())
    shapes = sizes, lengths, horizon, period, draws
    extent = Extent(*shapes, simulated_draws, simulated_sizes or sizes, simulated_lengths or lengths, seed)
    described = {**extent._asdict(), "period": [period.first, period.last]}
    described |= {
        "runs": [run.name for run in runs],
        "fitted": baselines is not None,
        "hindsight": hindsight,
        "dcc": dcc,
    }
    source = provenance()  # of what starts, whatever is changed meanwhile
    with plain_errors():
        check_new(out)
        files = panel_files(panels)
        described["panels"] = [path.stem for path in files]
        jobs, left_out = plan_jobs(files, list(DESIGNS), extent)
        for reason in left_out:
            console.print(f"left out: {reason}")
        done: list[Rows] = []
        try:
            # One by one: what came before an error is in the list.
            done.extend(run_jobs(jobs, sources, extent, processes=processes or available_threads(), console=console))
        finally:
            if len(done) < len(jobs):
                left_out.append(f"{len(jobs) - len(done)} of {len(jobs)} cells: the evaluation ended before them")
            if done:
                _write_rows(done, out, {**source, "settings": {**described, "left_out": left_out}})
                again = f"to make figures and pictures of them again: sigmahat figures {out}"
                say(console, f"rows of {len(done)} of {len(jobs)} cells are in {out}; {again}")
        _make_figures(out, resamples=resamples, console=console)
    say_next(console, f"sigmahat export {runs[0]}" if runs else "sigmahat serve")


@click.command()
@click.argument("folder", type=existing_folder)
@_resamples
def figures(folder: Path, resamples: int) -> None:
    """Make figures and pictures again of the rows that `sigmahat evaluate` wrote into FOLDER."""
    with plain_errors():
        _make_figures(folder, resamples=resamples, console=Console(stderr=True))


def _write_rows(done: Sequence[Rows], out: Path, content: dict[str, Any]) -> None:
    from sigmahat_trainer.evaluation.jobs import save_rows

    with new_folder(out) as folder:
        save_rows(done, folder)
        (folder / HEADLINE).write_text(json.dumps(content, indent=1) + "\n")


def _make_figures(folder: Path, *, resamples: int, console: Console) -> None:
    """What there is stays until something takes its place: a file is written as soon as it can be."""
    from sigmahat_trainer.evaluation.figures import make_figures
    from sigmahat_trainer.evaluation.jobs import load_rows
    from sigmahat_trainer.evaluation.plots import draw_plots
    from sigmahat_trainer.evaluation.results import headline, in_few_lines, to_json
    from sigmahat_trainer.evaluation.tables import show

    rows = load_rows(folder)
    described = json.loads((folder / HEADLINE).read_text())
    with console.status("testing the differences"):
        found = make_figures(*rows, resamples=resamples)
    for name, part in ((EVERYTHING, found), (HEADLINE, headline(found, list(found.heads)))):
        text = in_few_lines({**described, "figures": to_json(part)}) + "\n"
        write_whole(folder / name, partial(_write, text=text))
    show(found, console)
    with console.status("drawing"):
        draw_plots(rows.scores, rows.heads, found, folder)


def _write(file: IO[bytes], *, text: str) -> None:
    file.write(text.encode())
