# SPDX-License-Identifier: Apache-2.0
"""The answer to one request -> `Estimates` of its universes, or `Risks`."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sigmahat_client.errors import UNANSWERED, ServerError
from sigmahat_client.estimates import Estimates
from sigmahat_client.intake import Positions
from sigmahat_client.intake.job import Job, chunk_tensors, window_bounds
from sigmahat_client.intake.returns import refused_assets
from sigmahat_client.risks import Risks
from sigmahat_kernels.parameters import PUBLISHED
from sigmahat_kernels.request import PADDING, block_ids
from sigmahat_kernels.status import PortfolioStatus, Status, WarningFlag

_SHAPES: dict[str, tuple[int, ...]] = {
    **{name.upper(): head.shape for name, head in PUBLISHED.items()},
    "STATUS": (),
    "STATUS_ASSET": (),
    "WARNINGS": (),
}
"""Tensor -> its shape behind the axis of universes."""


def output_names(job: Job, *, covariance: bool) -> list[str]:
    """What to ask for."""
    return [*_SHAPES, "ASSET_WARNINGS", *["BLOCK_INTENSITY"] * (job.blocks is not None), *["COVARIANCE"] * covariance]


def decode(job: Job, chunk: slice, answer: Mapping[str, npt.NDArray[Any] | None]) -> Estimates:
    """Turn the tensors that answer one request into the caller's words. They are copied.

    Raises
    ------
    ServerError
        If a tensor is missing or has another shape than the protocol says.
    """
    sent = chunk_tensors(job, chunk)
    n, width = sent["UNIVERSES"].shape
    fields = {name: np.array(_received(answer, name, (n, *shape))) for name, shape in _SHAPES.items()}
    if job.rows.intraday:  # the server cannot know: no DATES are sent
        fields["WARNINGS"][fields["STATUS"] == Status.GOOD] |= WarningFlag.UNUSUAL_SPACING
    block_intensity = _no_blocks(job, n)
    if job.blocks is not None:
        occurring = block_ids(sent["UNIVERSES"], sent["BLOCKS"])
        intensity = _received(answer, "BLOCK_INTENSITY", (n, len(occurring)))
        held = (sent["BLOCKS"][:, :, None] == occurring).any(axis=1)
        block_intensity[:, occurring] = np.where(held, intensity, np.nan)
    covariance = None
    if "COVARIANCE" in answer:
        matrices = _received(answer, "COVARIANCE", (n, width, width))
        sizes = job.sizes[chunk].tolist()
        # Each its own copy: a view would keep the whole answer alive.
        covariance = tuple(matrix[:size, :size].copy() for matrix, size in zip(matrices, sizes, strict=True))
    flagged = _received(answer, "ASSET_WARNINGS", (None, 3)).tolist()
    return _estimates(job, chunk, fields, flagged, block_intensity, covariance)


def unanswered(job: Job, chunk: slice, *, covariance: bool) -> Estimates:
    """Stand in for universes to which no answer came: NaN, with the status `UNANSWERED`."""
    n = chunk.stop - chunk.start
    fields = {name: np.full((n, *shape), np.nan, np.float32) for name, shape in _SHAPES.items()}
    fields["STATUS"] = np.full(n, UNANSWERED, np.int32)
    fields["STATUS_ASSET"] = np.full(n, PADDING, np.int32)
    fields["WARNINGS"] = np.zeros(n, np.int32)
    sizes = job.sizes[chunk].tolist()
    matrices = tuple(np.broadcast_to(np.float32(np.nan), (size, size)) for size in sizes) if covariance else None
    return _estimates(job, chunk, fields, [], _no_blocks(job, n), matrices)


def risk_output_names(job: Job, *, contributions: bool, minimum_variance: bool) -> list[str]:
    """What to ask `risk` for."""
    return [
        *output_names(job, covariance=False),
        *("VARIANCE", "DIAGONAL", "PORTFOLIO_STATUS", "PORTFOLIO_ASSET"),
        *["MARGINAL"] * contributions,
        *["MINIMUM_VARIANCE_WEIGHTS", "MINIMUM_VARIANCE"] * minimum_variance,
    ]


def decode_risk(
    job: Job, positions: Positions, chunk: slice, answer: Mapping[str, npt.NDArray[Any] | None], periods: float
) -> Risks:
    """Turn the tensors that answer one request of `risk` into the caller's words, over so many periods.

    Raises
    ------
    ServerError
        As `decode`.
    """
    n, width = chunk_tensors(job, chunk)["UNIVERSES"].shape
    n_portfolios = len(positions.names)
    shapes = {
        "VARIANCE": (n, n_portfolios),
        "DIAGONAL": (n, width),
        "PORTFOLIO_STATUS": (n, n_portfolios),
        "PORTFOLIO_ASSET": (n, n_portfolios),
        "MARGINAL": (n, n_portfolios, width),
        "MINIMUM_VARIANCE_WEIGHTS": (n, 2, width),
        "MINIMUM_VARIANCE": (n, 2),
    }
    tensors = {name: _received(answer, name, shape) for name, shape in shapes.items() if answer.get(name) is not None}
    return _risks(job, positions, chunk, decode(job, chunk, answer), tensors, periods)


def no_risk(job: Job, positions: Positions, chunk: slice, outputs: Sequence[str], periods: float) -> Risks:
    """Stand in for universes to which no answer came."""
    n, width = chunk_tensors(job, chunk)["UNIVERSES"].shape
    n_portfolios = len(positions.names)
    tensors = {
        "VARIANCE": np.full((n, n_portfolios), np.nan),
        "DIAGONAL": np.full((n, width), np.nan),
        "PORTFOLIO_STATUS": np.full((n, n_portfolios), int(PortfolioStatus.UNIVERSE_REFUSED), np.int32),
        "PORTFOLIO_ASSET": np.full((n, n_portfolios), PADDING, np.int32),
        "MARGINAL": np.full((n, n_portfolios, width), np.nan),
        "MINIMUM_VARIANCE_WEIGHTS": np.full((n, 2, width), np.nan),
        "MINIMUM_VARIANCE": np.full((n, 2), np.nan),
    }
    asked = {name: tensor for name, tensor in tensors.items() if name in outputs}
    return _risks(job, positions, chunk, unanswered(job, chunk, covariance=False), asked, periods)


def _risks(
    job: Job,
    positions: Positions,
    chunk: slice,
    estimates: Estimates,
    tensors: Mapping[str, npt.NDArray[Any]],
    periods: float,
) -> Risks:
    sizes = job.sizes[chunk].tolist()

    def cut(whole: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float64], ...]:
        """Each universe's part without padding, as an array of its own."""
        return tuple(part[..., :size].copy() for part, size in zip(whole, sizes, strict=True))

    def own(name: str, scale: float) -> tuple[npt.NDArray[np.float64], ...] | None:
        return cut(scale * tensors[name].astype(np.float64)) if name in tensors else None

    places = range(chunk.start, chunk.stop)
    least = tensors.get("MINIMUM_VARIANCE")
    return Risks(
        estimates=estimates,
        portfolios=positions.names,
        periods=periods,
        weights=cut(positions.of(job, chunk)),
        portfolio_status=np.array(tensors["PORTFOLIO_STATUS"]),
        portfolio_asset=tuple(
            tuple(_asset(job, u, code) for code in codes)
            for u, codes in zip(places, tensors["PORTFOLIO_ASSET"].tolist(), strict=True)
        ),
        variance=periods * tensors["VARIANCE"],
        diagonal=own("DIAGONAL", periods) or (),
        marginal=own("MARGINAL", periods),
        minimum_variance_weights=own("MINIMUM_VARIANCE_WEIGHTS", 1.0),
        minimum_variance=None if least is None else periods * least,
    )


