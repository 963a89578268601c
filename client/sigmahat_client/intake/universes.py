# SPDX-License-Identifier: Apache-2.0
"""Labels, universes and blocks -> column numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from sigmahat_client.intake.arrays import integers, require, shown
from sigmahat_client.intake.containers import is_a
from sigmahat_kernels.request import MAX_ASSETS, PADDING
from sigmahat_kernels.status import InvalidRequest

Names = tuple[Hashable, ...]
Unknown = dict[tuple[int, int], Hashable]
"""(universe, position) -> what the caller put there."""


def read_labels(
    found: Sequence[Hashable] | None, assets: Iterable[Hashable] | None, n_columns: int
) -> Sequence[Hashable]:
    """Labels of the columns: those that the caller gives, or the container's; column numbers where there are none."""
    if assets is None and found is None:
        return range(n_columns)
    if isinstance(assets, str | bytes):
        raise InvalidRequest(f"assets must be a list of labels, got {shown(assets)}")
    labels = list(found or ()) if assets is None else list(assets)
    require(len(labels) == n_columns, f"assets must name the {n_columns} columns of returns, got {len(labels)} names")
    try:
        twice = [label for label, n in Counter(labels).items() if n > 1]
    except TypeError as error:
        raise InvalidRequest(f"assets must be labels: {error}") from None
    require(not twice, f"assets must have one column each, but {twice[:10]} have several")
    nameless = [column for column, label in enumerate(labels) if label is None or label != label]
    require(not nameless, f"assets must have names, but columns {nameless[:10]} have none")
    return labels


def read_universes(universes: Any, labels: Sequence[Hashable]) -> tuple[Names, np.ndarray, Unknown]:
    """Names of the universes, their column numbers (n_universes, widest), and the assets that are no columns.

    The i-th asset, if unknown, is column n_columns + i.
    """
    if isinstance(universes, np.ndarray) and universes.ndim == 2 and universes.dtype.kind in "iu":
        return _columns(universes, len(labels))
    if is_a(universes, "pandas", "Series"):
        universes = universes.to_dict() if universes.index.is_unique else universes.tolist()
    if universes is None:
        universes = {"all": labels}
    # What is wrong is written only where something is: to write thousands of lists takes longer than to estimate them.
    if (
        not isinstance(universes, Iterable)
        or isinstance(universes, str | bytes)
        or is_a(universes, "pandas", "DataFrame")
    ):
        wanted = "universes must be a mapping of names to lists of assets, or a list of such lists"
        raise InvalidRequest(f"{wanted}, got {shown(universes)}")
    given = list(universes.values() if isinstance(universes, Mapping) else universes)
    names: Names = tuple(universes if isinstance(universes, Mapping) else range(len(given)))
    require(len(given) > 0, "universes are empty: there is nothing to estimate")
    column_of = {label: column for column, label in enumerate(labels)}
    rows, unknown = [], {}
    for u, (name, universe) in enumerate(zip(names, given, strict=True)):
        if not isinstance(universe, Iterable) or isinstance(universe, str | bytes | Mapping):
            raise InvalidRequest(f"universe {name!r} must be a list of assets, got {shown(universe)}")
        entries = universe.tolist() if isinstance(universe, np.ndarray) else list(universe)
        _check_size(name, len(entries))
        require(
            not (entries and isinstance(entries[0], bool | np.bool_)),  # which would be columns 0 and 1
            f"universe {name!r} must list its assets, got a mask of {len(entries)} booleans",
        )
        try:
            row = [column_of.get(entry, PADDING) for entry in entries]
        except TypeError as error:
            raise InvalidRequest(f"universes must hold asset labels or column numbers: {error}") from None
        for i, column in enumerate(row):
            if column == PADDING:
                unknown[u, i] = entries[i]
                row[i] = len(labels) + i
        rows.append(np.array(row, np.int32))
    encoded = np.full((len(rows), max(1, *map(len, rows))), PADDING, np.int32)
    for filled, codes in zip(encoded, rows, strict=True):
        filled[: len(codes)] = codes
    return names, encoded, unknown


def read_blocks(blocks: Any, universes: np.ndarray, labels: Sequence[Hashable]) -> tuple[np.ndarray, Names]:
    """Block ids of every universe's assets, (n_universes, widest), and what the ids stand for."""
    used = universes != PADDING
    if isinstance(blocks, Mapping) or hasattr(blocks, "to_dict"):
        block_of = dict(blocks) if isinstance(blocks, Mapping) else blocks.to_dict()
        columns, first = np.unique(universes[used], return_index=True)
        columns = columns[np.argsort(first)]
        known = columns[columns < len(labels)].tolist()
        missing = [labels[column] for column in known if _no_block(block_of.get(labels[column]))]
        require(not missing, f"blocks must give every asset a block; {missing[:10]} have none")
        ids = {block: i for i, block in enumerate(dict.fromkeys(block_of[labels[column]] for column in known))}
        require(len(ids) > 0, "blocks must give every asset a block, but they name no asset of any universe")
        names: Names = tuple(ids)
        # The universe of an unknown asset is refused whatever its block, so that may be any.
        id_of_column = np.zeros(max(universes.max() + 1, len(labels)), np.int32)
        id_of_column[known] = [ids[block_of[labels[column]]] for column in known]
        values = id_of_column[universes[used]]
    else:
        given = integers("blocks", blocks, universes.shape)[used]
        require(bool((given >= 0).all()), "blocks must give every asset a block id of 0 or more")
        unique, values = np.unique(given, return_inverse=True)
        names = tuple(unique.tolist())
    encoded = np.full(universes.shape, PADDING, np.int32)
    encoded[used] = values
    return encoded, names


def _columns(universes: np.ndarray, n_columns: int) -> tuple[Names, np.ndarray, Unknown]:
    """`read_universes` of an array, which holds column numbers even where columns have labels; padded at the end."""
    require(len(universes) > 0, "universes are empty: there is nothing to estimate")
    universes = universes if universes.shape[1] else np.full((len(universes), 1), PADDING)
    if universes.dtype not in (np.int32, np.int64):  # too small for the columns of unknown assets, or for -1
        universes = universes.astype(np.int64)
    used = universes != PADDING
    sizes = np.where(used.any(axis=1), used.shape[1] - np.argmax(used[:, ::-1], axis=1), 0)
    widest = int(np.argmax(sizes))
    _check_size(widest, int(sizes[widest]))
    universes = universes[:, : max(1, sizes[widest])]
    position = np.arange(universes.shape[1])
    inside = position < sizes[:, None]
    wrong = inside & ((universes < 0) | (universes >= n_columns))
    encoded = np.where(inside, universes, PADDING)
    rows, positions = np.nonzero(wrong)
    encoded[rows, positions] = n_columns + positions
    places = zip(rows.tolist(), positions.tolist(), strict=True)
    unknown: Unknown = {place: int(universes[place]) for place in places}
    return tuple(range(len(universes))), encoded.astype(np.int32, copy=False), unknown


def _check_size(name: Hashable, size: int) -> None:
    require(size <= MAX_ASSETS, f"universe {name!r} has {size} assets, more than the limit of {MAX_ASSETS}")


def _no_block(block: Any) -> bool:
    return block is None or block != block  # None, or NaN as pandas has it for a missing one
