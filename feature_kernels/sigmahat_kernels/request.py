# SPDX-License-Identifier: Apache-2.0
"""A request as it comes from outside: its checks and its limits."""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from sigmahat_kernels.backend import Array, array_namespace, to_numpy
from sigmahat_kernels.status import MIN_ASSETS, MIN_OBSERVATIONS, InvalidRequest, Status

PADDING = -1
"""Fills a universe's row of UNIVERSES and BLOCKS after its last asset."""

MARKET_COLUMNS = ("vix", "turnover", "illiquidity", "days_to_event")
"""Order and meaning of MARKET's columns: VIX in points; market turnover and illiquidity in any constant unit, positive;
trading days to the next scheduled market-wide event. A request may leave columns off at the end."""

MAX_PANEL_CELLS = 50_000_000
MAX_ASSETS = 1_000
MAX_UNIVERSES = 4_096
MAX_COVARIANCE_CELLS = 250_000_000
MAX_PORTFOLIOS = 1_000
MAX_RISK_CELLS = 40_000_000
"""Limits of one request. MAX_UNIVERSES counts a universe once more for each of its blocks: it is the members' batch.
COVARIANCE is dense, universes x widest^2 cells, and must stay below gRPC's 2 GiB; so must the three large tensors of
`risk`, in double precision: MAX_RISK_CELLS counts universes x portfolios x the larger of assets and portfolios."""


_BLOCK_CELLS = 128 * 1024
"""Entries of a table of which universe holds which column: it stays in the cache."""

_MANY_COLUMNS = 16
"""With more columns than this for each asset of a universe, to sort its assets is faster than such a table."""


class Request(NamedTuple):
    """A request that can be read; single universes may still be refused with a status."""

    panel: Array  # (n_rows, n_columns), simple returns, oldest first, NaN = missing
    universes: np.ndarray  # (n_universes, n_assets) int32, columns of the panel, then PADDING
    windows: np.ndarray  # (n_universes, 2) int32, rows [start, stop)
    market: np.ndarray | None  # (n_rows, n_indicators), NaN = missing
    dates: np.ndarray | None  # (n_rows,) days since 1970-01-01
    blocks: np.ndarray | None  # (n_universes, n_assets) int32, block of each asset


def read_request(
    panel: Array,
    universes: np.ndarray,
    windows: np.ndarray | None = None,
    market: np.ndarray | None = None,
    dates: np.ndarray | None = None,
    blocks: np.ndarray | None = None,
) -> Request:
    """Check what a caller sent, as far as it concerns the request as a whole.

    Parameters
    ----------
    panel : array of shape (n_rows, n_columns)
        Simple returns per period (0.01 is 1 %), oldest first, NaN = missing.
    universes : integer array of shape (n_universes, n_assets)
        Columns of the panel, each row padded at its end with -1.
    windows : integer array of shape (n_universes, 2), optional
        Rows [start, stop) of each universe; default all rows.
    market : array of shape (n_rows, n_indicators), optional
        Indicators in the order of `MARKET_COLUMNS`, NaN = missing.
    dates : integer array of shape (n_rows,), optional
        Days since 1970-01-01.
    blocks : integer array of shape (n_universes, n_assets), optional
        Block id >= 0 of each asset; asks for block-specific intensities.

    Raises
    ------
    InvalidRequest
        On a wrong rank, shape or dtype, an empty request, or one above the limits.
    """
    _require(panel.ndim == 2, f"PANEL must have shape (rows, assets), got {panel.shape}")
    _require(panel.dtype.kind == "f", f"PANEL must hold floating point returns, got {panel.dtype}")
    n_rows, n_columns = panel.shape
    _require(n_rows > 0 and n_columns > 0, f"PANEL is empty: shape {panel.shape}")
    _require(
        n_rows * n_columns <= MAX_PANEL_CELLS,
        f"PANEL has {n_rows * n_columns:,} cells, more than the limit of {MAX_PANEL_CELLS:,}",
    )
    universes = _integers("UNIVERSES", universes)
    _require(universes.ndim == 2, f"UNIVERSES must have shape (universes, assets), got {universes.shape}")
    n_universes, n_assets = universes.shape
    _require(n_universes > 0 and n_assets > 0, f"UNIVERSES is empty: shape {universes.shape}")
    _require(n_assets <= MAX_ASSETS, f"a universe has up to {n_assets} assets, more than the limit of {MAX_ASSETS}")
    _require(
        n_universes <= MAX_UNIVERSES, f"the request has {n_universes} universes, more than the limit of {MAX_UNIVERSES}"
    )
    if windows is None:
        windows = np.tile(np.array([0, n_rows], np.int32), (n_universes, 1))
    windows = _integers("WINDOWS", windows)
    _require(windows.shape == (n_universes, 2), f"WINDOWS must have shape ({n_universes}, 2), got {windows.shape}")
    if market is not None:
        market = to_numpy(market)
        _require(
            market.ndim == 2 and len(market) == n_rows and 1 <= market.shape[1] <= len(MARKET_COLUMNS),
            f"MARKET must have shape ({n_rows}, 1 to {len(MARKET_COLUMNS)}), got {market.shape}",
        )
        _require(market.dtype.kind == "f", f"MARKET must be floating point, got {market.dtype}")
    if dates is not None:
        dates = _integers("DATES", dates)
        _require(dates.shape == (n_rows,), f"DATES must have shape ({n_rows},), got {dates.shape}")
        _require(bool((dates[1:] > dates[:-1]).all()), "DATES must be strictly increasing")
    if blocks is not None:
        blocks = _integers("BLOCKS", blocks)
        _require(blocks.shape == universes.shape, f"BLOCKS must have shape {universes.shape}, got {blocks.shape}")
        _require(
            bool((blocks[universes != PADDING] >= 0).all()), "BLOCKS must give every asset a block id of 0 or more"
        )
        n_rows_out = n_universes * (1 + len(block_ids(universes, blocks)))
        _require(
            n_rows_out <= MAX_UNIVERSES,
            f"universes x (1 + blocks) is {n_rows_out}, more than the limit of {MAX_UNIVERSES}",
        )
    return Request(panel, universes, windows, market, dates, blocks)


