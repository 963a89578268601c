# SPDX-License-Identifier: Apache-2.0
"""Every estimator there is against the ensemble, out of sample, into ``results/tournament.json`` and ``.png``.

    python -m benchmarks.accuracy.tournament PANELS --members model_repository --ensemble runs/2 --ensemble runs/3

PANELS are files of returns or folders of such. Beside the baselines of ``sigmahat evaluate`` there are CM-IEWMA, HAR
volatilities, DCC-NL and the estimators of other packages, as far as these are installed:

    pip install --constraint constraints.txt --constraint constraints-tournament.txt '.[tournament]'

The slow ones are asked at a part of the dates, and compared with the others at these. What each cell found is kept in
``--rows`` as soon as it has ended: the same command goes on from there. ``--ensemble`` names further ensembles, folders
of ``sigmahat train`` or model repositories: of those the spread is given, market by market.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from rich.console import Console

from benchmarks.accuracy.standings import (
    RISK,
    Standings,
    differences_table,
    make_standings,
    markets_table,
    portfolios_table,
)
from benchmarks.figures import RESULTS, write_figures
from sigmahat_kernels.files import write_whole
from sigmahat_kernels.parallel import available_threads
from sigmahat_trainer.data.panels import panel_files
from sigmahat_trainer.data.split import PERIODS, Period
from sigmahat_trainer.evaluation.figures import make_figures
from sigmahat_trainer.evaluation.jobs import Extent, PanelJob, Rows, plan_jobs, run_jobs
from sigmahat_trainer.evaluation.methods import CONTESTANTS, Sources, installed_contestants
from sigmahat_trainer.evaluation.plots import TWO_SIDED, gain
from sigmahat_trainer.evaluation.results import REFERENCE, Difference, to_json
from sigmahat_trainer.evaluation.tables import cut_to_width
from sigmahat_trainer.provenance import code_digest

matplotlib.use("Agg")
from matplotlib import pyplot as plt

RESULT = RESULTS / "tournament.json"
WIDTH = 180


def main(given: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("panels", type=Path, nargs="+", help="files of returns, or folders of such")
    parser.add_argument("--members", type=Path, default=Path("model_repository"), help="the ensemble that is served")
    parser.add_argument("--ensemble", type=Path, action="append", default=[], help="a further one; may be repeated")
    parser.add_argument("--baselines", type=Path, default=None, help="folder of `sigmahat fit-baselines`")
    parser.add_argument("--without", nargs="+", default=[], help="contestants that are not asked, such as dcc_nl")
    parser.add_argument("--period", default="validation", help="validation, test or FIRST:LAST")
    parser.add_argument("--n", type=int, nargs="+", default=[100], help="assets of a universe")
    parser.add_argument("--window", type=int, nargs="+", default=[252], help="rows that an estimator sees")
    parser.add_argument("--horizon", type=int, default=21, help="rows for which a portfolio is held")
    parser.add_argument("--draws", type=int, default=1, help="universes at each date")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=available_threads())
    parser.add_argument("--rows", type=Path, default=Path("out/tournament"), help="what has been found so far")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args(given)
    console = Console(stderr=True)

    first, _, last = arguments.period.partition(":")
    period = PERIODS[first] if first in PERIODS else Period(first, last or None)
    extent = Extent(
        tuple(arguments.n),
        tuple(arguments.window),
        arguments.horizon,
        period,
        arguments.draws,
        0,
        (),
        (),
        arguments.seed,
    )
    contestants, left_out = installed_contestants()
    for name in arguments.without:
        if name not in CONTESTANTS:
            raise ValueError(f"--without: one of {', '.join(CONTESTANTS)} is wanted, got {name}")
        contestants.pop(name, None)
    sources = Sources(
        arguments.members, tuple(arguments.ensemble), arguments.baselines, False, tuple(contestants.items())
    )
    jobs, without = plan(panel_files(arguments.panels, console), extent)
    left_out += without
    for reason in left_out:
        console.print(f"left out: {reason}", soft_wrap=True, markup=False, highlight=False)
    settings: dict[str, Any] = {
        **extent._asdict(),
        "period": list(period),
        "panels": sorted({job.path.stem for job in jobs}),
        "contestants": contestants,
        "ensembles": {folder.resolve().name: _digest(folder) for folder in (arguments.members, *arguments.ensemble)},
        "baselines": arguments.baselines is not None,
        "code": code_digest("sigmahat_trainer.evaluation.jobs"),
    }
    rows = collect(jobs, sources, extent, arguments.rows, settings, processes=arguments.processes, console=console)
    standings = make_standings(rows.scores, rows.heads)
    write_figures(arguments.out, to_json(standings), settings={**settings, "left_out": left_out})
    pipelines = [str(name) for name in rows.heads["method"].unique()]
    draw(standings, rows, pipelines, arguments.out)
    show(standings, pipelines, Console(width=WIDTH))


def plan(files: Sequence[Path], extent: Extent) -> tuple[list[PanelJob], list[str]]:
    """The cells of all panels, and reasons; a panel without a date is left out."""
    jobs: list[PanelJob] = []
    left_out: list[str] = []
    for path in files:
        try:
            planned = plan_jobs([path], [], extent)
        except ValueError as error:
            left_out.append(str(error))
        else:
            jobs += [job for job in planned.jobs if isinstance(job, PanelJob)]
            left_out += planned.left_out
    return jobs, left_out


def collect(
    jobs: Sequence[PanelJob],
    sources: Sources,
    extent: Extent,
    folder: Path,
    settings: dict[str, Any],
    *,
    processes: int,
    console: Console,
) -> Rows:
    """Rows of all jobs; what `folder` has of them already is not done again.

    Raises
    ------
    ValueError
        If the folder holds rows of other settings, other members or other code.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(settings, indent=1, sort_keys=True)
    kept = folder / "settings.json"
    if kept.is_file() and kept.read_text() != text:
        raise ValueError(f"{folder} holds rows of another tournament: remove it, or name another with --rows")
    write_whole(kept, lambda file: file.write(text.encode()))
    waiting = [job for job in jobs if not _paths(folder, job.path.stem, *job.cell[:2])[-1].is_file()]
    if len(waiting) < len(jobs):
        console.print(f"{len(jobs) - len(waiting)} of {len(jobs)} cells are in {folder}")
    if waiting:
        for found in run_jobs(waiting, sources, extent, processes=processes, console=console):
            where = found.scores.iloc[0]
            paths = _paths(folder, where["panel"], where["n_assets"], where["n_obs"])
            # The scores come last: a cell that has them is whole.
            for path, table in zip(paths, (found.heads, found.scores), strict=True):
                write_whole(path, partial(table.to_parquet, index=False))
    tables = [[pd.read_parquet(path) for path in _paths(folder, job.path.stem, *job.cell[:2])] for job in jobs]
    heads, scores = (pd.concat(each, ignore_index=True) for each in zip(*tables, strict=True))
    return Rows(scores, heads, pd.DataFrame())


