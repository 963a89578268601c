# SPDX-License-Identifier: Apache-2.0
"""The search space: the ranges of `config`, and nothing that the configuration would refuse."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import optuna
import pytest

from sigmahat_trainer.config import NetworkConfig, PreprocessingConfig, TrainConfig, replace_settings, settings_of
from sigmahat_trainer.search.space import SEARCHED, Vary, search_space


def test_ranges_are_those_of_the_configuration():
    """The table of section 4 of the design, typed off."""
    distributions: dict[str, Any] = search_space().distributions
    plain = {
        name: (d.low, d.high, d.log) if not isinstance(d, optuna.distributions.CategoricalDistribution) else d.choices
        for name, d in distributions.items()
    }
    assert plain == {
        "extraction_units.layers": (2, 4, False),
        "extraction_units.units": (64, 128, 256),
        "dropout": (0.1, 0.5, False),
        "tokens": (2, 4, 8, 16),
        "attention_heads": (1, 2, 4),
        "attention_dimension": (16, 32, 64),
        "residual_blocks": (2, 4, False),
        "residual_units": (32, 64, 128),
        "head_units.layers": (2, 3, False),
        "head_units.units": (16, 32, 64),
        "learning_rate": (1e-4, 1e-2, True),
        "weight_decay": (1e-5, 1e-3, True),
        "batch_size": (16, 32, 64, 128),
        "schedule": ("step", "cosine", "exponential"),
    }


def test_every_draw_is_a_configuration():
    space, base = search_space(), TrainConfig(epochs=7, seed=3)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = []
    for _ in range(300):
        trial = study.ask(space.distributions)
        drawn.append(space.configuration(base, trial.params))  # raises if it is not one
        again = space.params(drawn[-1])
        assert again is not None
        assert space.configuration(base, again) == drawn[-1]
    assert {len(config.network.extraction_units) for config in drawn} == {2, 3, 4}
    assert {config.network.extraction_units[0] for config in drawn} == {64, 128, 256}
    assert {config.schedule for config in drawn} == {"step", "cosine", "exponential"}
    unchanged = set(settings_of(base)) - set(SEARCHED)
    assert {"epochs", "seed", "residual_weight"} <= unchanged
    for config in drawn:
        assert {name: settings_of(config)[name] for name in unchanged} == {
            name: settings_of(base)[name] for name in unchanged
        }


def test_layers_halve_down_to_the_least_allowed():
    space = search_space([Vary("extraction_units"), Vary("head_units")])
    params = {"extraction_units.layers": 4, "extraction_units.units": 256}
    params |= {"head_units.layers": 3, "head_units.units": 64}
    network = space.configuration(TrainConfig(), params).network
    assert network.extraction_units == (256, 128, 64, 64)
    assert network.head_units == (64, 32, 16)


def test_the_defaults_can_be_drawn_and_what_cannot_is_known():
    space = search_space()
    base = TrainConfig()
    assert space.configuration(base, space.params(base)) == base
    assert space.params(replace(base, batch_size=48)) is None
    assert space.params(replace(base, network=NetworkConfig(extraction_units=(64, 128)))) is None
    assert search_space([Vary("dropout", 0.1, 0.2)]).params(base) is None  # default 0.3


def test_a_part_of_a_range_and_a_setting_that_is_not_searched_by_default():
    distributions: dict[str, Any] = search_space(
        [
            Vary("residual_weight", 1e-3, 1e-1),
            Vary("auxiliary_weight"),
            Vary("batch_size", 32, 64),
            Vary("tokens", 4, 16),
        ]
    ).distributions
    assert (distributions["residual_weight"].low, distributions["residual_weight"].log) == (1e-3, True)
    assert not distributions["auxiliary_weight"].log  # from 0
    assert (distributions["batch_size"].low, distributions["batch_size"].high) == (32, 64)
    assert distributions["tokens"].choices == (4, 8, 16)


@pytest.mark.parametrize(
    ("vary", "words"),
    [
        ([Vary("width")], "unknown settings ['width']"),
        ([Vary("dropout"), Vary("dropout")], "['dropout'] again"),
        ([Vary("dropout", 0.1, 0.9)], "dropout may be searched within 0.1:0.5, got 0.1:0.9"),
        ([Vary("dropout", 0.4, 0.2)], "got 0.4:0.2"),
        ([Vary("schedule", 1, 2)], "schedule is one of step, cosine, exponential"),
        ([Vary("extraction_units", 65, 100)], "powers of two, and there is none in 65:100"),
    ],
)
def test_errors_name_the_setting_and_its_range(vary, words):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        search_space(vary)
    assert words in str(error.value)


def test_settings_are_replaced_wherever_they_are():
    assert set(settings_of(TrainConfig())) == {
        field.name for each in (NetworkConfig, PreprocessingConfig, TrainConfig) for field in fields(each)
    } - {"network", "preprocessing"}
    changed = replace_settings(TrainConfig(), {"tokens": 4, "seed": 9})
    assert changed == TrainConfig(network=NetworkConfig(tokens=4), seed=9)
