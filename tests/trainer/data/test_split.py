# SPDX-License-Identifier: Apache-2.0
"""Every day of a panel serves one purpose: to train, to choose or to test."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from sigmahat_trainer.data.panels import ReturnPanel
from sigmahat_trainer.data.split import PERIODS, split_panels, validation_end


def make_panel(first, last, name="panel"):
    dates = np.arange(np.datetime64(first), np.datetime64(last) + 1)
    dates = dates[np.is_busday(dates)]
    return ReturnPanel(name, np.zeros((len(dates), 2), np.float32), dates, np.zeros((len(dates), 4), np.float32))


def uses(panel):
    """What each day may be used for, by the functions that training, choosing and testing ask."""
    split = split_panels([panel])
    training = [] if not split.training else split.training[0].dates
    first, last, _ = PERIODS["validation"].of(panel)
    validation = split.validation[0].between(first, None).dates
    np.testing.assert_array_equal(validation, panel.between(first, last).dates)  # drawing and evaluating agree
    first, last, _ = PERIODS["test"].of(panel)
    assert last is None
    return training, validation, panel.between(first, None).dates


def test_of_a_panel_with_a_past_the_calendar_decides():
    panel = make_panel("2012-11-01", "2017-06-30")
    training, validation, test = uses(panel)
    assert (str(training[0]), str(training[-1])) == ("2012-11-01", "2012-12-31")
    assert (str(validation[0]), str(validation[-1])) == ("2013-01-01", "2015-12-31")
    assert (str(test[0]), str(test[-1])) == ("2016-01-01", "2017-06-30")
    np.testing.assert_array_equal(np.concatenate([training, validation, test]), panel.dates)


@pytest.mark.parametrize("first", ["2013-01-01", "2017-11-01", "2022-07-01"])
def test_a_panel_that_begins_later_trains_nothing_and_validates_on_its_first_third(first):
    panel = make_panel(first, "2025-07-31")
    training, validation, test = uses(panel)
    assert len(training) == 0
    assert len(validation) == len(panel.dates) // 3
    np.testing.assert_array_equal(np.concatenate([validation, test]), panel.dates)


def test_no_day_that_others_are_chosen_by_is_for_the_test():
    """The third of a panel of 2014 to 2016 ends in 2014, in the midst of what the others validate on."""
    _, validation, test = uses(make_panel("2014-01-01", "2016-12-30"))
    assert validation[-1] < np.datetime64("2015-01-01")
    assert str(test[0]) == "2016-01-01"


def test_days_that_were_asked_for_are_the_same_whatever_the_panel():
    asked = PERIODS["test"]._replace(part=None)
    assert asked.of(make_panel("2022-07-01", "2025-07-31")) == asked


def test_days_of_training_may_be_others():
    panel = make_panel("2012-02-01", "2012-12-31")
    third = str(panel.dates[len(panel.dates) // 3 - 1])
    assert validation_end(panel, "2012-02-01", "2012-09-30") == "2012-09-30"
    assert validation_end(panel, "2012-01-31", "2012-09-30") == third
    split = split_panels([panel], train_until="2012-01-31", validate_until="2012-09-30")
    assert split.training == []
    assert str(split.validation[0].dates[-1]) == third


def test_panels_that_train_nothing_are_named_in_one_line():
    said = io.StringIO()
    panels = [make_panel("2000-01-03", "2020-12-31", "early"), make_panel("2019-01-01", "2019-01-09", "late")]
    split_panels(panels, console=Console(file=said, width=40))
    assert said.getvalue() == (
        "begin after 2012-12-31, train nothing and validate on their first third: late (to 2019-01-02)\n"
    )
    assert [panel.name for panel in split_panels(panels[:1]).training] == ["early"]