def _no_blocks(job: Job, n: int) -> npt.NDArray[Any]:
    return np.full((n, len(job.block_names)), np.nan, np.float32)


def _estimates(
    job: Job,
    chunk: slice,
    tensors: dict[str, npt.NDArray[Any]],
    flagged: list[list[int]],
    block_intensity: npt.NDArray[Any],
    covariance: tuple[npt.NDArray[Any], ...] | None,
) -> Estimates:
    published = {name: tensors[name.upper()] for name in PUBLISHED}
    # A single number a universe has no axis of its own here, whatever the tensor's shape.
    fields = {name: tensor[:, 0] if tensor.shape[1:] == (1,) else tensor for name, tensor in published.items()}
    codes = tensors["STATUS_ASSET"].tolist()
    n_rows, first, last = _covered(job, chunk)
    return Estimates(
        universes=job.names[chunk],
        assets=tuple(map(job.assets_of, range(chunk.start, chunk.stop))),
        labelled=job.labelled,
        n_rows=n_rows,
        first_date=first,
        last_date=last,
        block_names=job.block_names,
        block_intensity=block_intensity,
        status=tensors["STATUS"],
        status_asset=tuple(_asset(job, chunk.start + i, code) for i, code in enumerate(codes)),
        warnings=_named_flags(job, chunk, tensors["WARNINGS"].tolist(), flagged),
        refused=tuple(
            refused_assets(job, chunk.start + i, status, code)
            for i, (status, code) in enumerate(zip(tensors["STATUS"].tolist(), codes, strict=True))
        ),
        dropped=job.dropped[chunk],
        covariance=covariance,
        **fields,
    )


