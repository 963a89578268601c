# SPDX-License-Identifier: Apache-2.0
"""The gate between a member's network and its ONNX file: what int8 may change."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from sigmahat_kernels.combine import combine
from sigmahat_kernels.members import MEAN_LIMIT, P99_LIMIT, session_on_cpu
from sigmahat_kernels.parameters import split_parameters
from sigmahat_trainer.export.onnx import INPUT, OUTPUT
from sigmahat_trainer.model.network import CLIP, FORMS, MemberNetwork

Difference = dict[str, dict[str, float]]
"""Of each group of outputs, the "mean" and the 99 % quantile "p99" of an absolute difference."""


class QuantisationError(ValueError):
    """The int8 file answers too differently from the network that it was made from."""


def int8_difference(network: MemberNetwork, onnx_path: str | os.PathLike[str], features: Any) -> Difference:
    """How far the file's answers are from the float network's, on features of shape (n, n_features).

    For each part of the answer that has a unit, see `in_units`, the mean and the 99 % quantile of the absolute
    difference, over rows and columns. The file runs in ONNX Runtime on one thread.
    """
    features = np.asarray(features, dtype=np.float32)
    from_file = in_units(_run(onnx_path, features))
    with torch.no_grad():
        expected = in_units(copy.deepcopy(network).cpu().eval()(torch.from_numpy(features)).numpy())
    difference = {name: np.abs(from_file[name] - expected[name]) for name in expected}
    return {
        name: {"mean": float(values.mean()), "p99": float(np.quantile(values, 0.99))}
        for name, values in difference.items()
    }


def intensity_difference(
    networks: Sequence[MemberNetwork], onnx_paths: Sequence[str | os.PathLike[str]], features: Any
) -> dict[str, float]:
    """How far the ensemble's intensity delta is from the float networks', on features of shape (n, n_features).

    The mean and the 99 % quantile of the absolute difference, after the members were weighed.
    """
    features = np.asarray(features, dtype=np.float32)
    good = np.zeros((len(features), 1), np.int32)
    with torch.no_grad():
        expected = [copy.deepcopy(n).cpu().eval()(torch.from_numpy(features)).numpy() for n in networks]
    answers = [_run(path, features) for path in onnx_paths]
    difference = np.abs(combine(answers, good).intensity - combine(expected, good).intensity)
    return {"mean": float(difference.mean()), "p99": float(np.quantile(difference, 0.99))}


def clipped_share(network: MemberNetwork, features: Any, feature_names: Sequence[str]) -> dict[str, float]:
    """Share of each input's values that the Clip before the first int8 layer limits.

    Int8 saturates beyond the clip as the float network does, so a share of a few per cent loses nothing that training
    had; an input whose share grows in production has left the data that the members were trained on.

    Parameters
    ----------
    network : MemberNetwork
    features : array of shape (n, n_features)
    feature_names : sequence of str
        Of each column. Without preprocessing they are the inputs' names, see `Preprocessing.names`.
    """
    rows = torch.from_numpy(np.asarray(features, dtype=np.float32))
    member = copy.deepcopy(network).cpu().eval()
    with torch.no_grad():
        share = (member.normalise(rows).abs() > CLIP).double().mean(dim=0)
    return dict(zip(member.preprocessing.names(feature_names), share.tolist(), strict=True))


def check_int8_difference(
    difference: Mapping[str, Mapping[str, float]], *, mean_limit: float = MEAN_LIMIT, p99_limit: float = P99_LIMIT
) -> None:
    """Raise QuantisationError, naming the outputs, if `int8_difference` found more than the limits allow."""
    limits = {"mean": mean_limit, "p99": p99_limit}
    # "not <=" and not ">", so that NaN is refused too.
    broken = [
        f"{name}: {statistic} {values[statistic]:.4f} above {limit}"
        for name, values in difference.items()
        for statistic, limit in limits.items()
        if not values[statistic] <= limit
    ]
    if broken:
        raise QuantisationError("int8 changes the answers too much; " + "; ".join(broken))


def in_units(parameters: np.ndarray) -> dict[str, np.ndarray]:
    """What the gate judges of PARAMETERS of shape (n, N_PARAMETERS): each part of a head that has a unit, in that unit.

    A bounded answer is measured in the width of its bounds, which for a probability is 1; see `network.FORMS`.
    """
    heads = split_parameters(parameters)._asdict()
    return {
        part.name: columns / part.unit
        for name, form in FORMS.items()
        for part, columns in form.cut(heads[name])
        if part.unit is not None
    }


def _run(onnx_path: str | os.PathLike[str], features: np.ndarray) -> np.ndarray:
    answers: np.ndarray = session_on_cpu(onnx_path).run([OUTPUT], {INPUT: features})[0]
    return answers
