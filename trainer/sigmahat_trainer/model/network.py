# SPDX-License-Identifier: Apache-2.0
"""One member of the ensemble: features of a universe in, its shrinkage parameters out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from sigmahat_kernels.parameters import HEADS, N_PARAMETERS, REGIMES, TARGETS, VOLATILITY_BASES
from sigmahat_trainer.config import NetworkConfig, PreprocessingConfig
from sigmahat_trainer.model.preprocessing import Preprocessing, inverse_spread, robust_scaling

CLIP = 6.0
"""Normalised features are limited to ±CLIP, which also makes the range of the first int8 layer explicit."""

_SMALLEST_PROBABILITY = 1e-4


class Activation(NamedTuple):
    """How logits become answers, and answers logits again."""

    apply: Callable[[Tensor], Tensor]
    inverse: Callable[[np.ndarray], np.ndarray]
    width: float | None
    """Of the range of the answers; None if it has no bounds."""


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


def _inverse_softplus(y: np.ndarray) -> np.ndarray:
    if (y <= 0).any():
        raise ValueError(f"values must be above 0, got {y}")
    return y + np.log(-np.expm1(-y))


def _inside(limit: float, reach: float | None = None) -> Activation:
    """limit * tanh(x / reach), reach 1 by default: inside ±limit, and with a gradient where a hard clamp has none."""

    def inverse(y: np.ndarray) -> np.ndarray:
        if (np.abs(y) >= limit).any():
            raise ValueError(f"values must be inside ±{limit}, got {y}")
        return (reach or 1.0) * np.arctanh(y / limit)

    return Activation(lambda x: limit * (x / reach if reach else x).tanh(), inverse, 2 * limit)


PLAIN = Activation(lambda x: x, lambda y: y, None)
SIGMOID = Activation(torch.sigmoid, _inverse_sigmoid, 1.0)
SOFTMAX = Activation(lambda x: x.softmax(dim=-1), _inverse_softmax, 1.0)
SOFTPLUS = Activation(nn.functional.softplus, _inverse_softplus, None)


class Part(NamedTuple):
    """Neighbouring columns of a head that share an activation."""

    name: str
    activation: Activation
    columns: int
    unit_of_unbounded: float | None = None

    @property
    def unit(self) -> float | None:
        """In which a change of the answer is judged: the width of its range, or what is given where it has no bounds.

        None where a change is not judged.
        """
        return self.activation.width or self.unit_of_unbounded


class HeadForm(NamedTuple):
    """How the network answers a head of the published layout."""

    layers: tuple[str, ...]
    """The network's heads whose last layers give the logits: one for all columns, or one for each."""
    parts: tuple[Part, ...]

    def cut(self, head: Any) -> list[tuple[Part, Any]]:
        """Each part with its columns of an array or tensor of shape (..., columns of the head)."""
        stops = itertools.accumulate(part.columns for part in self.parts)
        return [(part, head[..., stop - part.columns : stop]) for part, stop in zip(self.parts, stops, strict=True)]


def _form(layers: str | tuple[str, ...], *parts: Part) -> HeadForm:
    return HeadForm((layers,) if isinstance(layers, str) else layers, parts)


FORMS: dict[str, HeadForm] = {
    "target_intensity": _form(TARGETS, Part("target_intensity", SIGMOID, len(TARGETS))),
    "target_weights": _form("selection", Part("target_weights", SOFTMAX, len(TARGETS))),
    "target_confidence": _form(TARGETS, Part("target_confidence", SIGMOID, len(TARGETS))),
    "memory": _form("memory", Part("memory", SIGMOID, 1)),
    "factor_memory": _form("memory", Part("factor_memory", SIGMOID, 1)),
    "volatility": _form(
        "memory",
        Part("volatility_blend", SOFTMAX, len(VOLATILITY_BASES)),
        Part("volatility_pull", SIGMOID, 1),
    ),
    "intensity_tilt": _form("tilt", Part("intensity_tilt", _inside(2.0, reach=2.0), HEADS["intensity_tilt"])),
    "volatility_tilt": _form("tilt", Part("volatility_tilt", _inside(0.3), HEADS["volatility_tilt"])),
    "level": _form(
        "level",
        Part("log_volatility_level", _inside(1.0, reach=1.0), 1),
        Part("common_variance", SOFTPLUS, 1, unit_of_unbounded=1.0),  # in harmonic mean variances
    ),
    "condition": _form("auxiliary", Part("condition", SOFTPLUS, 1)),
    "expected_error": _form("auxiliary", Part("expected_error", PLAIN, 1)),
    "log_variance": _form("uncertainty", Part("log_variance", _inside(8.0, reach=8.0), 1)),  # deviations of 0.018 to 55
    "regime": _form("regime", Part("regime", SOFTMAX, len(REGIMES))),
}
"""Head of the published layout -> how the network answers it."""


