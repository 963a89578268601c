# SPDX-License-Identifier: Apache-2.0
"""Portfolios as people have them (frames, mappings, arrays) -> weights on columns of the panel or on each universe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from sigmahat_client.errors import some
from sigmahat_client.intake.arrays import as_array, float32, objects_as_floats, require, shown
from sigmahat_client.intake.containers import is_a
from sigmahat_client.intake.job import Job
from sigmahat_client.intake.universes import Names
from sigmahat_kernels.request import MAX_PORTFOLIOS
from sigmahat_kernels.status import InvalidRequest

_ONE = "portfolio"
"""Name of a portfolio that comes without one."""

_PER_UNIVERSE = 3
_WANTED = (
    "portfolios must be a DataFrame with a row a portfolio and a column an asset, a mapping of names to "
    "{asset: weight}, one of universes to such mappings, or an array"
)


class Positions(NamedTuple):
    """Portfolios of one call, as plain arrays."""

    names: Names
    weights: np.ndarray  # float32 (n_portfolios, n_columns), or (n_universes, n_portfolios, widest)

    def shared_tensors(self) -> dict[str, np.ndarray]:
        """Tensors that every request carries."""
        return {} if self.weights.ndim == _PER_UNIVERSE else {"PORTFOLIOS": self.weights}

    def chunk_tensors(self, chunk: slice, width: int) -> dict[str, np.ndarray]:
        """Tensors of one request's universes, as wide as its UNIVERSES."""
        return {"WEIGHTS": self.weights[chunk, :, :width]} if self.weights.ndim == _PER_UNIVERSE else {}

    def of(self, job: Job, chunk: slice) -> np.ndarray:
        """Weights that are sent of some universes, float64 (n, n_portfolios, widest); 0 on an asset that is unknown."""
        if self.weights.ndim == _PER_UNIVERSE:
            return self.weights[chunk].astype(np.float64)
        columns = job.universes[chunk]
        known = (columns >= 0) & (columns < self.weights.shape[1])
        return np.where(known, self.weights[:, np.where(known, columns, 0)], 0.0).swapaxes(0, 1).astype(np.float64)


def read_portfolios(portfolios: Any, job: Job) -> Positions:
    """Read the argument `portfolios` of `ShrinkageClient.risk`.

    Raises
    ------
    InvalidRequest
        If it cannot be read, or holds an asset that is not there: names portfolio and asset, and where each universe
        has portfolios of its own, that.
    """
    if isinstance(portfolios, np.ndarray):
        return _checked(_from_array(portfolios, job))
    if is_a(portfolios, "pandas", "Series"):
        name = _ONE if portfolios.name is None else portfolios.name
        return _checked(_on_columns({name: portfolios}, job))
    if is_a(portfolios, "pandas", "DataFrame"):
        return _checked(_on_columns(_rows(portfolios), job))
    if not isinstance(portfolios, Mapping):
        raise InvalidRequest(f"{_WANTED}, got {shown(portfolios)}")
    require(len(portfolios) > 0, "portfolios are empty: there is nothing to measure")
    depths = {_depth(value) for value in portfolios.values()}
    require(len(depths) == 1, f"{_WANTED}, got a mapping that mixes them")
    (depth,) = depths
    if depth == 0:
        return _checked(_on_columns({_ONE: portfolios}, job))
    if depth == 1:
        return _checked(_on_columns(portfolios, job))
    return _checked(_on_universes(portfolios, job))


def _checked(positions: Positions) -> Positions:
    n = len(positions.names)
    require(n > 0, "portfolios are empty: there is nothing to measure")
    require(n <= MAX_PORTFOLIOS, f"there are {n} portfolios, more than the limit of {MAX_PORTFOLIOS:,}")
    return positions


def _depth(value: Any) -> int:
    """How many names lead from a value of the mapping to a weight."""
    if is_a(value, "pandas", "DataFrame"):
        return 2
    if is_a(value, "pandas", "Series"):
        return 1
    if not isinstance(value, Mapping):
        return 0
    return 1 + max(map(_depth, value.values()), default=0)


