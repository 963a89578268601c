# SPDX-License-Identifier: Apache-2.0
"""Everything that turns a request into covariances: the closed forms, what was fitted before, what is served."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from sigmahat_kernels.assemble import assemble
from sigmahat_kernels.features import FEATURE_NAMES, compute_features
from sigmahat_kernels.parameters import HEADS, Parameters
from sigmahat_kernels.pipeline import Pipeline
from sigmahat_kernels.request import PADDING, Request
from sigmahat_trainer.baselines.closed_form import Baseline
from sigmahat_trainer.data.panels import fill_missing

Estimator = Callable[[Request], Sequence[np.ndarray]]
"""Covariances of all universes of a request, each (N, N) without padding, NaN where the estimator does not exist."""


def closed_form(baseline: Baseline) -> Estimator:
    """Apply an estimator of `closed_form.BASELINES` to each universe, its missing returns filled by `fill_missing`."""

    def estimate(request: Request) -> list[np.ndarray]:
        covariances = []
        for returns in universe_returns(request):
            try:
                covariances.append(baseline(fill_missing(returns)))
            except np.linalg.LinAlgError:
                covariances.append(np.full((returns.shape[1],) * 2, np.nan))
        return covariances

    return estimate


def universe_returns(request: Request) -> list[np.ndarray]:
    """The returns of each universe, each of shape (n_obs, n_assets) float64, NaN = missing."""
    return [
        request.panel[start:stop, universe[universe != PADDING]].astype(np.float64)
        for universe, (start, stop) in zip(request.universes, request.windows, strict=True)
    ]


def served(pipeline: Pipeline) -> Estimator:
    """The ensemble as it is served, in process."""
    return lambda request: unpadded(request, pipeline.estimate(request).covariance)


def learned_constants(constants: Mapping[str, Sequence[float]]) -> Estimator:
    """One answer for every universe; heads that are not named are 0: no tilts, no correction of the level."""

    def estimate(request: Request) -> list[np.ndarray]:
        n = len(request.universes)
        parameters = Parameters(*(np.tile(constants.get(name, [0.0] * width), (n, 1)) for name, width in HEADS.items()))
        return unpadded(request, assemble(request, parameters, compute_features(request).status))

    return estimate


def checkpoint_pipeline(run: Path) -> Pipeline:
    """The float32 members of a training run, before they are quantised, as a pipeline.

    Raises
    ------
    CheckpointError, FileNotFoundError
        If a member is not there, or reads other features.
    """
    import torch

    from sigmahat_trainer.model.member_file import checkpoints, load_member

    def member(path: Path) -> Callable[[np.ndarray], np.ndarray]:
        network = load_member(path, feature_names=FEATURE_NAMES).network

        def answer(features: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                parameters: np.ndarray = network(torch.from_numpy(np.ascontiguousarray(features, np.float32))).numpy()
            return parameters

        return answer

    return Pipeline.of([member(path) for path in checkpoints(run)])


def run_constants(run: Path) -> dict[str, list[float]]:
    """The learned constants of a training run."""
    constants: dict[str, list[float]] = json.loads((run / "metrics.json").read_text())["constants"]
    return constants


def unpadded(request: Request, covariance: np.ndarray | None) -> list[np.ndarray]:
    """Cut the padding off each matrix of an answer."""
    assert covariance is not None
    sizes = (request.universes != PADDING).sum(axis=1)
    return [matrix[:size, :size].astype(np.float64) for matrix, size in zip(covariance, sizes, strict=True)]