_COLUMNS = {
    name: tuple(range(stop - width, stop))
    for (name, width), stop in zip(HEADS.items(), itertools.accumulate(HEADS.values()), strict=True)
}


def _columns_of_layers() -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for name, columns in _COLUMNS.items():
        layers = FORMS[name].layers
        for layer, column in zip(layers * (len(columns) // len(layers)), columns, strict=True):
            found[layer] = (*found.get(layer, ()), column)
    return found


HEAD_COLUMNS = _columns_of_layers()
"""The network's head -> the columns of PARAMETERS that its last layer feeds, in the order of that layer's units."""


class MemberNetwork(nn.Module):
    """Features of shape (n, n_features) to PARAMETERS of shape (n, N_PARAMETERS); see `sigmahat_kernels.parameters`.

    Preprocessing, robust scaling, BatchNorm and Clip stand inside the network, so that whoever runs it sends raw
    features.

    >>> network = MemberNetwork(n_features=60).eval()
    >>> network(torch.zeros(5, 60)).shape == (5, N_PARAMETERS)
    True
    """

    median: Tensor
    scale: Tensor
    order: Tensor

    def __init__(
        self, n_features: int, config: NetworkConfig | None = None, preprocessing: PreprocessingConfig | None = None
    ) -> None:
        super().__init__()
        if n_features < 1:
            raise ValueError(f"n_features must be at least 1, got {n_features}")
        self.n_features = n_features
        self.config = config = config or NetworkConfig()
        self.preprocessing = Preprocessing(n_features, preprocessing or PreprocessingConfig(), limit=CLIP)
        self.n_inputs = n_inputs = self.preprocessing.n_outputs
        self.register_buffer("median", torch.zeros(n_inputs))
        self.register_buffer("scale", torch.ones(n_inputs))
        self.input_norm = nn.BatchNorm1d(n_inputs)
        self.extraction = nn.Sequential(*_extraction_layers(n_inputs, config))
        self.attention = RegimeAttention(config)
        self.residual_blocks = nn.Sequential(
            *(ResidualBlock(config.residual_units) for _ in range(config.residual_blocks))
        )
        self.heads = nn.ModuleDict(
            {name: HeadLayers(config, len(columns)) for name, columns in HEAD_COLUMNS.items() if name != "regime"}
        )
        columns = [column for name in [*self.heads, "regime"] for column in HEAD_COLUMNS[name]]
        # Derived from the layout: the position of each column of PARAMETERS among the heads' outputs, set side by side.
        self.register_buffer("order", torch.tensor(columns).argsort(), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        return activate(self.forward_logits(features))

    def forward_logits(self, features: Tensor) -> Tensor:
        """The outputs before their activations, in the columns of PARAMETERS."""
        clipped = self.normalise(features).clamp(-CLIP, CLIP)
        representation = self.extraction(clipped.to(self.attention.regime.weight.dtype))
        context, regime_logits = self.attention(representation)
        shared = self.residual_blocks(context)
        outputs = torch.cat([*(head(shared) for head in self.heads.values()), regime_logits], dim=1)
        return outputs.index_select(1, self.order).to(features.dtype)

    def normalise(self, features: Tensor) -> Tensor:
        """The inputs as they stand before the Clip, of shape (n, n_inputs)."""
        normalised: Tensor = self.input_norm((self.preprocessing(features) - self.median) * self.scale)
        return normalised

    def output_layers(self) -> dict[str, nn.Linear]:
        """The last layer of each head, which gives the logits."""
        return {
            **{name: cast(HeadLayers, head).output for name, head in self.heads.items()},
            "regime": self.attention.regime,
        }

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

    def fit_inputs(self, features: np.ndarray, importance: np.ndarray | None = None) -> None:
        """Fit preprocessing and robust scaling to training features of shape (n, n_features).

        `importance`, of shape (n_features,), is what selection goes by; only a network that selects needs it.
        """
        self.set_scaling(*robust_scaling(self.preprocessing.fit(features, importance)))

    @torch.no_grad()
    def set_scaling(self, median: Any, iqr: Any) -> None:
        """Store the robust scaling `(inputs - median) / iqr`, both of shape (n_inputs,).

        A feature whose interquartile range is zero, or below float32's resolution of its median, is ignored.
        """
        median, iqr = np.asarray(median, dtype=np.float64), np.asarray(iqr, dtype=np.float64)
        for name, values in (("median", median), ("iqr", iqr)):
            if values.shape != (self.n_inputs,):
                raise ValueError(f"{name} must have shape ({self.n_inputs},), got {values.shape}")
            if not np.isfinite(values).all() or (name == "iqr" and (values < 0).any()):
                wanted = "finite" if name == "median" else "finite and not negative"
                raise ValueError(f"{name} must be {wanted}, got {values}")
        scale = inverse_spread(median, iqr)
        self.median.copy_(torch.from_numpy(np.where(scale == 0, 0.0, median)))
        self.scale.copy_(torch.from_numpy(scale))


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


class HeadLayers(nn.Module):
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
    heads = zip((FORMS[name].parts for name in HEADS), logits.split(list(HEADS.values()), dim=-1), strict=True)
    pieces = [(parts, _cut(head, parts)) for parts, head in heads]
    return torch.cat([_activated(parts, pieces_of_head) for parts, pieces_of_head in pieces], dim=-1)


def _cut(head: Tensor, parts: Sequence[Part]) -> Sequence[Tensor]:
    if len(parts) == 1:
        return [head]
    sizes = [part.columns for part in parts]
    return head.split(sizes if len(set(sizes)) > 1 else sizes[0], dim=-1)  # equal parts need no list in the ONNX file


def _activated(parts: Sequence[Part], pieces: Sequence[Tensor]) -> Tensor:
    answers = [part.activation.apply(piece) for part, piece in zip(parts, pieces, strict=True)]
    return torch.cat(answers, dim=-1) if len(answers) > 1 else answers[0]


def constant_logits(constants: Mapping[str, float | Sequence[float]]) -> Tensor:
    """The logits of shape (N_PARAMETERS,) that `activate` turns into `constants`; 0 for heads that are not named.

    Probabilities are first limited to [1e-4, 1 - 1e-4], where their logits are finite and can still learn, and those
    that must sum to 1 are divided by their sum. Logits of a softmax are centred: their sum is 0.

    >>> from sigmahat_kernels.parameters import split_parameters
    >>> split_parameters(activate(constant_logits({"memory": 0.26}))).memory
    tensor([0.2600])
    """
    if unknown := sorted(set(constants) - set(HEADS)):
        raise ValueError(f"unknown heads {unknown}; the layout has {list(HEADS)}")
    logits = np.zeros(N_PARAMETERS)
    for name, given in constants.items():
        values = np.atleast_1d(np.asarray(given, dtype=np.float64))
        if values.shape != (HEADS[name],) or not np.isfinite(values).all():
            raise ValueError(f"constants of {name} must be {HEADS[name]} finite numbers, got {given}")
        inverted = [part.activation.inverse(piece) for part, piece in FORMS[name].cut(values)]
        logits[list(_COLUMNS[name])] = np.concatenate(inverted)
    return torch.from_numpy(logits).float()


def _extraction_layers(n_features: int, config: NetworkConfig) -> list[nn.Module]:
    sizes = (n_features, *config.extraction_units)
    layers: list[nn.Module] = []
    for inputs, units in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, units), nn.ELU(), nn.Dropout(config.dropout)]
    return layers[:-1]  # dropout stands between the layers, not after the last
