# SPDX-License-Identifier: Apache-2.0
"""One member of the ensemble: features of a universe in, its shrinkage parameters out."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from sigmahat_kernels.parameters import HEADS, N_PARAMETERS, REGIMES, TARGETS, VOLATILITY_BASES
from sigmahat_trainer.config import NetworkConfig

CLIP = 6.0
"""Normalised features are limited to ±CLIP, which also makes the range of the first int8 layer explicit."""

LOG_VARIANCE_LIMIT = 8.0
"""log_variance stays inside ±LOG_VARIANCE_LIMIT: a standard deviation between 0.018 and 55."""

INTENSITY_TILT_LIMIT, VOLATILITY_TILT_LIMIT, LOG_VOLATILITY_LIMIT = 2.0, 0.2, 1.0
"""Bounds of the tilts on one statistic, and of the universe's ln volatility correction."""

_SMALLEST_PROBABILITY = 1e-4

_COLUMNS = {
    name: tuple(range(stop - width, stop))
    for (name, width), stop in zip(HEADS.items(), itertools.accumulate(HEADS.values()), strict=True)
}

HEAD_COLUMNS: dict[str, tuple[int, ...]] = {
    **{target: (_COLUMNS["target_intensity"][k], _COLUMNS["target_confidence"][k]) for k, target in enumerate(TARGETS)},
    "selection": _COLUMNS["target_weights"],
    "memory": _COLUMNS["memory"] + _COLUMNS["volatility"],
    "tilt": _COLUMNS["intensity_tilt"] + _COLUMNS["volatility_tilt"],
    "level": _COLUMNS["level"],
    "auxiliary": _COLUMNS["condition"] + _COLUMNS["expected_error"],
    "uncertainty": _COLUMNS["log_variance"],
    "regime": _COLUMNS["regime"],
}
"""The network's head -> the columns of PARAMETERS that its last layer feeds, in the order of that layer's units."""


