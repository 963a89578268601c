# SPDX-License-Identifier: Apache-2.0
"""``sigmahat evaluate`` and ``fit-baselines``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from sigmahat_kernels.files import new_folder
from sigmahat_trainer.commands.options import TRAIN_UNTIL, VALIDATE_UNTIL

PERIODS = {"validation": ("2013-01-01", VALIDATE_UNTIL), "test": ("2016-01-01", None)}

_folder = click.Path(exists=True, file_okay=False, path_type=Path)
_panels = click.argument(
    "panels", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)


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


def _period(context: click.Context, parameter: click.Parameter, text: str) -> tuple[str, str | None]:
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
    return first, last or None


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
    type=click.Path(path_type=Path),
    required=True,
    help="Folder that is made for the results; it must not exist.",
)


@click.command("fit-baselines")
@_panels
@_sizes
@_lengths
@_horizon
@click.option("--train-until", default=TRAIN_UNTIL, show_default=True, help="Last day of the data.")
@click.option(
    "--windows", default=12_000, show_default=True, type=click.IntRange(1), help="For the constants and for RIEnet."
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
    """Fit the baselines that learn (constants, Average Oracle, RIEnet) to PANELS."""
    from sigmahat_trainer.baselines.learned import fit_baselines as fit
    from sigmahat_trainer.data.panels import load_panel

    with _plain_errors(), new_folder(out) as folder:
        fit(
            [panel for panel in (load_panel(path).between(None, train_until) for path in panels) if len(panel.dates)],
            folder,
            sizes=sizes,
            lengths=lengths,
            horizon=horizon,
            windows=windows,
            oracle_windows=oracle_windows,
            epochs=rienet_epochs,
            seed=seed,
            console=Console(stderr=True),
        )


@click.command()
@_panels
@click.option(
    "--model-repository",
    type=_folder,
    default=None,
    help="INT8 members, as they are served.  [default: model_repository, unless --run is given]",
)
@click.option(
    "--run",
    "runs",
    multiple=True,
    type=_folder,
    help="Folder of `sigmahat train`: its float32 members; may be repeated.",
)
@click.option("--baselines", "fitted", type=_folder, default=None, help="Folder of `sigmahat fit-baselines`.")
@_sizes
@_lengths
@_horizon
@click.option(
    "--period",
    default="validation",
    show_default=True,
    callback=_period,
    help="validation (2013-2015), test (from 2016 on) or FIRST:LAST.",
)
@click.option("--draws", default=4, show_default=True, type=click.IntRange(1), help="Universes at each date.")
@click.option(
    "--simulated-draws",
    default=20,
    show_default=True,
    type=click.IntRange(0),
    help="Of each design with known truth; 0 for none.",
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
@click.option(
    "--resamples", default=4_999, show_default=True, type=click.IntRange(0), help="Of the bootstrap test of variances."
)
@click.option("--processes", default=None, type=click.IntRange(1), help="Side by side.  [default: one a core]")
@click.option("--seed", default=0, show_default=True)
@_out
def evaluate(
    panels: tuple[Path, ...],
    model_repository: Path | None,
    runs: tuple[Path, ...],
    fitted: Path | None,
    sizes: tuple[int, ...],
    lengths: tuple[int, ...],
    horizon: int,
    period: tuple[str, str | None],
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
    and random ones.

    OUT receives evaluation.json, scores.parquet (a row a panel, cell, date and method), heads.parquet (a row a
    universe: what the auxiliary heads said and what came of it), simulated.parquet and pictures.
    """
    from sigmahat_kernels.parallel import available_threads
    from sigmahat_trainer.evaluation.designs import DESIGNS
    from sigmahat_trainer.evaluation.figures import summarise
    from sigmahat_trainer.evaluation.jobs import Settings, Sources, plan_jobs, run_grid
    from sigmahat_trainer.evaluation.plots import draw_plots
    from sigmahat_trainer.evaluation.rolling import Period
    from sigmahat_trainer.provenance import provenance

    if model_repository is None and not runs:
        model_repository = Path("model_repository")
    console = Console(stderr=True)
    sources = Sources(model_repository, runs, fitted, hindsight, dcc)
    settings = Settings(
        sizes,
        lengths,
        horizon,
        Period(*period),
        draws,
        simulated_draws,
        simulated_sizes or sizes,
        simulated_lengths or lengths,
        seed,
    )
    with _plain_errors(), new_folder(out) as folder:
        jobs, left_out = plan_jobs(panels, list(DESIGNS), settings)
        for reason in left_out:
            console.print(f"left out: {reason}")
        rows = run_grid(jobs, sources, settings, processes=processes or available_threads(), console=console)
        for name, table in rows._asdict().items():
            if not table.empty:
                table.to_parquet(folder / f"{name}.parquet", index=False, compression="zstd")
        with console.status("testing the differences"):
            figures = summarise(*rows, resamples=resamples)
        described = {"panels": [path.stem for path in panels], **settings._asdict(), "period": list(period)}
        described |= {"runs": [run.name for run in runs], "fitted": fitted is not None, "hindsight": hindsight}
        described |= {"dcc": dcc, "left_out": left_out}
        content = {**provenance(), "settings": described, "figures": figures}
        (folder / "evaluation.json").write_text(json.dumps(content, indent=1) + "\n")
        with console.status("drawing"):
            draw_plots(rows.scores, rows.heads, figures, folder)
    _show(figures, console)


