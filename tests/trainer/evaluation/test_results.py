# SPDX-License-Identifier: Apache-2.0
"""Figures as files: what is written is read back, and the small file is a part of the large one."""

from __future__ import annotations

import itertools
import json
import math
import typing

import pytest

from sigmahat_trainer.evaluation import results
from sigmahat_trainer.evaluation.results import (
    Figures,
    WithError,
    from_json,
    headline,
    in_few_lines,
    read_figures,
    to_json,
)


def filled(kind):
    """A value of a type of figures in which every field is there, all numbers different."""
    counter = itertools.count(1)  # of at most five digits, as they are written

    def make(kind):
        if typing.get_origin(kind) is dict:
            return {name: make(typing.get_args(kind)[1]) for name in ("mine", "qis_correlation", "ewma", "sample")}
        if typing.get_origin(kind) is list:
            return [make(typing.get_args(kind)[0]) for _ in range(2)]
        if hasattr(kind, "_fields"):
            return kind(*(make(hint) for hint in typing.get_type_hints(kind).values()))
        kinds = [one for one in typing.get_args(kind) or [kind] if one is not type(None)]
        if hasattr(kinds[0], "_fields") or typing.get_origin(kinds[0]) is dict:
            return make(kinds[0])
        return kinds[0](next(counter))

    return make(kind)


def leaves(value, path=()):
    if isinstance(value, dict):
        for name, item in value.items():
            yield from leaves(item, (*path, name))
    elif isinstance(value, list):
        for k, item in enumerate(value):
            yield from leaves(item, (*path, k))
    else:
        yield path, value


def test_what_is_written_is_read_back(tmp_path):
    figures = filled(Figures)
    assert from_json(Figures, to_json(figures)) == figures
    path = tmp_path / "evaluation.json"
    path.write_text(in_few_lines({"commit": "abc", "figures": to_json(figures)}))
    assert read_figures(path) == figures


def test_every_number_keeps_five_digits_and_nan_is_null():
    assert to_json(1234567.0) == 1234600.0
    assert to_json({"n": 1234567, "s": "text"}) == {"n": 1234567, "s": "text"}
    assert to_json(WithError(math.nan)) == {"value": None}
    value, error = from_json(WithError, {"value": None})
    assert math.isnan(value)
    assert error is None


def test_the_small_file_is_a_part_of_the_large_one():
    figures = filled(Figures)
    small, large = (dict(leaves(to_json(part))) for part in (headline(figures, ["mine"]), figures))
    assert small.items() <= large.items()
    cell = headline(figures, ["mine"]).panels["mine"][0]
    assert cell.methods["mine"] == figures.panels["mine"][0].methods["mine"]  # of a pipeline everything
    assert set(cell.methods) == {"mine", "qis_correlation", "sample"}  # of `TABULATED`, what tables and pictures read
    gmv = figures.panels["mine"][0].methods["sample"].versus["qis_correlation"].gmv
    assert cell.methods["sample"].versus["qis_correlation"].gmv == gmv._replace(p=None, bootstrap_p=None)
    assert set(headline(figures, ["mine"]).pooled["mine"]) == {"mine", "qis_correlation", "ewma", "sample"}
    assert set(headline(figures, ["mine"]).every_shape) == {"mine"}


def test_few_lines_are_the_same_json():
    content = {"a": {"b": list(range(400)), "c": {}, "d": ["x" * 700]}, "e": [], "f": None}
    text = in_few_lines(content)
    assert json.loads(text) == content
    lines = text.splitlines()
    assert ' "e": [],' in lines
    assert len(lines) < 430
    assert in_few_lines({"a": 1}) == '{"a": 1}'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"commit": "abc"}, "has no figures: did the evaluation end before them"),
        ({"figures": {"grid": {}}}, "no file of figures of this version: .*'grid'"),
        ({"figures": {}}, "no file of figures of this version: .*panels"),
    ],
)
def test_other_files_are_errors_in_plain_words(tmp_path, content, message):
    (tmp_path / "evaluation.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        read_figures(tmp_path / "evaluation.json")


def test_every_type_is_named_for_one_thing():
    """Types of the module are reached from `Figures`, but for what only functions take: nothing is left over."""
    reached, waiting = set(), [Figures]
    while waiting:
        kind = waiting.pop()
        waiting += typing.get_args(kind)
        if hasattr(kind, "_fields") and kind not in reached:
            reached.add(kind)
            waiting += typing.get_type_hints(kind).values()
    declared = {kind for kind in vars(results).values() if hasattr(kind, "_fields")}
    assert reached == declared
