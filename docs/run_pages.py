# SPDX-License-Identifier: Apache-2.0
"""Run the Python of the pages, as their readers would: ``python docs/run_pages.py`` draws the gallery's pictures again.

The blocks of a page share their names, from the first to the last. They find ``returns.parquet``, ``returns.csv`` and
``prices.csv`` in their folder: the stocks of ``benchmarks/data``. Pages that call a server need one.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markdown_it import MarkdownIt

DOCS = Path(__file__).parent
GRPC, HTTP = "127.0.0.1:8001", "127.0.0.1:8000"
"""Addresses of the server that pages call."""


def pages() -> list[Path]:
    """Pages with Python in them."""
    return [page for page in sorted(DOCS.rglob("*.md")) if any(blocks(page))]


def blocks(page: Path) -> list[tuple[int, str]]:
    """Line and text of each block of Python."""
    tokens = MarkdownIt().parse(page.read_text())
    return [(token.map[0] + 1, token.content) for token in tokens if token.map and token.info == "python"]


def lay_out(folder: Path) -> None:
    """Write the files that pages read."""
    with np.load(DOCS.parent / "benchmarks" / "data" / "us_sp500_2016_2019.npz") as panel:
        returns = pd.DataFrame(panel["ret"], pd.DatetimeIndex(panel["dates"], name="date"), panel["tickers"])
    returns.to_parquet(folder / "returns.parquet")
    returns.tail(252).to_csv(folder / "returns.csv")
    (100 * (1 + returns.tail(252)).cumprod()).to_csv(folder / "prices.csv")


def run(page: Path, folder: Path, server: Mapping[str, str]) -> None:
    """Run a page's blocks in a folder, with addresses of another server for `GRPC` and `HTTP`.

    Errors name the page and its line.
    """
    os.environ["MPLBACKEND"] = "agg"
    names: dict[str, Any] = {"__name__": "__main__"}
    with chdir(folder):
        for line, text in blocks(page):
            for usual, other in server.items():
                text = text.replace(usual, other)
            exec(compile("\n" * line + text, page, "exec"), names)  # noqa: S102 - the project's own pages


def main() -> None:
    """Run the gallery, and keep its pictures."""
    with tempfile.TemporaryDirectory() as folder:
        lay_out(Path(folder))
        for page in sorted((DOCS / "gallery").glob("*.md")):
            print(page.name)
            run(page, Path(folder), {})
        for picture in Path(folder).glob("*.png"):
            shutil.copy(picture, DOCS / "gallery")


if __name__ == "__main__":
    main()
