# SPDX-License-Identifier: Apache-2.0
"""The members' answers into one: averages weighted by precision, and the uncertainty between the members."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sigmahat_kernels.parameters import PUBLISHED, intensity_of, split_parameters
from sigmahat_kernels.status import InvalidRequest, Status


class Combined(NamedTuple):
    """The ensemble's answer for `n` universes. All float32; NaN where the status is not GOOD."""

    parameters: np.ndarray  # (n, N_PARAMETERS), averages of the members' heads
    intensity: np.ndarray  # (n,), delta = sum_k pi_k alpha_k
    block_intensity: np.ndarray  # (n, n_blocks)
    uncertainty: np.ndarray  # (n, 2), aleatoric and epistemic standard deviation of the expected error


def combine(members: Sequence[np.ndarray], row_status: np.ndarray) -> Combined:
    """Average the members, weighted by the precision each claims for itself; see `weigh` and `publish`."""
    return publish(weigh(members), row_status)


def check_rows(rows: Sequence[np.ndarray], row_status: np.ndarray, row_asset: np.ndarray) -> None:
    """Refuse what the steps before have not made: whoever reaches a server can ask this one alone.

    Parameters
    ----------
    rows : sequence of arrays of shape (n * (1 + n_blocks), ...)
    row_status, row_asset : array of shape (n, 1 + n_blocks)

    Raises
    ------
    InvalidRequest
    """
    if not row_status.size or row_asset.shape != row_status.shape:
        raise InvalidRequest(
            f"ROW_STATUS and ROW_ASSET must have one shape, (universes, 1 + blocks), got {row_status.shape} and "
            f"{row_asset.shape}"
        )
    if {len(each) for each in rows} != {row_status.size}:
        raise InvalidRequest(f"each member must have {row_status.size} rows, got {[len(each) for each in rows]}")
    if row_status.min() < 0 or row_status.max() >= len(Status):
        raise InvalidRequest(f"ROW_STATUS must be 0 to {len(Status) - 1}")


def weigh(members: Sequence[np.ndarray]) -> np.ndarray:
    """Average the members' rows, weighted by the precision each claims for itself.

    Parameters
    ----------
    members : sequence of arrays of shape (n_rows, N_PARAMETERS)

    Returns
    -------
    array of shape (n_rows, N_PARAMETERS + 1), float64
        The averages, with the logarithm of the averaged variance as log_variance; then the variance between members.

    Notes
    -----
    Uncertainty follows the law of total variance over the members m with weights p_m (Lakshminarayanan, Pritzel,
    Blundell 2017): aleatoric^2 = sum p_m sigma_m^2, epistemic^2 = sum p_m (mu_m - mu)^2.
    """
    stack = np.stack(members).astype(np.float64)  # (members, rows, parameters)
    heads = split_parameters(stack)
    precision = np.exp(-heads.log_variance)
    weights = precision / precision.sum(axis=0)
    mean = (weights * stack).sum(axis=0)
    answer = split_parameters(mean)
    between = (weights * (heads.expected_error - answer.expected_error) ** 2).sum(axis=0)
    answer.log_variance[:] = np.log((weights * np.exp(heads.log_variance)).sum(axis=0))  # a view of `mean`
    return np.concatenate([mean, between], axis=1)


def publish(weighted: np.ndarray, row_status: np.ndarray) -> Combined:
    """Cut weighted rows into universes and their blocks.

    Parameters
    ----------
    weighted : array of shape (n * (1 + n_blocks), N_PARAMETERS + 1)
        From `weigh`, or from the engine that does the same: a universe's row, then those of its blocks, as
        `request.with_blocks` lays them out.
    row_status : array of shape (n, 1 + n_blocks)
        Status of each of these rows. A block without an answer of its own takes its universe's intensity.
    """
    mean, between = weighted[:, :-1].astype(np.float64), weighted[:, -1:].astype(np.float64)
    answer = split_parameters(mean)
    intensity = intensity_of(answer).reshape(row_status.shape)
    good = row_status == Status.GOOD
    universe_good = good[:, 0]
    block_intensity = np.where(good[:, 1:], intensity[:, 1:], intensity[:, :1])

    def universes_only(values: np.ndarray) -> np.ndarray:
        own = values.reshape(*row_status.shape, -1)[:, 0]
        return np.where(universe_good[:, None], own, np.nan).astype(np.float32)

    return Combined(
        parameters=universes_only(mean),
        intensity=universes_only(intensity.reshape(-1, 1))[:, 0],
        block_intensity=np.where(universe_good[:, None], block_intensity, np.nan).astype(np.float32),
        uncertainty=universes_only(np.sqrt(np.concatenate([np.exp(answer.log_variance), between], axis=1))),
    )


def published_tensors(combined: Combined) -> dict[str, np.ndarray]:
    """The ensemble's answer under the names, and in the shapes, of the protocol (STATUS aside)."""
    answer = {**split_parameters(combined.parameters)._asdict(), **combined._asdict()}
    tensors = {name.upper(): answer[name].reshape(-1, *head.shape) for name, head in PUBLISHED.items()}
    return {**tensors, "BLOCK_INTENSITY": combined.block_intensity}