def check_steps(request: Request, status: np.ndarray, **arrays: np.ndarray) -> None:
    """Refuse what no earlier step has made of a request: whoever reaches a server can ask its last step alone.

    Parameters
    ----------
    request : Request
    status : array of shape (n_universes,)
        Universes that are GOOD there must be such that their returns can be looked up.
    arrays : array of shape (n_universes, ...)
        By name; `block_intensity` has a column for each block of the request.

    Raises
    ------
    InvalidRequest
    """
    n_universes, n_columns = len(request.universes), request.panel.shape[1]
    for name, values in {"status": status, **arrays}.items():
        _require(len(values) == n_universes, f"{name} must have {n_universes} rows, got {len(values)}")
    if request.blocks is not None and "block_intensity" in arrays:
        wanted, got = len(block_ids(request.universes, request.blocks)), arrays["block_intensity"].shape[1]
        _require(got == wanted, f"block_intensity must have {wanted} columns, one a block, got {got}")
    good = request.universes[status == Status.GOOD]
    if good.size:
        _require(
            bool(good.min() >= PADDING and good.max() < n_columns and (good[:, :MIN_ASSETS] != PADDING).all()),
            "status is GOOD where a universe names an unknown asset, or too few",
        )


def block_ids(universes: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """Sorted block ids that occur in a request: column b of BLOCK_INTENSITY belongs to the b-th of them."""
    return np.unique(blocks[universes != PADDING])


def with_blocks(request: Request) -> Request:
    """Append each universe's blocks as small universes of their own: row u·(1+B) is universe u, then its B blocks.

    A block that a universe does not hold becomes an empty row. Without BLOCKS the request is returned unchanged.
    """
    if request.blocks is None:
        return request
    universes, blocks = request.universes, request.blocks
    ids = block_ids(universes, blocks)
    rows = np.full((len(universes), 1 + len(ids), universes.shape[1]), PADDING, np.int32)
    rows[:, 0] = universes
    for b, block in enumerate(ids):
        members = (blocks == block) & (universes != PADDING)
        order = np.argsort(~members, axis=1, kind="stable")
        found = np.where(members, universes, PADDING)
        rows[:, 1 + b] = np.take_along_axis(found, order, axis=1)
    windows = np.repeat(request.windows, 1 + len(ids), axis=0)
    return request._replace(universes=rows.reshape(-1, rows.shape[-1]), windows=windows, blocks=None)


def check_universes(request: Request) -> tuple[np.ndarray, np.ndarray]:
    """Status of each universe as far as it shows without looking at returns.

    Returns
    -------
    status : int32 array of shape (n_universes,)
        A `Status` code.
    asset : int32 array of shape (n_universes,)
        The first offending entry of the universe's row, as it was sent; of several that are listed twice, the smallest.
        -1 where the status names no asset.
    """
    panel, universes, windows = request.panel, request.universes, request.windows
    n_rows, n_columns = panel.shape
    status = np.zeros(len(universes), np.int32)
    asset = np.full(len(universes), PADDING, np.int32)

    def refuse(bad: np.ndarray, code: Status, offender: np.ndarray | None = None) -> None:
        new = bad & (status == Status.GOOD)
        status[new] = code
        if offender is not None:
            asset[new] = offender[new]

    n_assets = (universes != PADDING).sum(axis=1)
    # A few passes over all entries tell where something is wrong with one; what it is, only these rows are asked.
    doubtful = np.flatnonzero(_is_doubtful(universes, n_columns, array_namespace(panel)))
    rows = universes[doubtful]
    used = rows != PADDING
    # Padding before an asset is no padding: it names a column that does not exist.
    inside = np.arange(rows.shape[1]) < (rows.shape[1] - np.argmax(used[:, ::-1], axis=1))[:, None]
    unknown = inside & ((rows < 0) | (rows >= n_columns)) & used.any(axis=1)[:, None]
    ordered = np.sort(rows, axis=1)
    twice = np.zeros_like(used)
    twice[:, 1:] = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != PADDING)

    def refuse_doubtful(values: np.ndarray, where: np.ndarray, code: Status) -> None:
        bad, offender = np.zeros(len(universes), bool), np.full(len(universes), PADDING, np.int32)
        bad[doubtful], offender[doubtful] = where.any(axis=1), _first(values, where)
        refuse(bad, code, offender)

    start, stop = windows[:, 0], windows[:, 1]
    refuse((start < 0) | (start >= stop) | (stop > n_rows), Status.WINDOW_OUT_OF_RANGE)
    refuse(stop.astype(np.int64) - start < MIN_OBSERVATIONS, Status.TOO_FEW_OBSERVATIONS)
    refuse_doubtful(rows, unknown, Status.UNKNOWN_ASSET)
    refuse_doubtful(ordered, twice, Status.DUPLICATE_ASSET)
    refuse(n_assets < MIN_ASSETS, Status.TOO_FEW_ASSETS)
    return status, asset