def _show(figures: dict[str, Any], console: Console) -> None:
    """A row a method, a column a panel: minimum-variance volatility against the reference over all its cells.

    Then of each pipeline in how many cells it is better than its references, and how it does where the truth is known.
    """
    pooled = figures["pooled"]
    table = Table("estimator", *pooled, title="volatility against QIS (correlation), % (t)")
    for method in pooled["all"]:
        versus = [panel.get(method, {}).get("qis_correlation", {}).get("gmv") for panel in pooled.values()]
        if any(versus):
            table.add_row(method, *(f"{v['difference']:+.2f} ({v['t']:+.1f})" if v else "" for v in versus))
    console.print(table)
    for method, answers in figures["grid"].items():
        console.print(_scorecard(figures, method))
        for reference, answer in answers.items():
            worst = answer["worst"]
            console.print(
                f"{method} against {reference}: better in {answer['better']} of {answer['cells']} cells; worst "
                f"{worst['difference']:+.2f} % ({worst['t']:+.1f}) in {worst['panel']}, {worst['cell']}"
            )
    for method in figures["grid"]:
        for loss, answers in figures["prial"].get(method, {}).items():
            for design, answer in answers.items():
                worst = answer["worst"]
                console.print(
                    f"{method}, PRIAL ({loss}) of {design}: not below multi-target Ledoit-Wolf in "
                    f"{answer['not_below']} of {answer['shapes']} shapes; worst {worst['difference']:+.1f} "
                    f"(± {worst['difference_error']:.1f}) at {worst['shape']}"
                )


SCORES = {
    # column of a scorecard -> (reference, kind of difference)
    "GMV, QIS": ("qis_correlation", "gmv"),
    "GMV, constants": ("learned_constants", "gmv"),
    "GMV, tilted constants": ("tilted_constants", "gmv"),
    "GMV, RIEnet": ("rienet", "gmv"),
    "long-only, QIS": ("qis_correlation", "long_only"),
    "tracking, QIS": ("qis_correlation", "tracking"),
    "QLIKE long-only, QIS": ("qis_correlation", "random_long_only_qlike"),
    "QLIKE long-short, QIS": ("qis_correlation", "random_long_short_qlike"),
}


def _scorecard(figures: dict[str, Any], method: str) -> Table:
    """A row a panel: differences with their t, then the bias statistics of random portfolios with their errors."""
    title = (
        f"{method}: volatility, % (t), and QLIKE, of what against whom; bias statistics of random portfolios (± error)"
    )
    table = Table("panel", *SCORES, "bias long-only", "bias long-short", title=title)
    for scope, pooled in figures["pooled"].items():
        differences = [pooled[method].get(reference, {}).get(kind) for reference, kind in SCORES.values()]
        own = figures["bias"][scope].get(method, {})
        biases = [own.get(f"random_{kind}_bias") for kind in ("long_only", "long_short")]
        table.add_row(
            scope,
            *(f"{found['difference']:+.3g} ({found['t']:+.1f})" if found else "" for found in differences),
            *(f"{found['value']:.3f} (± {found['standard_error']:.3f})" if found else "" for found in biases),
        )
    return table


@contextmanager
def _plain_errors() -> Iterator[None]:
    from sigmahat_kernels.manifest import ManifestError
    from sigmahat_kernels.members import MemberError
    from sigmahat_trainer.model.member_file import CheckpointError

    try:
        yield
    except (ManifestError, MemberError, CheckpointError, OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