def _rows(frame: Any) -> dict[Hashable, Any]:
    """Name -> weights of each row."""
    labels = frame.index.tolist()
    twice = [label for label, n in Counter(labels).items() if n > 1]
    require(not twice, f"portfolios must have one row each, but {twice[:10]} have several")
    return {label: frame.iloc[i] for i, label in enumerate(labels)}


def _weights(what: str, weights: Any) -> dict[Hashable, float]:
    """Asset -> weight of one portfolio; `what` names it."""
    require(isinstance(weights, Mapping) or is_a(weights, "pandas", "Series"), f"{what} must be a mapping of assets")
    if isinstance(weights, Mapping):
        assets, given = list(weights), list(weights.values())
    else:
        assets, given = weights.index.tolist(), weights.tolist()
        twice = [asset for asset, n in Counter(assets).items() if n > 1]
        require(not twice, f"{what} has several weights on {twice[:10]}")
    values, wrong = objects_as_floats(given)
    if wrong is not None:
        raise InvalidRequest(f"{what} must hold numbers, got {shown(given[wrong])} on asset {assets[wrong]!r}")
    return dict(zip(assets, values.tolist(), strict=True))


def _on_columns(portfolios: Mapping[Hashable, Any], job: Job) -> Positions:
    column_of = {label: column for column, label in enumerate(job.labels)}
    found = np.zeros((len(portfolios), len(job.labels)))
    for p, (name, weights) in enumerate(portfolios.items()):
        what = f"portfolio {name!r}"
        _fill(found[p], _weights(what, weights), column_of, f"{what} holds {{}}, which are not in returns")
    return Positions(tuple(portfolios), float32(found))


def _on_universes(portfolios: Mapping[Hashable, Any], job: Job) -> Positions:
    unknown = [name for name in portfolios if name not in set(job.names)]
    require(not unknown, f"portfolios name universes that do not exist: {some(unknown)}")
    own = {
        universe: _rows(given) if is_a(given, "pandas", "DataFrame") else given
        for universe, given in portfolios.items()
    }
    names: Names = tuple(dict.fromkeys(name for given in own.values() for name in given))
    place = {name: p for p, name in enumerate(names)}
    found = np.zeros((len(job.names), len(names), job.universes.shape[1]))
    for u, universe in enumerate(job.names):
        assets = job.assets_of(u)
        position_of = {asset: i for i, asset in enumerate(assets)}
        left_out = {refused.asset for refused in job.dropped[u]}
        for name, weights in own.get(universe, {}).items():
            what = f"portfolio {name!r} of universe {universe!r}"
            kept = {asset: w for asset, w in _weights(what, weights).items() if asset not in left_out}
            _fill(found[u, place[name]], kept, position_of, f"{what} holds {{}}, which are not in that universe")
    return Positions(names, float32(found))


def _fill(row: np.ndarray, weights: Mapping[Hashable, float], place_of: Mapping[Hashable, int], message: str) -> None:
    """Put weights where their assets are; a weight of zero on an asset that is nowhere is no position."""
    unknown = [asset for asset, weight in weights.items() if weight != 0 and asset not in place_of]
    require(not unknown, message.format(some(unknown)))
    for asset, weight in weights.items():
        if asset in place_of:
            row[place_of[asset]] = weight


def _from_array(portfolios: Any, job: Job) -> Positions:
    array = as_array("portfolios", portfolios)
    require(array.dtype.kind in "fiu", f"portfolios must hold numbers, got {array.dtype}")
    n_universes, widest = job.universes.shape
    array = array[None] if array.ndim == 1 else array
    if array.ndim == _PER_UNIVERSE:
        fits = array.shape[::2] == (n_universes, widest)
        moved = any(job.dropped)
        require(not moved, "portfolios must name their assets where some are dropped, got an array of each universe's")
    else:
        fits = array.ndim + 1 == _PER_UNIVERSE and array.shape[1] == len(job.labels)
    require(
        fits,
        f"portfolios must have shape (portfolios, {len(job.labels)}) or ({n_universes}, portfolios, {widest}), "
        f"got {array.shape}",
    )
    names: Sequence[Hashable] = range(array.shape[-2])
    return Positions(tuple(names), float32(array.astype(np.float64)))
