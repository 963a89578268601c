# SPDX-License-Identifier: Apache-2.0
"""The space of a hyperparameter search, derived from the ranges that `config` declares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import Field, fields
from typing import Any, NamedTuple

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from sigmahat_trainer.config import NetworkConfig, TrainConfig, declared_settings, replace_settings, settings_of

SEARCHED = (*(each.name for each in fields(NetworkConfig)), "learning_rate", "weight_decay", "batch_size", "schedule")
"""What a search varies unless it is told otherwise: the size of the network and how its weights are found."""

MANY_TIMES = 10.0
"""A number whose range reaches from x to this many times x is searched on a log scale."""

DOUBLINGS = 4
"""A whole number whose range reaches from n to this many times n is a size, and sizes are powers of two."""

LAYERS, UNITS = ".layers", ".units"


class Vary(NamedTuple):
    """A setting that is searched, in its declared range or in a part of it."""

    name: str
    low: float | None = None
    high: float | None = None


class SearchSpace(NamedTuple):
    """What a trial draws, and how a configuration is made of it.

    Each setting is one dimension, but a tuple of layers is two: how many there are, and the units of the first; each
    further layer has half of the units of the one before, down to the least that is allowed.
    """

    distributions: dict[str, BaseDistribution]
    declared: dict[str, Field[Any]]  # setting -> its declaration, of those that are searched

    def configuration(self, base: TrainConfig, params: Mapping[str, Any]) -> TrainConfig:
        """Return `base` with what a trial drew; ValueError if such a configuration is not allowed."""
        values: dict[str, Any] = {}
        for name, field in self.declared.items():
            if field.metadata["length"]:
                units = (params[name + UNITS] >> k for k in range(params[name + LAYERS]))
                values[name] = tuple(max(n, int(field.metadata["low"])) for n in units)
            else:
                values[name] = params[name]
        return replace_settings(base, values)

    def params(self, config: TrainConfig) -> dict[str, Any] | None:
        """What a trial would have to draw to get `config`; None if it cannot."""
        values = settings_of(config)
        params: dict[str, Any] = {}
        for name, field in self.declared.items():
            if field.metadata["length"]:
                params |= {name + LAYERS: len(values[name]), name + UNITS: values[name][0]}
            else:
                params[name] = values[name]
        for name, distribution in self.distributions.items():
            if isinstance(distribution, CategoricalDistribution):
                possible = params[name] in distribution.choices
            else:
                assert isinstance(distribution, FloatDistribution | IntDistribution)
                possible = distribution.low <= params[name] <= distribution.high
            if not possible:
                return None
        return params if self.configuration(config, params) == config else None


def search_space(vary: Sequence[Vary] = tuple(map(Vary, SEARCHED))) -> SearchSpace:
    """Derive the space of the settings in `vary`.

    Words are categories. Numbers are searched on a log scale if their range is wide (`MANY_TIMES`). Whole numbers with
    a wide range (`DOUBLINGS`) are sizes: the powers of two in it, as categories, so that heads divide the dimension
    that they share.

    Raises
    ------
    ValueError
        If a name is no setting or is given twice, or a range is not within the declared one.

    Examples
    --------
    >>> search_space([Vary("learning_rate")]).distributions
    {'learning_rate': FloatDistribution(high=0.01, log=True, low=0.0001, step=None)}
    """
    known = {field.name: field for field in declared_settings(TrainConfig)}
    names = [each.name for each in vary]
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(f"unknown settings {unknown}; there are {sorted(known)}")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"each setting may be given once, got {twice} again")
    distributions: dict[str, BaseDistribution] = {}
    for each in vary:
        field = known[each.name]
        low, high = _range(each, field)
        if field.metadata["choices"]:
            distributions[each.name] = CategoricalDistribution(field.metadata["choices"])
        elif field.metadata["length"]:
            distributions[each.name + LAYERS] = IntDistribution(*field.metadata["length"])
            distributions[each.name + UNITS] = CategoricalDistribution(_powers_of_two(each.name, low, high))
        elif isinstance(field.default, float):
            distributions[each.name] = FloatDistribution(low, high, log=0 < low * MANY_TIMES <= high)
        elif 0 < low * DOUBLINGS <= high:
            distributions[each.name] = CategoricalDistribution(_powers_of_two(each.name, low, high))
        else:
            distributions[each.name] = IntDistribution(int(low), int(high))
    return SearchSpace(distributions, {name: known[name] for name in names})


def _range(each: Vary, field: Field[Any]) -> tuple[float, float]:
    declared = (field.metadata["low"], field.metadata["high"])
    if each.low is None or each.high is None:
        return declared
    if field.metadata["choices"]:
        raise ValueError(f"{each.name} is one of {', '.join(field.metadata['choices'])}: it has no range")
    if not declared[0] <= each.low <= each.high <= declared[1]:
        raise ValueError(
            f"{each.name} may be searched within {declared[0]:g}:{declared[1]:g}, got {each.low:g}:{each.high:g}"
        )
    return each.low, each.high


def _powers_of_two(name: str, low: float, high: float) -> list[int]:
    powers = [1 << k for k in range(32) if low <= 1 << k <= high]
    if not powers:
        raise ValueError(f"{name} is searched over powers of two, and there is none in {low:g}:{high:g}")
    return powers
