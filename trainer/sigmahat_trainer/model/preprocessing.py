# SPDX-License-Identifier: Apache-2.0
"""What may stand between the raw features and a network's robust scaling: steps fitted once, then part of the graph.

Each step is a module with buffers alone: saved with the member, exported with it, float32 whatever the precision of the
layers behind. None is switched on by default. Expanding-window normalisation, which changes training features and
leaves nothing behind in the graph, is `training.expanding`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from sigmahat_kernels.features import FEATURE_NAMES
from sigmahat_trainer.config import PreprocessingConfig

INDICATORS: dict[str, tuple[str, ...]] = {
    "has_dates": ("season_sin", "season_cos"),
    "has_vix": ("log_vix", "vix_percentile", "vix_change"),
    "has_turnover": ("turnover_change", "turnover_percentile", "turnover_volatility"),
    "has_illiquidity": ("illiquidity_change", "illiquidity_percentile"),
    "has_event": ("event_proximity",),
}
"""Feature that is 0 where others are missing -> those others, which are then 0 too."""

LEVELS = 25
"""Evenly spaced ranks whose training values are known exactly; between them ranks are interpolated."""

KNOTS = 2 * LEVELS - 1
"""Training values that a feature's ranks are kept of: all, if it has no more distinct ones."""

NON_GAUSSIAN = 1.0
"""Skewness, in absolute value, or excess kurtosis above which a feature's training values are not Gaussian."""

_ROWS = 4096
"""Passed through a step at once while fitting: ranks take `KNOTS` numbers for each feature on their way."""


class Preprocessing(nn.Sequential):
    """The steps that `config` switches on: (n, n_features) to (n, n_outputs). Without any, the features themselves.

    >>> steps = Preprocessing(93, PreprocessingConfig(rank_transform="all", principal_components=32), limit=6.0)
    >>> list(steps.keys()), steps.n_outputs
    (['ranks', 'components'], 32)
    """

    def __init__(self, n_features: int, config: PreprocessingConfig, *, limit: float) -> None:
        steps: OrderedDict[str, nn.Module] = OrderedDict()
        width = n_features
        if config.median_imputation == "on":
            steps["imputation"] = MedianImputation(width)
        if config.rank_transform != "off":
            steps["ranks"] = RankTransform(width, only_non_gaussian=config.rank_transform == "non-gaussian")
        if config.selected_features:
            steps["selection"] = Selection(width, config.selected_features)
            width = config.selected_features
        if config.principal_components:
            steps["components"] = PrincipalComponents(width, config.principal_components, limit=limit)
            width = config.principal_components
        super().__init__(steps)
        self.config, self.n_outputs = config, width

    def keys(self) -> Sequence[str]:
        """Names of the steps, in their order."""
        return list(self._modules)

    @torch.no_grad()
    def fit(self, features: np.ndarray, importance: np.ndarray | None = None) -> np.ndarray:
        """Fit each step to what the steps before it make of training features; returns what the last one makes.

        Parameters
        ----------
        features : array of shape (n, n_features)
        importance : array of shape (n_features,), optional
            By which features are selected; wanted if they are.
        """
        for step in self:
            if isinstance(step, Fitted):
                step.fit(features)
            elif isinstance(step, Selection):
                if importance is None:
                    raise ValueError("selected_features needs the importance of each feature, got none")
                step.keep(importance)
            features = torch.cat([step(rows) for rows in torch.from_numpy(features).split(_ROWS)]).numpy()
        return features

    def names(self, feature_names: Sequence[str]) -> tuple[str, ...]:
        """What each of the outputs is called, in order."""
        names = tuple(feature_names)
        for step in self:
            if isinstance(step, Selection):
                names = tuple(names[column] for column in step.columns.tolist())
            elif isinstance(step, PrincipalComponents):
                names = tuple(f"component_{k}" for k in range(1, self.n_outputs + 1))
        return names


class Fitted(nn.Module):
    """A step that learns from the features alone."""

    def fit(self, features: np.ndarray) -> None:
        """Learn from training features of shape (n, n_features)."""
        raise NotImplementedError


