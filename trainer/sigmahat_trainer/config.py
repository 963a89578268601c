# SPDX-License-Identifier: Apache-2.0
"""The settings of a network and of its training, declared once: defaults, ranges, command line, checkpoint header."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, replace
from typing import Any, TypeVar, cast

import click

T = TypeVar("T")


def setting(
    default: T,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    length: tuple[int, int] | None = None,
    choices: tuple[str, ...] = (),
) -> T:
    """Declare a field of a configuration: its default, its words for the user, and what it may be.

    A number takes `low` and `high`, both allowed; a tuple takes them for each value and `length` for how many values
    there may be; a word takes `choices`.
    """
    if not choices and (low is None or high is None):
        raise TypeError("a setting needs low and high, or choices")
    return field(
        default=default, metadata={"help": help, "low": low, "high": high, "length": length, "choices": choices}
    )


@dataclass(frozen=True)
class NetworkConfig:
    """The size of one member of the ensemble.

    >>> NetworkConfig(dropout=0.7)
    Traceback (most recent call last):
    ...
    ValueError: dropout must be a number in 0.1..0.5, got 0.7
    """

    extraction_units: tuple[int, ...] = setting(
        (128, 64), "units of each layer that reads the features", low=64, high=256, length=(2, 4)
    )
    dropout: float = setting(0.3, "share of units dropped between the layers that read the features", low=0.1, high=0.5)
    tokens: int = setting(8, "tokens that the representation is cut into for attention", low=2, high=16)
    attention_heads: int = setting(2, "heads of the attention", low=1, high=4)
    attention_dimension: int = setting(32, "dimension of a token, all heads together", low=16, high=64)
    residual_blocks: int = setting(2, "residual blocks", low=2, high=4)
    residual_units: int = setting(64, "units of a residual block", low=32, high=128)
    head_units: tuple[int, ...] = setting((32, 16), "units of each layer of a head", low=16, high=64, length=(2, 3))

    def __post_init__(self) -> None:
        check_settings(self)
        if self.attention_dimension % self.attention_heads:
            raise ValueError(
                f"attention_dimension must be divisible by attention_heads, "
                f"got {self.attention_dimension} and {self.attention_heads}"
            )


@dataclass(frozen=True)
class PreprocessingConfig:
    """What is done to the features before the network's robust scaling, in this order; nothing unless asked for."""

    expanding_normalisation: str = setting(
        "off", "normalise training features by what was known in their month", choices=("off", "on")
    )
    median_imputation: str = setting(
        "off", "put training medians where a feature's indicator says that it is missing", choices=("off", "on")
    )
    rank_transform: str = setting(
        "off", "which features become ranks among their training values", choices=("off", "non-gaussian", "all")
    )
    selected_features: int = setting(0, "features kept, by what shuffling them costs; 0 keeps all", low=0, high=1000)
    principal_components: int = setting(0, "components in the place of the features; 0 for none", low=0, high=1000)

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what a training run produces, apart from the panels themselves."""

    network: NetworkConfig = field(default_factory=NetworkConfig)
    preprocessing: PreprocessingConfig = field(default_factory=PreprocessingConfig)
    learning_rate: float = setting(5e-4, "peak learning rate of AdamW", low=1e-4, high=1e-2)
    weight_decay: float = setting(1e-4, "weight decay of AdamW", low=1e-5, high=1e-3)
    batch_size: int = setting(32, "samples per step", low=16, high=128)
    schedule: str = setting("cosine", "course of the learning rate", choices=("step", "cosine", "exponential"))
    epochs: int = setting(20, "passes over the training samples", low=1, high=1000)
    seed: int = setting(0, "seed of everything random; member k adds k to it", low=0, high=2**31 - 1)
    members: int = setting(3, "members of the ensemble", low=1, high=16)
    windows: int = setting(40_000, "training samples, each of one universe in one window", low=1, high=10_000_000)
    simulated_share: float = setting(0.25, "share of the training samples that are simulated", low=0.0, high=1.0)
    market_power: float = setting(
        0.5, "power of its asset-days by which a market is drawn from; 0: all markets alike", low=0.0, high=1.0
    )
    horizon: int = setting(21, "periods after a window over which volatility is realised", low=1, high=252)
    qlike_weight: float = setting(0.1, "weight of the QLIKE of portfolios' forecasts", low=0.0, high=100.0)
    auxiliary_weight: float = setting(0.1, "weight of the auxiliary losses", low=0.0, high=100.0)
    residual_weight: float = setting(
        0.01, "weight of the squared deviation of the output logits from the learned constants", low=0.0, high=100.0
    )

    def __post_init__(self) -> None:
        check_settings(self)


Config = TypeVar("Config", NetworkConfig, PreprocessingConfig, TrainConfig)
Command = TypeVar("Command", bound=Callable[..., Any])


def check_settings(config: Any) -> None:
    """Raise ValueError, naming the field, its value and its range, if a value of `config` is not allowed."""
    for declared in fields(config):
        value, nested = getattr(config, declared.name), _nested(declared)
        if nested is not None:
            if not isinstance(value, nested):
                raise ValueError(f"{declared.name} must be a {nested.__name__}, got {value!r}")
        elif not _is_allowed(declared, value):
            raise ValueError(f"{declared.name} must be {_allowed(declared)}, got {value!r}")


def from_dict(config_class: type[Config], values: Mapping[str, Any]) -> Config:
    """Rebuild a configuration from what `dataclasses.asdict` gave, also after a journey through JSON.

    A setting that is missing takes its default; one that is unknown is an error, not a dropped keyword.

    >>> from_dict(TrainConfig, {"network": {"head_units": [64, 32]}, "seed": 7}).network.head_units
    (64, 32)
    """
    declared = {each.name: each for each in fields(config_class)}
    if unknown := sorted(set(values) - set(declared)):
        raise ValueError(f"unknown settings {unknown} of {config_class.__name__}; it has {sorted(declared)}")

    def rebuild(name: str, value: Any) -> Any:
        nested = _nested(declared[name])
        if nested is not None and isinstance(value, Mapping):
            return from_dict(nested, value)
        return tuple(value) if isinstance(value, list) else value

    return config_class(**{name: rebuild(name, value) for name, value in values.items()})


def declared_settings(config_class: type[Any]) -> Iterator[Field[Any]]:
    """The declaration of every setting, nested ones too."""
    for declared in fields(config_class):
        nested = _nested(declared)
        if nested is None:
            yield declared
        else:
            yield from declared_settings(nested)


def settings_of(config: Any) -> dict[str, Any]:
    """All settings of a configuration by name, nested ones too.

    >>> settings_of(TrainConfig())["dropout"]
    0.3
    """
    values: dict[str, Any] = {}
    for declared in fields(config):
        value = getattr(config, declared.name)
        values |= settings_of(value) if is_dataclass(value) else {declared.name: value}
    return values


def replace_settings(config: Config, values: Mapping[str, Any]) -> Config:
    """Return `config` with some settings changed, wherever in it they are."""
    changes = {}
    for declared in fields(config):
        value = getattr(config, declared.name)
        nested = _nested(declared) is not None
        changes[declared.name] = replace_settings(value, values) if nested else values.get(declared.name, value)
    return replace(config, **changes)


def click_options(
    config_class: type[Config], *, defaults: Mapping[str, Any] | None = None
) -> Callable[[Command], Command]:
    """Decorate a command: it gets an option for every setting, nested ones too, and receives the checked `config`.

    `defaults` takes the place of some settings' own.

    >>> @click.command()
    ... @click_options(TrainConfig)
    ... def train(config: TrainConfig) -> None: ...
    """

    declared = list(declared_settings(config_class))

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def with_config(*args: Any, **options: Any) -> Any:
            given = {each.name: options.pop(each.name) for each in declared}
            try:
                config = replace_settings(config_class(), given)
            except ValueError as error:
                raise click.UsageError(str(error)) from error
            return command(*args, config=config, **options)

        for each in reversed(declared):
            default = (defaults or {}).get(each.name, each.default)
            with_config = _option(each, default)(with_config)
        return cast(Command, with_config)

    return decorate


def _nested(declared: Field[Any]) -> Any:
    """The configuration class that the field holds, or None if the field is a setting."""
    factory = declared.default_factory
    return factory if factory is not MISSING and is_dataclass(factory) else None


def _is_allowed(declared: Field[Any], value: Any) -> bool:
    limits = declared.metadata
    if limits["choices"]:
        return value in limits["choices"]

    def in_range(number: Any, kind: type) -> bool:
        kinds = (int,) if kind is int else (int, float)
        # NaN fails both comparisons; True is an int to Python but not to a reader.
        return isinstance(number, kinds) and not isinstance(number, bool) and limits["low"] <= number <= limits["high"]

    if limits["length"]:
        shortest, longest = limits["length"]
        return isinstance(value, tuple) and shortest <= len(value) <= longest and all(in_range(n, int) for n in value)
    return in_range(value, type(declared.default))


def _allowed(declared: Field[Any]) -> str:
    limits = declared.metadata
    if limits["choices"]:
        return f"one of {', '.join(limits['choices'])}"
    interval = _range(declared)
    if limits["length"]:
        return f"{limits['length'][0]}..{limits['length'][1]} whole numbers in {interval}"
    return f"a {'whole number' if isinstance(declared.default, int) else 'number'} in {interval}"


def _range(declared: Field[Any]) -> str:
    return f"{_text(declared.metadata['low'])}..{_text(declared.metadata['high'])}"


def _text(value: Any) -> str:
    """A setting's value as one types it: 1e-5 and not 1e-05, 128,64 and not (128, 64)."""
    if isinstance(value, tuple):
        return ",".join(map(_text, value))
    return f"{value:g}".replace("e-0", "e-") if isinstance(value, float) else str(value)


class _WholeNumbers(click.ParamType):
    name = "integers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of whole numbers like 128,64", param, ctx)


def _option(declared: Field[Any], default: Any) -> Callable[[Command], Command]:
    limits = declared.metadata
    kind: Any = type(declared.default)
    if limits["choices"]:
        kind, allowed = click.Choice(limits["choices"]), ""
    elif limits["length"]:
        kind, allowed = _WholeNumbers(), f"{limits['length'][0]}..{limits['length'][1]} layers of {_range(declared)}, "
    else:
        allowed = f"{_range(declared)}, "
    # The range is checked by the configuration itself, so that the words of the error are the same everywhere.
    return click.option(
        f"--{declared.name.replace('_', '-')}",
        declared.name,
        type=kind,
        default=default,
        help=f"{limits['help']} [{allowed}default {_text(default)}]",
    )
