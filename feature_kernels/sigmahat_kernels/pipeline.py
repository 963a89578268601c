# SPDX-License-Identifier: Apache-2.0
"""The whole pipeline in one process, features to matrices and risk. What Triton serves, without Triton."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sigmahat_kernels.assemble import assemble
from sigmahat_kernels.backend import to_numpy
from sigmahat_kernels.combine import Combined, combine, published_tensors
from sigmahat_kernels.features import FeatureTable, compute_features
from sigmahat_kernels.members import MEMBER_FILES, Member, member_folders
from sigmahat_kernels.oddities import Warnings, published_warnings
from sigmahat_kernels.parallel import Pause, available_threads, for_each, go_on
from sigmahat_kernels.parameters import split_parameters
from sigmahat_kernels.portfolios import Portfolios
from sigmahat_kernels.request import Request, with_blocks
from sigmahat_kernels.risk import Risk, measure_portfolios, published_risk
from sigmahat_kernels.shared_window import KeptMoments

Answer = Callable[[np.ndarray], np.ndarray]
"""Features of shape (n, N_FEATURES) to parameters of shape (n, N_PARAMETERS), as `members.Member`."""

Measure = Callable[[str], AbstractContextManager[object]]
"""Given the name of a stage ("features", "members", "assemble" or "measure"). What it returns is entered for as long as
it runs."""


_MANY_ROWS = 64
"""Rows that take a member longer than threads take to begin."""


class Outputs(NamedTuple):
    """What the ensembles answer, for `n` universes."""

    combined: Combined
    status: np.ndarray  # (n,) int32
    status_asset: np.ndarray  # (n,) int32
    warnings: Warnings
    covariance: np.ndarray | None = None  # (n, N, N) float32
    risk: Risk | None = None


class Pipeline:
    """The members of a model repository, loaded once.

    Parameters
    ----------
    model_repository : Path
        Folder that holds ``member_1/1/model.onnx``, its siblings and their manifest.
    """

    def __init__(self, model_repository: Path | str) -> None:
        folders = member_folders(Path(model_repository)).values()
        self.members: Sequence[Answer] = [Member(folder / MEMBER_FILES["int8"]) for folder in folders]

    @classmethod
    def of(cls, members: Sequence[Answer]) -> Pipeline:
        """A pipeline of members that are loaded already, or are not ONNX files at all."""
        pipeline = cls.__new__(cls)
        pipeline.members = members
        return pipeline

    def estimate(
        self,
        request: Request,
        *,
        covariance: bool = True,
        portfolios: Portfolios | None = None,
        minimum_variance: bool = False,
        classic: bool = False,
        pause: Pause = go_on,
        measure: Measure = nullcontext,
    ) -> Outputs:
        """Answer one request; see `assemble.assemble` for `classic` and `pause`, `risk.measure_portfolios` for others.

        Without `covariance` there are no matrices, without `portfolios` there is no risk.
        """
        needs_matrices = covariance or portfolios is not None
        kept = KeptMoments() if needs_matrices and not classic else None
        with measure("features"):
            table, row_status, row_asset = features_and_status(request, kept, pause=pause)
        with measure("members"):
            combined = combine(self._answers(table.features), row_status)
        outputs = Outputs(combined, row_status[:, 0], row_asset[:, 0], table.warnings)
        heads = split_parameters(combined.parameters)
        of_matrices: dict[str, Any] = {
            "block_intensity": combined.block_intensity,
            "classic": classic,
            "kept": kept,
            "pause": pause,
        }
        if covariance:
            with measure("assemble"):
                matrices = assemble(request, heads, outputs.status, **of_matrices)
                outputs = outputs._replace(covariance=to_numpy(matrices))
        if portfolios is not None:
            with measure("measure"):
                risk = measure_portfolios(
                    request, heads, outputs.status, portfolios, minimum_variance=minimum_variance, **of_matrices
                )
                outputs = outputs._replace(risk=risk)
        return outputs

    def _answers(self, features: np.ndarray) -> list[np.ndarray]:
        """What each member answers, side by side where there are rows enough: one alone keeps one core busy.

        A member sees all rows at once, whatever the threads: its last bits depend on how many there are.
        """
        answers: dict[int, np.ndarray] = {}

        def ask(k: int) -> None:
            answers[k] = self.members[k](features)

        places = range(len(self.members))
        for_each(ask, places, available_threads() if len(features) >= _MANY_ROWS else 1)
        return [answers[k] for k in places]


def published_outputs(outputs: Outputs, universes: np.ndarray) -> dict[str, np.ndarray]:
    """What is answered of `universes` (n, N), under the names and in the shapes of the protocol."""
    return {
        **published_tensors(outputs.combined),
        "STATUS": outputs.status,
        "STATUS_ASSET": outputs.status_asset,
        **published_warnings(outputs.warnings, universes),
        **({} if outputs.covariance is None else {"COVARIANCE": outputs.covariance}),
        **({} if outputs.risk is None else published_risk(outputs.risk)),
    }


def features_and_status(
    request: Request, kept: KeptMoments | None = None, *, pause: Pause = go_on
) -> tuple[FeatureTable, np.ndarray, np.ndarray]:
    """Features of all universes and their blocks, with status and offending asset as arrays (universes, 1 + blocks).

    Warnings are those of the universes: a block is smaller, but nobody asked for it alone.
    """
    table = compute_features(with_blocks(request), kept=kept, pause=pause)
    n_universes = len(request.universes)
    own = slice(None, None, len(table.status) // n_universes)
    warnings = Warnings(*(flags[own] for flags in table.warnings))
    shape = (n_universes, -1)
    return table._replace(warnings=warnings), table.status.reshape(shape), table.status_asset.reshape(shape)
