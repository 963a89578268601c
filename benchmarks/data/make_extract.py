# SPDX-License-Identifier: Apache-2.0
"""Cut the demo's panel out of the full one: how ``us_sp500_2016_2019.npz`` came about."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

FIRST, N_ROWS, N_ASSETS = "2016-01-04", 1_008, 200


def main(source: Path, target: Path) -> None:
    """Keep the stocks that traded most in the year before the extract, so that nothing after its start picks them."""
    with np.load(source, allow_pickle=False) as panel:
        dates, tickers = panel["dates"].astype("datetime64[D]"), panel["tickers"]
        returns, volume = np.ascontiguousarray(panel["ret"]), panel["dollar_volume"]
    start = int(np.searchsorted(dates, np.datetime64(FIRST)))
    before = slice(start - 252, start)
    listed = ~np.isnan(returns[before]).any(axis=0)
    traded = np.where(listed, np.nan_to_num(np.median(volume[before], axis=0)), -1.0)
    picked = np.sort(np.argsort(-traded)[:N_ASSETS])
    rows = slice(start, start + N_ROWS)
    np.savez_compressed(target, dates=dates[rows], tickers=tickers[picked], ret=returns[rows, picked])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(__file__).with_name("us_sp500_2016_2019.npz"))
