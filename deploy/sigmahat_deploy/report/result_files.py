# SPDX-License-Identifier: Apache-2.0
"""The files that a report reads beside the returns: what `sigmahat estimate` wrote, and the weights of a portfolio."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import pandas as pd

from sigmahat_deploy.report.errors import ReportError
from sigmahat_deploy.report.study import AnyFloats
from sigmahat_kernels.parameters import PUBLISHED
from sigmahat_kernels.returns import column_status, mean_row_days
from sigmahat_kernels.stale import without_stale
from sigmahat_kernels.status import Status

_READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    ".csv": lambda path: pd.read_csv(path, dtype={"universe": str}, index_col="universe", keep_default_na=False),
    ".parquet": pd.read_parquet,
    ".feather": lambda path: pd.read_feather(path).set_index("universe"),
    ".json": lambda path: pd.read_json(path, orient="index", convert_axes=False),
}
"""Ending of a table of estimates -> its reader."""

_TEXT = ("warnings", "message")
_COLUMNS = (
    "n_assets",
    *(column for head in PUBLISHED.values() for column in head.columns),
    "n_dropped",
    "status",
    *_TEXT,
)

_LARGEST_RATIO = 5.0
"""Of the median volatility in a file of covariances to that of the returns: beyond it they are not of one panel."""


def read_table(path: Path) -> pd.DataFrame:
    """Read what `sigmahat estimate --out` wrote: one row a universe.

    Raises
    ------
    ReportError
        If it is no such file; names it and what it lacks.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ReportError(f"{path} should end with {', '.join(_READERS)}, as sigmahat estimate --out writes it")
    try:
        table = reader(path)
    except (ValueError, KeyError, OSError) as error:
        raise ReportError(f"{path} is no readable table of estimates: {str(error).splitlines()[0]}") from error
    missing = [column for column in _COLUMNS if column not in table]
    if missing:
        raise ReportError(f"{path} lacks columns of estimates: {', '.join(missing[:5])}")
    table.index = table.index.map(str)
    if not table.index.is_unique:
        raise ReportError(f"{path} names universe {table.index[table.index.duplicated()][0]!r} more than once")
    numbers = [column for column in _COLUMNS if column not in _TEXT]
    table[numbers] = table[numbers].apply(pd.to_numeric, errors="coerce")
    return table.fillna(dict.fromkeys(_TEXT, ""))


