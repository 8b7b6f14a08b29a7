"""The settings of runs in words."""

import pytest
from word_helpers import words

from jmeta.report.words import distinguishing_names, unusual_words, words_of


def read(**settings):
    return words_of({"words": words(**settings)})


def test_what_goes_without_saying_is_not_said():
    assert unusual_words(read(delay=1, inject="lstm", presentations=10, filters=64)) == [
        "10 presentations",
        "labels to lstm",
    ]
    assert unusual_words(words_of({"words": list(reversed(words(delay=3, inject="lstm")))})) == [
        "delay 3",
        "labels to lstm",
    ]
    assert words_of({}) == []


@pytest.mark.parametrize("order", [1, -1])
def test_a_missing_setting_keeps_its_place_among_the_others(order):
    runs = [read(image_size=14, delay=3), read(image_size=28, presentations=5, delay=1)][::order]
    assert (
        distinguishing_names(["ntm", "ntm"], runs)
        == [
            "ntm, 14x14, default presentations, delay 3",
            "ntm, 28x28, 5 presentations, delay 1",
        ][::order]
    )


def test_settings_of_another_algorithm_do_not_distinguish():
    runs = [read(inject="first", delay=1), read(inject="lstm", delay=1), read(filters=32, delay=1)]
    names = distinguishing_names(["cl_lstm", "cl_lstm", "oml"], runs)
    assert names == ["cl_lstm, labels to first", "cl_lstm, labels to lstm", "oml"]
    assert distinguishing_names(["cl_lstm", "cl_lstm"], runs[:2], besides=["inject"]) == ["cl_lstm"] * 2
