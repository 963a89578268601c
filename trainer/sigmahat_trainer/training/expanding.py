# SPDX-License-Identifier: Apache-2.0
"""Expanding-window normalisation: training features as they looked in their month, beside all that came before it."""

from __future__ import annotations

import numpy as np

from sigmahat_kernels.features import FEATURE_NAMES
from sigmahat_trainer.data.dataset import Dataset
from sigmahat_trainer.model.preprocessing import INDICATORS, indicator_columns

LEAST_VALUES = 252
"""A month in which fewer values were known takes the first window that has so many."""

_NARROWEST = 0.1
"""Of the last window's deviation: what a window's counts as where a feature had hardly varied yet."""


def expanding_dataset(dataset: Dataset) -> Dataset:
    """The same samples with features of `expanding_normalisation`."""
    sizes, stacks = list(dataset.by_size), list(dataset.by_size.values())
    periods = np.concatenate([stack.period for stack in stacks])
    features = expanding_normalisation(dataset.features(), periods)
    parts = np.split(features, np.cumsum([len(stack.period) for stack in stacks])[:-1])
    return Dataset(
        {size: stack._replace(features=part) for size, stack, part in zip(sizes, stacks, parts, strict=True)}
    )


def expanding_normalisation(features: np.ndarray, periods: np.ndarray) -> np.ndarray:
    """Features with the mean and the deviation of what was known in their month, in units of the last window.

    With m_t and s_t the mean and standard deviation of a feature over all samples up to month t, and T the last month,
    a value x of month t becomes m_T + s_T (x - m_t) / s_t. So its z-score in the last window is the one that x had in
    its own; and whatever is answered later, in the last window, needs no step of its own: the graph is as without.

    Parameters
    ----------
    features : array of shape (n, n_features)
        As published. Missing values (`INDICATORS`) count nowhere and stay; so do the indicators.
    periods : array of shape (n,)
        Months. Those below zero are of simulated samples, which have no time: they are known from the start, and their
        own window is the last.

    Returns
    -------
    array of shape (n, n_features), float32
    """
    months, month = np.unique(periods, return_inverse=True)
    own_window = np.where(periods < 0, len(months) - 1, month)
    indicators = indicator_columns(features.shape[1])
    known = np.ones(features.shape, bool)
    for indicator, dependents in zip(indicators, INDICATORS.values(), strict=True):
        known[:, list(map(FEATURE_NAMES.index, dependents))] = features[:, [indicator]] != 0
    restated = features.astype(np.float32)
    for column in np.setdiff1d(np.arange(features.shape[1]), indicators):
        of = known[:, column]
        restated[of, column] = _restated(features[of, column], month[of], own_window[of], len(months))
    return restated


def _restated(values: np.ndarray, month: np.ndarray, own_window: np.ndarray, n_months: int) -> np.ndarray:
    n_known = np.bincount(month, minlength=n_months).cumsum()
    if n_known[-1] < LEAST_VALUES:
        return values
    centre = values.mean(dtype=np.float64)
    x = values - centre  # first, or the sums of squares would lose the digits
    first, second = (np.bincount(month, power, n_months).cumsum() / np.maximum(n_known, 1) for power in (x, x**2))
    deviation = np.sqrt(np.maximum(second - first**2, 0.0))
    if deviation[-1] == 0:
        return values
    width = deviation / deviation[-1]
    window = np.maximum(own_window, np.argmax(n_known >= LEAST_VALUES))
    restated: np.ndarray = centre + first[-1] + (x - first[window]) / np.maximum(width[window], _NARROWEST)
    return restated
