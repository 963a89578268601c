# SPDX-License-Identifier: Apache-2.0
"""``make demo``: thousands of real universes through a real Triton server, and what their portfolios did next."""

from __future__ import annotations

import shlex
import sys
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import click
import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, track
from rich.table import Table

from sigmahat_client import Estimates, EstimateWarning, InvalidRequest, ShrinkageClient
from sigmahat_deploy.kernels import compile_kernels
from sigmahat_deploy.probe import probe_shrinkage
from sigmahat_deploy.returns_file import UnreadableFile, read_returns
from sigmahat_deploy.server import ServerError, local_server
from sigmahat_kernels.files import write_whole
from sigmahat_kernels.parameters import TARGETS
from sigmahat_kernels.status import Status
from sigmahat_trainer.baselines.closed_form import ledoit_wolf_identity, qis_correlation, sample
from sigmahat_trainer.data.dataset import MIN_COVERAGE, eligible_assets, holding_returns
from sigmahat_trainer.data.panels import PERIODS_PER_YEAR
from sigmahat_trainer.evaluation.portfolios import gmv_weights

HERE = Path(__file__).parent
WINDOW, HORIZON = 252, 21
SMALLEST, LARGEST = 20, 200
COMPARED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "sample covariance": sample,
    "Ledoit-Wolf (identity)": ledoit_wolf_identity,
    "QIS (correlation)": qis_correlation,
}

console = Console()