def _covered(job: Job, chunk: slice) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """How many rows each universe's window has, and the dates of the first and the last."""
    start, stop = window_bounds(job)[chunk].T
    n_rows = np.maximum(stop - start, 0).astype(np.int32)
    first, last = (np.full(len(n_rows), "NaT", "datetime64[us]") for _ in range(2))
    if job.rows.stamps is not None:
        some = n_rows > 0
        first[some], last[some] = job.rows.stamps[start[some]], job.rows.stamps[stop[some] - 1]
    return n_rows, first, last


def _named_flags(
    job: Job, chunk: slice, flags: list[int], flagged: list[list[int]]
) -> tuple[dict[str, tuple[Hashable, ...]], ...]:
    """Each universe's flags by name, with the assets that (universe, asset, flags) of `flagged` say have them."""
    of_assets: dict[int, list[tuple[int, int]]] = {}
    for u, code, own in flagged:
        of_assets.setdefault(u, []).append((code, own))
    found = []
    for u, whole in enumerate(flags):
        odd = {}
        for bit in (1 << k for k in range(whole.bit_length()) if whole >> k & 1):
            assets = [_asset(job, chunk.start + u, code) for code, own in of_assets.get(u, []) if own & bit]
            odd[WarningFlag(bit).name or str(bit)] = tuple(assets)
        found.append(odd)
    return tuple(found)


def _asset(job: Job, u: int, code: int) -> Hashable | None:
    if code == PADDING:
        return None
    place: int = job.universes[u].tolist().index(code)
    return job.assets_of(u)[place]


def _received(
    answer: Mapping[str, npt.NDArray[Any] | None], name: str, shape: tuple[int | None, ...]
) -> npt.NDArray[Any]:
    """The tensor of that name, checked; None is any length."""
    tensor = answer[name]
    if tensor is None or not _fits(tensor.shape, shape):
        got = "nothing" if tensor is None else f"shape {tensor.shape}"
        wanted = str(shape).replace("None", "any")
        raise ServerError(
            f"the server should answer {name} of shape {wanted}, got {got}: do its version and ours match?"
        )
    return tensor


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(w in (None, length) for length, w in zip(shape, wanted, strict=True))