class MemberNetwork(nn.Module):
    """Features of shape (n, n_features) to PARAMETERS of shape (n, N_PARAMETERS); see `sigmahat_kernels.parameters`.

    Robust scaling, BatchNorm and Clip stand inside the network, so that whoever runs it sends raw features.

    >>> network = MemberNetwork(n_features=60).eval()
    >>> network(torch.zeros(5, 60)).shape
    torch.Size([5, 39])
    """

    median: Tensor
    scale: Tensor
    order: Tensor

    def __init__(self, n_features: int, config: NetworkConfig | None = None) -> None:
        super().__init__()
        if n_features < 1:
            raise ValueError(f"n_features must be at least 1, got {n_features}")
        self.n_features = n_features
        self.config = config = config or NetworkConfig()
        self.register_buffer("median", torch.zeros(n_features))
        self.register_buffer("scale", torch.ones(n_features))
        self.input_norm = nn.BatchNorm1d(n_features)
        self.extraction = nn.Sequential(*_extraction_layers(n_features, config))
        self.attention = RegimeAttention(config)
        self.residual_blocks = nn.Sequential(
            *(ResidualBlock(config.residual_units) for _ in range(config.residual_blocks))
        )
        self.heads = nn.ModuleDict(
            {name: Head(config, len(columns)) for name, columns in HEAD_COLUMNS.items() if name != "regime"}
        )
        columns = [column for name in [*self.heads, "regime"] for column in HEAD_COLUMNS[name]]
        # Derived from the layout: the position of each column of PARAMETERS among the heads' outputs, set side by side.
        self.register_buffer("order", torch.tensor(columns).argsort(), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        return activate(self.forward_logits(features))

    def forward_logits(self, features: Tensor) -> Tensor:
        """The outputs before their activations, in the columns of PARAMETERS."""
        scaled = (features - self.median) * self.scale
        clipped = self.input_norm(scaled).clamp(-CLIP, CLIP)
        representation = self.extraction(clipped.to(self.attention.regime.weight.dtype))
        context, regime_logits = self.attention(representation)
        shared = self.residual_blocks(context)
        outputs = torch.cat([*(head(shared) for head in self.heads.values()), regime_logits], dim=1)
        return outputs.index_select(1, self.order).to(features.dtype)

    def output_layers(self) -> dict[str, nn.Linear]:
        """The last layer of each head, which gives the logits."""
        return {**{name: cast(Head, head).output for name, head in self.heads.items()}, "regime": self.attention.regime}

    @torch.no_grad()
    def initialise_outputs(
        self, constants: Mapping[str, float | Sequence[float]], *, weight_scale: float = 0.0
    ) -> None:
        """Make the network start at `constants` (see `constant_logits`), whatever the features.

        The last layer of each head gets the constants as its bias and its weights times `weight_scale`: with 0 the
        untrained network answers exactly the constants, with a small value it starts near them.
        """
        logits = constant_logits(constants)
        for name, layer in self.output_layers().items():
            layer.weight.mul_(weight_scale)
            layer.bias.copy_(logits[list(HEAD_COLUMNS[name])])

    @torch.no_grad()
    def set_scaling(self, median: Any, iqr: Any) -> None:
        """Store the robust scaling `(features - median) / iqr`, both of shape (n_features,).

        A feature whose interquartile range is zero, or below float32's resolution of its median, is ignored.
        """
        median, iqr = np.asarray(median, dtype=np.float64), np.asarray(iqr, dtype=np.float64)
        for name, values in (("median", median), ("iqr", iqr)):
            if values.shape != (self.n_features,):
                raise ValueError(f"{name} must have shape ({self.n_features},), got {values.shape}")
            if not np.isfinite(values).all() or (name == "iqr" and (values < 0).any()):
                wanted = "finite" if name == "median" else "finite and not negative"
                raise ValueError(f"{name} must be {wanted}, got {values}")
        dead = iqr <= np.maximum(1e-6 * np.abs(median), 1e-20)
        self.median.copy_(torch.from_numpy(np.where(dead, 0.0, median)))
        self.scale.copy_(torch.from_numpy(np.where(dead, 0.0, 1.0 / np.where(dead, 1.0, iqr))))


class RegimeAttention(nn.Module):
    """Self-attention over tokens cut from the representation, plus an embedding of the regime read from it."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        inputs, dimension = config.extraction_units[-1], config.attention_dimension
        self.n_tokens, self.n_heads = config.tokens, config.attention_heads
        self.head_dimension = dimension // config.attention_heads
        self.tokens = nn.Linear(inputs, config.tokens * dimension)
        self.query = nn.Linear(dimension, dimension)
        # A bias would add the same number to all scores of a query, which softmax ignores.
        self.key = nn.Linear(dimension, dimension, bias=False)
        self.value = nn.Linear(dimension, dimension)
        self.regime = nn.Linear(inputs, len(REGIMES))
        self.regime_embedding = nn.Parameter(torch.randn(len(REGIMES), dimension) * dimension**-0.5)
        self.projection = nn.Linear(config.tokens * dimension, config.residual_units)

    def forward(self, representation: Tensor) -> tuple[Tensor, Tensor]:
        """Context-aware features of shape (n, residual_units), and regime logits of shape (n, 4)."""
        # One token a row: the projections are then plain matrix products in the exported graph.
        tokens = self.tokens(representation).reshape(-1, self.query.in_features)
        query, key, value = (self._by_head(project(tokens)) for project in (self.query, self.key, self.value))
        scores = query @ key.transpose(-2, -1) * self.head_dimension**-0.5
        attended = (scores.softmax(dim=-1) @ value).transpose(1, 2).flatten(2)
        regime_logits = self.regime(representation)
        regime = regime_logits.softmax(dim=-1) @ self.regime_embedding
        return self.projection((attended + regime.unsqueeze(1)).flatten(1)), regime_logits

    def _by_head(self, tokens: Tensor) -> Tensor:
        """(n * tokens, dimension) to (n, heads, tokens, head dimension)."""
        return tokens.reshape(-1, self.n_tokens, self.n_heads, self.head_dimension).transpose(1, 2)


class ResidualBlock(nn.Module):
    """Dense + BatchNorm + ELU, Dense + BatchNorm, add the input, ELU."""

    def __init__(self, units: int) -> None:
        super().__init__()
        # BatchNorm removes the mean, and with it any bias of the layer before it.
        self.dense_1, self.norm_1 = nn.Linear(units, units, bias=False), nn.BatchNorm1d(units)
        self.dense_2, self.norm_2 = nn.Linear(units, units, bias=False), nn.BatchNorm1d(units)

    def forward(self, x: Tensor) -> Tensor:
        inner = nn.functional.elu(self.norm_1(self.dense_1(x)))
        return nn.functional.elu(x + self.norm_2(self.dense_2(inner)))


class Head(nn.Module):
    """Dense + ELU layers of shrinking size, then the logits."""

    def __init__(self, config: NetworkConfig, n_outputs: int) -> None:
        super().__init__()
        sizes = (config.residual_units, *config.head_units)
        self.hidden = nn.Sequential(
            *(layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.ELU()))
        )
        self.output = nn.Linear(sizes[-1], n_outputs)

    def forward(self, shared: Tensor) -> Tensor:
        logits: Tensor = self.output(self.hidden(shared))
        return logits


def activate(logits: Tensor) -> Tensor:
    """Turn logits of shape (..., N_PARAMETERS) into PARAMETERS: probabilities where the layout asks for them."""
    heads = dict(zip(HEADS, logits.split(list(HEADS.values()), dim=-1), strict=True))
    blend, pull = heads["volatility"].split([len(VOLATILITY_BASES), 1], dim=-1)
    log_factor, common = heads["level"].split(1, dim=-1)
    activated = {
        "target_intensity": heads["target_intensity"].sigmoid(),
        "target_weights": heads["target_weights"].softmax(dim=-1),
        "target_confidence": heads["target_confidence"].sigmoid(),
        "memory": heads["memory"].sigmoid(),
        "volatility": torch.cat([blend.softmax(dim=-1), pull.sigmoid()], dim=-1),
        "intensity_tilt": _limit(heads["intensity_tilt"], INTENSITY_TILT_LIMIT),
        "volatility_tilt": VOLATILITY_TILT_LIMIT * heads["volatility_tilt"].tanh(),
        "level": torch.cat([_limit(log_factor, LOG_VOLATILITY_LIMIT), nn.functional.softplus(common)], dim=-1),
        "condition": nn.functional.softplus(heads["condition"]),
        "expected_error": heads["expected_error"],
        "log_variance": _limit(heads["log_variance"], LOG_VARIANCE_LIMIT),
        "regime": heads["regime"].softmax(dim=-1),
    }
    return torch.cat([activated[name] for name in HEADS], dim=-1)


def _limit(x: Tensor, limit: float) -> Tensor:
    """Keep x inside ±limit, with a slope everywhere: a hard clamp would have no gradient beyond it."""
    return limit * (x / limit).tanh()


def constant_logits(constants: Mapping[str, float | Sequence[float]]) -> Tensor:
    """The logits of shape (N_PARAMETERS,) that `activate` turns into `constants`; 0 for heads that are not named.

    Probabilities are first limited to [1e-4, 1 - 1e-4], where their logits are finite and can still learn, and those
    that must sum to 1 are divided by their sum. Logits of a softmax are centred: their sum is 0.

    >>> round(activate(constant_logits({"memory": 0.26}))[9].item(), 6)
    0.26
    """
    if unknown := sorted(set(constants) - set(HEADS)):
        raise ValueError(f"unknown heads {unknown}; the layout has {list(HEADS)}")
    logits = np.zeros(N_PARAMETERS)
    for name, given in constants.items():
        values = np.atleast_1d(np.asarray(given, dtype=np.float64))
        if values.shape != (HEADS[name],) or not np.isfinite(values).all():
            raise ValueError(f"constants of {name} must be {HEADS[name]} finite numbers, got {given}")
        logits[list(_COLUMNS[name])] = _INVERSES[name](values)
    return torch.from_numpy(logits).float()


def _inverse_sigmoid(p: np.ndarray) -> np.ndarray:
    if (p < 0).any() or (p > 1).any():
        raise ValueError(f"probabilities must be in 0..1, got {p}")
    p = p.clip(_SMALLEST_PROBABILITY, 1 - _SMALLEST_PROBABILITY)
    return np.log(p) - np.log1p(-p)


def _inverse_softmax(p: np.ndarray) -> np.ndarray:
    if (p < 0).any() or not math.isclose(p.sum(), 1.0, abs_tol=1e-3):
        raise ValueError(f"weights must be at least 0 and sum to 1, got {p}")
    logits = np.log(p.clip(_SMALLEST_PROBABILITY))
    return logits - logits.mean()


def _inverse_volatility(values: np.ndarray) -> np.ndarray:
    return np.concatenate([_inverse_softmax(values[:-1]), _inverse_sigmoid(values[-1:])])


def _inverse_softplus(y: np.ndarray) -> np.ndarray:
    if (y <= 0).any():
        raise ValueError(f"values must be above 0, got {y}")
    return y + np.log(-np.expm1(-y))


def _inverse_limit(y: np.ndarray, limit: float) -> np.ndarray:
    if (np.abs(y) >= limit).any():
        raise ValueError(f"values must be inside ±{limit}, got {y}")
    return limit * np.arctanh(y / limit)


def _inverse_level(y: np.ndarray) -> np.ndarray:
    return np.concatenate([_inverse_limit(y[:1], LOG_VOLATILITY_LIMIT), _inverse_softplus(y[1:])])


_INVERSES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "target_intensity": _inverse_sigmoid,
    "target_weights": _inverse_softmax,
    "target_confidence": _inverse_sigmoid,
    "memory": _inverse_sigmoid,
    "volatility": _inverse_volatility,
    "intensity_tilt": functools.partial(_inverse_limit, limit=INTENSITY_TILT_LIMIT),
    "volatility_tilt": lambda y: _inverse_limit(y, VOLATILITY_TILT_LIMIT) / VOLATILITY_TILT_LIMIT,
    "level": _inverse_level,
    "condition": _inverse_softplus,
    "expected_error": lambda y: y,
    "log_variance": functools.partial(_inverse_limit, limit=LOG_VARIANCE_LIMIT),
    "regime": _inverse_softmax,
}


def _extraction_layers(n_features: int, config: NetworkConfig) -> list[nn.Module]:
    sizes = (n_features, *config.extraction_units)
    layers: list[nn.Module] = []
    for inputs, units in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, units), nn.ELU(), nn.Dropout(config.dropout)]
    return layers[:-1]  # dropout stands between the layers, not after the last