@click.command()
@click.option("--returns", "path", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--universes", "n_universes", type=click.IntRange(min=1), default=2_000, show_default=True)
@click.option("--model-repository", type=click.Path(path_type=Path), default=HERE.parent / "model_repository")
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/demo.parquet"), show_default=True)
@click.option("--report", "page", type=click.Path(dir_okay=False, path_type=Path), help="HTML page to write, too.")
@click.option("--seed", type=int, default=0, show_default=True)
def main(path: Path | None, n_universes: int, model_repository: Path, out: Path, page: Path | None, seed: int) -> None:
    """Estimate random universes of a panel at month ends, and hold their minimum-variance portfolios for a month."""
    if page is not None and find_spec("vl_convert") is None:
        raise click.ClickException("--report needs packages that are not installed: pip install 'sigmahat[report]'")
    path = path or HERE / "data" / "us_sp500_2016_2019.npz"
    try:
        returns = read_returns(path)
        universes, windows = draw_universes(returns.to_numpy(np.float32), n_universes, seed)
    except (UnreadableFile, ValueError) as error:
        raise click.ClickException(str(error)) from error
    console.print(
        f"{path.name}: {returns.shape[0]:,} days x {returns.shape[1]} assets; {n_universes:,} universes of "
        f"{min(map(len, universes))} to {max(map(len, universes))} assets, windows of {WINDOW} days"
    )
    try:
        compile_kernels(console.print)
        console.print("starting Triton")
        with local_server(model_repository, grpc_port=0, http_port=0, metrics_port=0, probe=probe_shrinkage) as server:
            estimates, seconds = estimate(server.grpc_url, returns, universes, windows)
    except (ServerError, InvalidRequest) as error:
        raise click.ClickException(str(error)) from error
    for failure in estimates.failures[:5]:
        console.print(f"[red]{failure}[/]")
    if estimates.warning_lines:
        n_odd = sum(map(bool, estimates.warnings))
        console.print(f"{n_odd:,} universes hold something odd, and are estimated all the same (column warnings):")
    for line in estimates.warning_lines:
        console.print(f"  [yellow]{line}[/]")
    if len(estimates.failures) == len(estimates):
        raise click.ClickException("no universe could be estimated")
    frame = estimates.to_frame()
    frame.insert(0, "window_end", returns.index[windows[:, 1] - 1])
    compare(frame, estimates, returns.to_numpy(np.float32), universes, windows)
    report(frame, seconds)
    out.parent.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(out)
    console.print(f"wrote {out} ({len(frame):,} rows, {len(frame.columns)} columns)")
    if page is not None:
        write_page(page, path, returns, estimates, windows, model_repository)
    else:
        console.print(
            "as a page to look at: pip install '.[report]', then python benchmarks/demo.py --report out/demo.html",
            markup=False,
        )


def write_page(
    page: Path, path: Path, returns: pd.DataFrame, estimates: Estimates, windows: np.ndarray, model_repository: Path
) -> None:
    """Write the page of `sigmahat report`; needs the extra `report`."""
    from sigmahat_deploy.report import page as report
    from sigmahat_deploy.report.release import release
    from sigmahat_deploy.report.study import from_estimates

    rows = dict(zip(map(str, estimates.universes), map(tuple, windows.tolist()), strict=True))
    study = from_estimates(returns, estimates, rows)
    known = release("of the server that the demo started", model_repository)
    made = report.page(study, report.Options(f"Covariances of {path.name}", shlex.join(["python", *sys.argv]), known))
    page.parent.mkdir(parents=True, exist_ok=True)
    write_whole(page, lambda file: file.write(made.html.encode()))
    console.print(f"wrote {page} ({len(made.html.encode()) / 1e6:.1f} MB)")


def draw_universes(panel: np.ndarray, n_universes: int, seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Universes of random size from the assets that qualify at a month end, month after month; and their windows."""
    rng = np.random.default_rng(seed)
    stops = np.arange(WINDOW, len(panel) - HORIZON + 1, HORIZON)
    candidates = {stop: eligible_assets(panel[stop - WINDOW : stop], MIN_COVERAGE) for stop in stops.tolist()}
    usable = [stop for stop, assets in candidates.items() if len(assets) >= SMALLEST]
    if not usable:
        raise ValueError(
            f"the demo needs a month end with {WINDOW} days before and {HORIZON} after it, and {SMALLEST} assets with "
            f"returns then; the panel has {panel.shape[0]} days and {panel.shape[1]} assets"
        )
    universes, windows = [], []
    for u in range(n_universes):
        stop = usable[u * len(usable) // n_universes]
        assets = candidates[stop]
        size = rng.integers(SMALLEST, min(LARGEST, len(assets)) + 1)
        universes.append(np.sort(rng.choice(assets, size, replace=False)))
        windows.append((stop - WINDOW, stop))
    return universes, np.array(windows)


def estimate(
    url: str, returns: pd.DataFrame, universes: list[np.ndarray], windows: np.ndarray
) -> tuple[Estimates, float]:
    """Ask the server for all covariances; also the seconds that it took."""
    labels = returns.columns.to_numpy()
    named = {f"universe {u:04d}": labels[universe].tolist() for u, universe in enumerate(universes)}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with ShrinkageClient(url, deadline_s=1800.0) as client, Progress(*columns, console=console) as progress:
        task = progress.add_task("estimating", total=len(universes))
        started = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", EstimateWarning)  # `main` tells them
            estimates = client.estimate(
                returns,
                named,
                windows=windows,
                covariance=True,
                progress=lambda done, _: progress.update(task, completed=done),
            )
        return estimates, time.perf_counter() - started


def compare(
    frame: pd.DataFrame, estimates: Estimates, panel: np.ndarray, universes: list[np.ndarray], windows: np.ndarray
) -> None:
    """Add condition numbers, and each estimator's realised variance in the month after, to the frame."""
    covariances = estimates.covariance or ()
    rows: list[dict[str, float]] = []
    for u in track(range(len(universes)), "comparing", console=console, transient=True):
        if estimates.status[u] != Status.GOOD:
            rows.append({})
            continue
        start, stop = windows[u]
        window = np.nan_to_num(panel[start:stop, universes[u]].astype(np.float64))
        forward = holding_returns(panel, stop, HORIZON)[:, universes[u]]
        matrices = {name: estimator(window) for name, estimator in COMPARED.items()}
        matrices["sigmahat"] = covariances[u].astype(np.float64)
        rows.append({f"variance, {name}": realised_variance(matrix, forward) for name, matrix in matrices.items()})
        for name in ("sample covariance", "sigmahat"):
            rows[-1][f"condition, {name}"] = float(np.linalg.cond(matrices[name]))
    for column, values in pd.DataFrame(rows, frame.index).items():
        frame[column] = values


def realised_variance(covariance: np.ndarray, forward: np.ndarray) -> float:
    """Mean squared daily return of the minimum-variance portfolio; NaN where a singular matrix has none."""
    try:
        return float(((forward @ gmv_weights(covariance)) ** 2).mean())
    except np.linalg.LinAlgError:
        return float("nan")


def report(frame: pd.DataFrame, seconds: float) -> None:
    """Print what came out."""
    good = frame[frame["status"] == 0]
    failed = len(frame) - len(good)
    console.print(
        f"\n[bold]{len(frame):,} universes in {seconds:.1f} s: {len(frame) / seconds:,.0f} universes a second[/], "
        f"covariances included; {failed} failed"
    )
    table = Table("over universes", "10 %", "median", "90 %")
    rows = {"shrinkage intensity": good["intensity"]}
    rows |= {f"weight of {target.replace('_', ' ')}": good[f"weight_{target}"] for target in TARGETS}
    rows |= {
        "memory (weight of the fast correlation)": good["memory"],
        "condition number, sample covariance": good["condition, sample covariance"],
        "condition number, sigmahat": good["condition, sigmahat"],
    }
    for name, values in rows.items():
        digits = 0 if name.startswith("condition") else 3
        table.add_row(name, *(f"{quantile:,.{digits}f}" for quantile in values.quantile([0.1, 0.5, 0.9])))
    console.print(table)

    volatilities = {name: volatility(good[f"variance, {name}"]) for name in (*COMPARED, "sigmahat")}
    reference = volatilities["QIS (correlation)"]
    table = Table("minimum-variance portfolios, next month", "realised volatility, % a year", "against QIS")
    for name, value in volatilities.items():
        table.add_row(name, f"{100 * value:.2f}", f"{100 * (value / reference - 1):+.1f} %")
    console.print(table)


def volatility(variances: pd.Series) -> float:
    """Root of the mean daily variance over all portfolios, a year of trading days."""
    return float(np.sqrt(PERIODS_PER_YEAR * variances.mean()))


if __name__ == "__main__":
    main()