def read_covariances(path: Path) -> tuple[dict[str, list[str]], dict[str, AnyFloats]]:
    """Read what `sigmahat estimate --covariances` wrote: assets and matrix of each universe.

    Raises
    ------
    ReportError
        If it is no such file, or a matrix is not finite, square and of its assets.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            names = [name.removeprefix("covariance/") for name in arrays if name.startswith("covariance/")]
            matrices = {name: np.asarray(arrays[f"covariance/{name}"]) for name in names}
            assets = {name: list(map(str, arrays[f"assets/{name}"])) for name in names}
    except (ValueError, OSError, EOFError, KeyError, BadZipFile, AttributeError) as error:
        raise ReportError(f"{path} is no file of sigmahat estimate --covariances: {error}") from error
    if not names:
        raise ReportError(f"{path} holds no covariances: there should be covariance/NAME and assets/NAME")
    for name, matrix in matrices.items():
        n = len(assets[name])
        if matrix.shape != (n, n) or matrix.dtype.kind != "f":
            raise ReportError(
                f"{path}: universe {name!r} has {n} assets and a matrix of {matrix.dtype} of shape {matrix.shape}"
            )
        if not (np.isfinite(matrix).all() and (matrix.diagonal() > 0).all()):
            raise ReportError(f"{path}: the matrix of universe {name!r} is not finite with variances above zero")
    return assets, matrices


def check_fit(
    returns: pd.DataFrame,
    table: pd.DataFrame,
    assets: dict[str, list[str]],
    covariances: dict[str, AnyFloats],
    windows: dict[str, tuple[int, int]],
) -> None:
    """Refuse results that are not of these returns.

    Raises
    ------
    ReportError
        Names the universe, and what does not fit.
    """
    good = table.index[table["status"] == 0].tolist()
    sizes = dict(zip(table.index, table["n_assets"].astype(int), strict=True))
    for name in good:
        if name not in covariances:
            raise ReportError(f"universe {name!r} is among the estimates and not among the covariances: of one run?")
    for name, matrix in covariances.items():
        if name not in good:
            raise ReportError(f"universe {name!r} is among the covariances and not among the estimates: of one run?")
        if len(matrix) != (n := sizes[name]):
            raise ReportError(f"universe {name!r} has {n} assets in the estimates, {len(matrix)} in the covariances")
        unknown = [asset for asset in assets[name] if asset not in returns]
        if unknown:
            raise ReportError(
                f"universe {name!r}: the returns have no asset {unknown[0]!r} ({len(unknown)} are missing)"
            )
        start, stop = windows.get(name, (0, len(returns)))
        if not 0 <= start < stop <= len(returns):
            raise ReportError(
                f"universe {name!r}: its window [{start}, {stop}) is not in {len(returns)} rows of returns"
            )
        window = returns.iloc[start:stop][assets[name]]
        days = window.index.to_numpy().astype("datetime64[D]").astype(np.int64)
        codes = column_status(
            without_stale(window.to_numpy(np.float64))[0], mean_row_days(days if len(days) > 1 else None)
        )
        if codes.any():
            asset, code = assets[name][int(codes.argmax())], Status(int(codes.max()))
            raise ReportError(
                f"universe {name!r}, asset {asset!r}: was not estimated of these returns: {code.explanation}"
            )
        ratio = float(np.median(np.sqrt(matrix.diagonal()) / window.std().to_numpy()))
        if not 1 / _LARGEST_RATIO < ratio < _LARGEST_RATIO:
            raise ReportError(
                f"universe {name!r}: the median volatility of its matrix is {ratio:.3g} times that of the returns: "
                "are they of the same panel and window?"
            )


def read_weights(path: Path, assets: list[str]) -> pd.Series:
    """Read a portfolio.

    Parameters
    ----------
    path : Path
        ``.json``: ``{"AAPL": 0.6, "MSFT": 0.4}``; ``.csv``: a line of headings, then one of asset and weight each.
    assets : list of str
        Of the returns.

    Returns
    -------
    Series
        Weights by asset, without zeros; they need not sum to one.

    Raises
    ------
    ReportError
        If it is anything else, names what the returns have not, is not finite, or holds nothing.
    """
    try:
        if path.suffix.lower() == ".json":
            entries = list(json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_Pairs).items)
        elif path.suffix.lower() == ".csv":
            frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", skipinitialspace=True)
            if frame.shape[1] != 2:
                raise ValueError(f"there should be two columns, asset and weight, and there are {frame.shape[1]}")
            entries = list(frame.itertuples(index=False, name=None))
        else:
            raise ReportError(f"{path} should end with .csv or .json")
        weights = [(str(asset), _number(asset, weight)) for asset, weight in entries]
    except (ValueError, OSError, AttributeError) as error:
        if isinstance(error, ReportError):
            raise
        raise ReportError(f"{path} holds no weights: {str(error).splitlines()[0]}") from error
    seen: dict[str, float] = {}
    for asset, weight in weights:
        if asset in seen:
            raise ReportError(f"{path} names asset {asset!r} more than once")
        if not math.isfinite(weight):
            raise ReportError(f"{path}: the weight of {asset!r} should be a finite number such as 0.05, got {weight}")
        seen[asset] = weight
    unknown = [asset for asset in seen if asset not in set(assets)]
    if unknown:
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise ReportError(f"{path}: the returns have no asset {', '.join(unknown[:5])}{more}")
    held = {asset: weight for asset, weight in seen.items() if weight}
    if not held:
        raise ReportError(f"{path}: all weights are zero")
    return pd.Series(held)


class _Pairs:
    """The entries of a JSON object, repeated ones too."""

    def __init__(self, items: list[tuple[str, object]]) -> None:
        self.items = items


def _number(asset: object, weight: object) -> float:
    if isinstance(weight, bool) or not isinstance(weight, int | float | str):
        raise ValueError(f"the weight of {asset!r} should be a number such as 0.05")
    try:
        return float(weight)
    except ValueError:
        raise ValueError(f"the weight of {asset!r} should be a number such as 0.05, got {weight!r}") from None