def _paths(folder: Path, panel: str, n_assets: int, n_obs: int) -> list[Path]:
    return [folder / f"{panel}-{n_assets}-{n_obs}-{name}.parquet" for name in ("heads", "scores")]


def _digest(folder: Path) -> str:
    """Of an ensemble's weights: rows of others must not be taken for its own."""
    files = sorted([*folder.glob("member_*/*/model.onnx"), *folder.glob("member_*.safetensors")])
    if not files:
        raise FileNotFoundError(f"{folder} holds neither member_*/VERSION/model.onnx nor member_*.safetensors")
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def show(standings: Standings, pipelines: Sequence[str], console: Console) -> None:
    """Print the standings, each ensemble market by market, and what differs between ensembles."""
    tables = {
        "less QIS (correlation) over all markets, best likelihood first; below zero is better": differences_table(
            standings
        ),
        "risk without spring 2020, and minimum-variance portfolios": portfolios_table(standings),
        **{
            f"{name} less QIS, and its risk with and without spring 2020": markets_table(standings.methods[name])
            for name in pipelines
        },
    }
    for title, rows in tables.items():
        for table in cut_to_width(
            list(rows[0]), [list(row.values()) for row in rows], width=console.width, title=title
        ):
            console.print(table)
    for market, spreads in standings.ensembles.items():
        spread = spreads["gmv"]
        console.print(
            f"{market}: volatility vs QIS of the ensembles {spread.mean:+.2f} % ± {spread.standard_deviation:.2f}, "
            f"from {spread.lowest:+.2f} to {spread.highest:+.2f}",
            highlight=False,
        )


def draw(standings: Standings, rows: Rows, pipelines: Sequence[str], out: Path) -> None:
    """Beside `out`: the standings as a picture, and the gain by N, T and market of all ensembles."""
    shown = [name for name, one in standings.methods.items() if one.failures < one.dates]
    figure, axes = plt.subplots(1, 4, figsize=(16, 1.5 + 0.25 * len(shown)), layout="constrained", sharey=True)
    places = np.arange(len(shown))
    colours = ["red" if name in pipelines else "black" for name in shown]
    measures = (
        ("gmv", 1.0, "volatility vs QIS, %"),
        ("negative_log_likelihood", 1e3, "likelihood loss vs QIS, millinats"),
    )
    for axis, (field, scale, title) in zip(axes, measures, strict=False):
        for place, name, colour in zip(places, shown, colours, strict=True):
            against = standings.methods[name].against_reference
            found = getattr(against.differences, field) if against else Difference(0.0, 0.0)
            error = TWO_SIDED * abs(found.difference / found.t) if found.t else 0.0
            axis.errorbar(scale * found.difference, place, xerr=scale * error, fmt="o", ms=4, color=colour)
        axis.axvline(0, color="grey", lw=0.8)
        axis.set_xscale("symlog", linthresh=10.0)
        axis.set(xlabel=title)
    for kind, marker in zip(RISK, "osd", strict=True):
        gaps = [standings.methods[name].mean_risk_gap[kind] for name in shown]
        axes[2].plot(gaps, places, marker, ms=4, label=kind.replace("_", " "))
    axes[2].set(xlabel="|bias − 1|, mean over markets", xlim=(0, 0.5))
    axes[2].legend(fontsize="x-small")
    axes[3].plot([standings.methods[name].milliseconds for name in shown], places, "o", ms=4, color="black")
    axes[3].set_xscale("log")
    axes[3].set(xlabel="milliseconds a universe")
    axes[0].set_yticks(places, shown, fontsize="x-small")
    axes[0].invert_yaxis()
    figure.savefig(out.with_suffix(".png"), dpi=110)
    plt.close(figure)
    of_ensembles = rows.scores[rows.scores["method"].isin([*pipelines, REFERENCE])]
    found_figures = make_figures(of_ensembles, pd.DataFrame(), pd.DataFrame(), resamples=0)
    figure = gain(found_figures, pipelines)
    figure.savefig(out.with_name(f"{out.stem}_gain.png"), dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        raise SystemExit(f"Error: {error}") from error