class MedianImputation(Fitted):
    """Where an indicator is 0, those features that it speaks of get the median of the training values that there are.

    They are exactly 0 then (`INDICATORS`), so the median is added. The indicator stays: the network still knows.
    """

    indicators: Tensor
    medians: Tensor

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.register_buffer("indicators", torch.from_numpy(indicator_columns(n_features)), persistent=False)
        self.register_buffer("medians", torch.zeros(len(INDICATORS), n_features))

    def fit(self, features: np.ndarray) -> None:
        """Take the medians; 0 where no value is there at all."""
        for row, (indicator, dependents) in enumerate(INDICATORS.items()):
            there = features[features[:, FEATURE_NAMES.index(indicator)] != 0]
            for column in map(FEATURE_NAMES.index, dependents):
                self.medians[row, column] = float(np.median(there[:, column])) if len(there) else 0.0

    def forward(self, features: Tensor) -> Tensor:
        missing = features.index_select(1, self.indicators) == 0
        return features + missing.to(features.dtype) @ self.medians


class RankTransform(Fitted):
    """Each feature's rank among its training values, in 0..1: (average rank - 1/2) / n, linear between `KNOTS` values.

    As scikit-learn's `QuantileTransformer`, but for ties: equal values get their average rank also at the ends. A value
    beyond the training values gets the rank of the last one.
    """

    ranked: Tensor
    lowest: Tensor
    starts: Tensor
    slopes: Tensor
    rises: Tensor

    def __init__(self, n_features: int, *, only_non_gaussian: bool) -> None:
        super().__init__()
        self.only_non_gaussian = only_non_gaussian
        self.register_buffer("ranked", torch.zeros(n_features, dtype=torch.bool))
        self.register_buffer("lowest", torch.zeros(n_features))
        for name in ("starts", "slopes", "rises"):  # of the pieces between neighbouring knots
            self.register_buffer(name, torch.zeros(n_features, KNOTS - 1))

    def fit(self, features: np.ndarray) -> None:
        """Choose the features, and the knots of each."""
        self.ranked.copy_(torch.from_numpy(is_non_gaussian(features) | (not self.only_non_gaussian)))
        pieces = np.zeros((3, *self.starts.shape))
        for column, values in enumerate(features.T):
            knots, ranks = _knots(values)
            gaps = np.diff(knots)
            # The steepest slope of float32 is enough: what is above the knot by one step is then at the next.
            slopes = 1.0 / np.maximum(gaps, 1.0 / np.finfo(np.float32).max)
            pieces[:, column, : len(gaps)] = knots[:-1], slopes, np.diff(ranks)
            self.lowest[column] = ranks[0]
        for buffer, values in zip((self.starts, self.slopes, self.rises), pieces, strict=True):
            buffer.copy_(torch.from_numpy(values))

    def forward(self, features: Tensor) -> Tensor:
        along = ((features.unsqueeze(2) - self.starts) * self.slopes).clamp(0.0, 1.0)
        return torch.where(self.ranked, self.lowest + (along * self.rises).sum(dim=2), features)


class Selection(nn.Module):
    """The `n_kept` most important of the features, in their own order."""

    columns: Tensor

    def __init__(self, n_features: int, n_kept: int) -> None:
        super().__init__()
        if n_kept > n_features:
            raise ValueError(f"selected_features must be at most the {n_features} features there are, got {n_kept}")
        self.register_buffer("columns", torch.arange(n_kept))

    def keep(self, importance: np.ndarray) -> None:
        """Choose by `importance`, of shape (n_features,): more is better; of equals the first."""
        best = np.argsort(-importance, kind="stable")[: len(self.columns)]
        self.columns.copy_(torch.from_numpy(np.sort(best)))

    def forward(self, features: Tensor) -> Tensor:
        return features.index_select(1, self.columns)


