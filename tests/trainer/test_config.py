# SPDX-License-Identifier: Apache-2.0
"""Settings: their ranges, their journey through JSON, and the command line made from them."""

from __future__ import annotations

import json
import re
from dataclasses import FrozenInstanceError, asdict

import click
import pytest
from click.testing import CliRunner

from sigmahat_trainer.config import NetworkConfig, TrainConfig, click_options, declared_settings, from_dict, setting

NETWORK_RANGES = {
    "dropout": (0.1, 0.5, 0.3),
    "tokens": (2, 16, 8),
    "attention_heads": (1, 4, 2),
    "attention_dimension": (16, 64, 32),
    "residual_blocks": (2, 4, 2),
    "residual_units": (32, 128, 64),
}
TRAIN_RANGES = {
    "learning_rate": (1e-4, 1e-2, 5e-4),
    "weight_decay": (1e-5, 1e-3, 1e-4),
    "batch_size": (16, 128, 32),
    "simulated_share": (0.0, 1.0, 0.25),
}
# extraction_units: 2..4 layers of 64..256; head_units: 2..3 layers of 16..64
UNITS = {"extraction_units": (2, 4, 64, 256, (128, 64)), "head_units": (2, 3, 16, 64, (32, 16))}

RANGES = [(NetworkConfig, name, *limits) for name, limits in NETWORK_RANGES.items()]
RANGES += [(TrainConfig, name, *limits) for name, limits in TRAIN_RANGES.items()]


@pytest.mark.parametrize(("config_class", "name", "low", "high", "default"), RANGES)
def test_a_number_may_be_anything_in_its_range_and_nothing_else(config_class, name, low, high, default):
    assert getattr(config_class(), name) == default
    for value in (low, high):
        assert getattr(config_class(**{name: value}), name) == value
    step = 1 if isinstance(default, int) else 1e-6
    for value in (low - step, high + step, float("nan"), "3", None, True):
        with pytest.raises(ValueError, match=f"^{name} must be a .*{low:g}.*{high:g}".replace("e-0", "e-")) as error:
            config_class(**{name: value})
        assert str(error.value).endswith(f"got {value!r}")


@pytest.mark.parametrize("name", UNITS)
def test_layer_sizes_are_limited_in_number_and_in_size(name):
    shortest, longest, low, high, default = UNITS[name]
    assert getattr(NetworkConfig(), name) == default
    for units in ((low,) * shortest, (high,) * longest):
        assert getattr(NetworkConfig(**{name: units}), name) == units
    too_few, too_many, too_small, too_large = (
        (low,) * (shortest - 1),
        (low,) * (longest + 1),
        (high, low - 1),
        (high + 1,) * 2,
    )
    for wrong in (too_few, too_many, too_small, too_large, (low, low + 0.5), [low, low], low):
        wanted = f"{name} must be {shortest}..{longest} whole numbers in {low}..{high}, got {wrong!r}"
        with pytest.raises(ValueError, match=f"^{re.escape(wanted)}$"):
            NetworkConfig(**{name: wrong})


def test_a_whole_number_is_not_a_fraction():
    with pytest.raises(ValueError, match=r"batch_size must be a whole number in 16\.\.128, got 32\.5"):
        TrainConfig(batch_size=32.5)


def test_schedule_is_one_of_three():
    for schedule in ("step", "cosine", "exponential"):
        assert TrainConfig(schedule=schedule).schedule == schedule
    with pytest.raises(ValueError, match="schedule must be one of step, cosine, exponential, got 'linear'"):
        TrainConfig(schedule="linear")


def test_attention_heads_share_the_dimension_evenly():
    assert NetworkConfig(attention_heads=3, attention_dimension=48).attention_dimension == 48
    with pytest.raises(ValueError, match="attention_dimension must be divisible by attention_heads, got 32 and 3"):
        NetworkConfig(attention_heads=3)


def test_settings_cannot_be_changed_afterwards():
    with pytest.raises(FrozenInstanceError):
        TrainConfig().seed = 1


def test_a_setting_without_a_range_cannot_be_declared():
    with pytest.raises(TypeError, match="needs low and high, or choices"):
        setting(3, "a number without limits", low=1)


