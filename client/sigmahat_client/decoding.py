# SPDX-License-Identifier: Apache-2.0
"""The answers of a job's requests, in whatever order they arrive -> `Estimates`."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np

from sigmahat_client.encoding import Job, chunk_tensors
from sigmahat_client.errors import ServerError
from sigmahat_client.estimates import Estimates
from sigmahat_kernels.parameters import HEADS, REGIMES, TARGETS
from sigmahat_kernels.request import PADDING, block_ids

_COLUMNS: dict[str, tuple[int, ...]] = {
    "INTENSITY": (),
    "TARGET_WEIGHTS": (len(TARGETS),),
    "TARGET_INTENSITY": (len(TARGETS),),
    "TARGET_CONFIDENCE": (len(TARGETS),),
    "MEMORY": (1,),
    "VOLATILITY": (HEADS["volatility"],),
    "CONDITION": (),
    "EXPECTED_ERROR": (),
    "REGIME": (len(REGIMES),),
    "UNCERTAINTY": (2,),
    "STATUS": (),
    "STATUS_ASSET": (),
}
_INTEGERS = {"STATUS", "STATUS_ASSET"}


class Collector:
    """Answers as they come in, under the names of the protocol."""

    def __init__(self, job: Job, *, covariance: bool) -> None:
        n_universes = len(job.names)
        self.job = job
        self.n_done = 0
        self.outputs = [*_COLUMNS, *["BLOCK_INTENSITY"] * (job.blocks is not None), *["COVARIANCE"] * covariance]
        self._tensors = {
            name: np.empty((n_universes, *columns), np.int32 if name in _INTEGERS else np.float32)
            for name, columns in _COLUMNS.items()
        }
        self._block_intensity = np.full((n_universes, len(job.block_names)), np.nan, np.float32)
        self._covariance = [np.empty((0, 0), np.float32)] * n_universes if covariance else None

    def store(self, chunk: slice, answer: Mapping[str, np.ndarray | None]) -> None:
        """Put the answer of one request in its place.

        Raises
        ------
        ServerError
            If a tensor is missing or has another shape than the protocol says.
        """
        sent = chunk_tensors(self.job, chunk)
        n, width = sent["UNIVERSES"].shape
        for name, tensor in self._tensors.items():
            tensor[chunk] = _received(answer, name, (n, *_COLUMNS[name]))
        if "BLOCK_INTENSITY" in self.outputs:
            occurring = block_ids(sent["UNIVERSES"], sent["BLOCKS"])
            intensity = _received(answer, "BLOCK_INTENSITY", (n, len(occurring)))
            held = (sent["BLOCKS"][:, :, None] == occurring).any(axis=1)
            self._block_intensity[chunk, occurring] = np.where(held, intensity, np.nan)
        if self._covariance is not None:
            matrices = _received(answer, "COVARIANCE", (n, width, width))
            for u, matrix in enumerate(matrices, chunk.start):
                size = len(self.job.assets[u])
                self._covariance[u] = matrix[:size, :size].copy()  # a view would keep the whole answer alive
        self.n_done += n

    def estimates(self) -> Estimates:
        """Turn the tensors, once all are there, into the caller's words."""
        fields = {name.lower(): tensor for name, tensor in self._tensors.items()}
        codes = fields.pop("status_asset")
        return Estimates(
            universes=self.job.names,
            assets=self.job.assets,
            labelled=self.job.labelled,
            memory=fields.pop("memory")[:, 0],
            block_names=self.job.block_names,
            block_intensity=self._block_intensity,
            status_asset=tuple(self._asset(u, code) for u, code in enumerate(codes.tolist())),
            covariance=None if self._covariance is None else tuple(self._covariance),
            **fields,
        )

    def _asset(self, u: int, code: int) -> Hashable | None:
        if code == PADDING:
            return None
        position = self.job.universes[u].tolist().index(code)
        return self.job.assets[u][position]


def _received(answer: Mapping[str, np.ndarray | None], name: str, shape: tuple[int, ...]) -> np.ndarray:
    tensor = answer[name]
    if tensor is None or tensor.shape != shape:
        got = "nothing" if tensor is None else f"shape {tensor.shape}"
        raise ServerError(
            f"the server should answer {name} of shape {shape}, got {got}: do its version and ours match?"
        )
    return tensor