class PrincipalComponents(Fitted):
    """The components of the features with most variance, once these are scaled robustly and limited to ±`limit`.

    Not centred: the robust scaling behind takes the median off.
    """

    median: Tensor
    scale: Tensor
    components: Tensor

    def __init__(self, n_features: int, n_components: int, *, limit: float) -> None:
        super().__init__()
        if n_components > n_features:
            raise ValueError(
                f"principal_components must be at most the {n_features} features there are, got {n_components}"
            )
        self.limit = limit
        self.register_buffer("median", torch.zeros(n_features))
        self.register_buffer("scale", torch.ones(n_features))
        self.register_buffer("components", torch.eye(n_features, n_components))

    def fit(self, features: np.ndarray) -> None:
        """Take the eigenvectors of the largest eigenvalues, each with its largest entry above zero."""
        median, spread = robust_scaling(features)
        self.median.copy_(torch.from_numpy(median))
        self.scale.copy_(torch.from_numpy(inverse_spread(median, spread)))
        scaled = self._scaled(torch.from_numpy(features)).double().numpy()
        _, vectors = np.linalg.eigh(np.cov(scaled.T).reshape(scaled.shape[1], -1))
        kept = vectors[:, ::-1][:, : self.components.shape[1]]
        largest = np.take_along_axis(kept, np.abs(kept).argmax(axis=0)[None], axis=0)
        self.components.copy_(torch.from_numpy(kept * np.sign(largest)))

    def forward(self, features: Tensor) -> Tensor:
        return self._scaled(features) @ self.components

    def _scaled(self, features: Tensor) -> Tensor:
        return ((features - self.median) * self.scale).clamp(-self.limit, self.limit)


def indicator_columns(n_features: int) -> np.ndarray:
    """Columns of the features named in `INDICATORS`, in its order.

    Raises
    ------
    ValueError
        If there are not as many features as are published: then nobody knows which may be missing.
    """
    if n_features != len(FEATURE_NAMES):
        raise ValueError(
            f"which features may be missing is known of the {len(FEATURE_NAMES)} published ones, got {n_features}"
        )
    return np.array([FEATURE_NAMES.index(indicator) for indicator in INDICATORS])


def is_non_gaussian(features: np.ndarray) -> np.ndarray:
    """Which features have a skewness beyond ±`NON_GAUSSIAN` or an excess kurtosis above it, (n_features,).

    One that does not vary has neither.
    """
    centred = features - features.mean(axis=0, dtype=np.float64)
    deviation = np.sqrt((centred**2).mean(axis=0))
    varies = deviation > 0
    standardised = centred / np.where(varies, deviation, 1.0)
    skewness, kurtosis = ((standardised**power).mean(axis=0) for power in (3, 4))
    found: np.ndarray = varies & ((np.abs(skewness) > NON_GAUSSIAN) | (kurtosis - 3.0 > NON_GAUSSIAN))
    return found


def robust_scaling(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Median and interquartile range of each feature; where more than half of the values are equal, their deviation."""
    low, median, high = np.quantile(features.astype(np.float64), [0.25, 0.5, 0.75], axis=0)
    spread = high - low
    deviation = features.std(axis=0, dtype=np.float64)
    return median, np.where(spread > 0, np.maximum(spread, 0.1 * deviation), deviation)


def inverse_spread(median: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """1 / spread; 0 where a feature has none, or less than float32's resolution of its median."""
    dead = spread <= np.maximum(1e-6 * np.abs(median), 1e-20)
    return np.where(dead, 0.0, 1.0 / np.where(dead, 1.0, spread))


def _knots(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Some of the distinct values, `KNOTS` at most, and their ranks in 0..1."""
    distinct, counts = np.unique(values, return_counts=True)
    ranks = (counts.cumsum() - 0.5 * counts) / len(values)
    if len(distinct) > KNOTS:
        levels = np.linspace(ranks[0], ranks[-1], LEVELS)
        at = np.searchsorted(ranks, levels - 1e-9)
        # Where ranks jump across a level, as before a value that thousands share, the one below the jump counts too.
        below = at[1:] - 1
        jumps = ranks[at[1:]] - ranks[below] > levels[1] - levels[0]
        picked = np.unique(np.concatenate([at, below[jumps]]))
        distinct, ranks = distinct[picked], ranks[picked]
    return distinct.astype(np.float64), ranks