def _is_doubtful(universes: np.ndarray, n_columns: int, xp: ModuleType) -> np.ndarray:
    """Whether a row names a column that does not exist, or one twice, or has padding before an asset; (n,) bool.

    Rows are sorted where `xp` works: on a GPU that takes a fraction of the time.
    """
    n, width = universes.shape
    doubtful = (universes.min(axis=1) < PADDING) | (universes.max(axis=1) >= n_columns)
    held = universes != PADDING
    doubtful |= (held[:, 1:] > held[:, :-1]).any(axis=1)
    if xp is not np or n_columns > _MANY_COLUMNS * width:
        ordered = xp.sort(xp.asarray(universes), axis=1)
        twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != PADDING)
        return doubtful | to_numpy(twice.any(axis=1))
    # A universe that holds fewer columns than it names names one twice. Padding counts as a column before the others.
    n_named, known = held.sum(axis=1), np.clip(universes, PADDING, n_columns - 1) if doubtful.any() else universes
    per_block = max(1, _BLOCK_CELLS // (n_columns + 1))
    first_cell = np.arange(per_block)[:, None] * (n_columns + 1) - PADDING
    holds = np.empty((per_block, n_columns + 1), bool)
    for start in range(0, n, per_block):
        rows = known[start : start + per_block]
        holds[...] = False
        holds.reshape(-1)[first_cell[: len(rows)] + rows] = True
        n_held = holds[: len(rows), 1:].sum(axis=1, dtype=np.int16)
        doubtful[start : start + per_block] |= n_held < n_named[start : start + per_block]
    return doubtful


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InvalidRequest(message)


def _integers(name: str, value: Any) -> np.ndarray:
    value = to_numpy(value)
    _require(value.dtype.kind in "iu", f"{name} must hold integers, got {value.dtype}")
    narrow = value.astype(np.int32, copy=False)
    _require(bool((narrow == value).all()), f"{name} holds integers that do not fit into 32 bits")
    return narrow


def _first(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """The first value of each row at which `where` holds (the first of all where it never does)."""
    return np.take_along_axis(values, np.argmax(where, axis=1)[:, None], axis=1)[:, 0]