def test_json_round_trip():
    config = TrainConfig(network=NetworkConfig(extraction_units=(256, 128, 64), dropout=0.15), schedule="step", seed=7)
    assert from_dict(TrainConfig, json.loads(json.dumps(asdict(config)))) == config
    assert from_dict(TrainConfig, {}) == TrainConfig()


def test_an_unknown_or_bad_setting_in_a_dict_is_an_error():
    with pytest.raises(
        ValueError, match=r"unknown settings \['learning_rat'\] of TrainConfig; it has \['auxiliary_weight'"
    ):
        from_dict(TrainConfig, {"learning_rat": 1e-3})
    with pytest.raises(ValueError, match=r"unknown settings \['units'\] of NetworkConfig"):
        from_dict(TrainConfig, {"network": {"units": 3}})
    with pytest.raises(ValueError, match="dropout must be a number in"):
        from_dict(TrainConfig, {"network": {"dropout": 0.9}})
    with pytest.raises(ValueError, match="network must be a NetworkConfig, got 3"):
        from_dict(TrainConfig, {"network": 3})


@click.command()
@click.argument("data")
@click_options(TrainConfig)
@click.option("--output")
def command(data: str, config: TrainConfig, output: str) -> None:
    click.echo(json.dumps([data, output, asdict(config)]))


def test_options_make_the_config_and_leave_the_command_its_own():
    given = ["panels", "--learning-rate", "1e-3", "--head-units", "64,32,16", "--schedule", "step", "--output", "out"]
    result = CliRunner().invoke(command, given)
    assert result.exit_code == 0, result.output
    data, output, values = json.loads(result.output)
    assert (data, output) == ("panels", "out")
    expected = TrainConfig(network=NetworkConfig(head_units=(64, 32, 16)), learning_rate=1e-3, schedule="step")
    assert from_dict(TrainConfig, values) == expected
    assert json.loads(CliRunner().invoke(command, ["panels"]).output)[2] == json.loads(
        json.dumps(asdict(TrainConfig()))
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dropout", "0.7"], "Error: dropout must be a number in 0.1..0.5, got 0.7"),
        (["--batch-size", "8"], "Error: batch_size must be a whole number in 16..128, got 8"),
        (["--head-units", "32,x"], "'32,x' is not a list of whole numbers like 128,64"),
        (["--schedule", "linear"], "'linear' is not one of 'step', 'cosine', 'exponential'"),
        (["--learning-rat", "1e-3"], "No such option"),
    ],
)
def test_a_bad_option_is_a_usage_error_in_the_words_of_the_config(arguments, message):
    result = CliRunner().invoke(command, ["panels", *arguments])
    assert result.exit_code == 2
    assert message in result.output


def test_help_names_every_setting_with_its_range_and_default():
    text = " ".join(CliRunner().invoke(command, ["--help"]).output.split())
    assert "peak learning rate of AdamW [0.0001..0.01, default 0.0005]" in text
    assert "weight decay of AdamW [1e-5..0.001, default 0.0001]" in text
    assert "units of each layer of a head [2..3 layers of 16..64, default 32,16]" in text
    assert "course of the learning rate [default cosine]" in text
    names = [each.name for each in declared_settings(TrainConfig)]
    assert len(names) == len(set(names)) == 27
    for name in names:
        assert f"--{name.replace('_', '-')} " in text


def test_settings_of_before_preprocessing_are_read_with_none_of_it():
    saved = asdict(TrainConfig(seed=7))
    del saved["preprocessing"]
    assert from_dict(TrainConfig, saved) == TrainConfig(seed=7)


def test_every_kind_of_preprocessing_is_a_switch_of_the_command():
    assert set(asdict(TrainConfig().preprocessing).values()) == {"off", 0}
    given = ["--rank-transform", "non-gaussian", "--principal-components", "20", "--selected-features", "40"]
    given += ["--expanding-normalisation", "on", "--median-imputation", "on"]
    result = CliRunner().invoke(command, ["panels", *given])
    assert json.loads(result.output)[2]["preprocessing"] == {
        "expanding_normalisation": "on",
        "median_imputation": "on",
        "rank_transform": "non-gaussian",
        "selected_features": 40,
        "principal_components": 20,
    }
    result = CliRunner().invoke(command, ["panels", "--principal-components", "-1"])
    assert "Error: principal_components must be a whole number in 0..1000, got -1" in result.output
