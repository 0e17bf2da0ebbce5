"""Names <-> rows: known rows keep their place, strangers are told apart, JSON keeps everything."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

import toys
from possm.config import from_json, to_json
from possm.data.vocabulary import Vocabulary
from possm.errors import CheckpointError, ConfigError

DAY1 = toys.recording(session="day1", seconds=5, units=3, split=False)
DAY2 = toys.recording(session="day2", seconds=5, units=4, split=False)


def test_rows():
    vocabulary = Vocabulary.of([DAY1, DAY2])
    assert vocabulary.units == ("", *(f"day1/u{i}" for i in range(3)), *(f"day2/u{i}" for i in range(4)))
    assert vocabulary.sessions == ("day1", "day2")
    assert vocabulary.subjects == {"day1": "toy-animal", "day2": "toy-animal"}
    np.testing.assert_array_equal(vocabulary.unit_rows(DAY1), [1, 2, 3])
    np.testing.assert_array_equal(vocabulary.unit_rows(DAY2), [4, 5, 6, 7])  # the same ids, other rows
    np.testing.assert_array_equal(vocabulary.rows_of("day1", ["u2", "x", "u0"]), [3, -1, 1])
    assert vocabulary.rows_of("day1", []).dtype == np.int64
    assert vocabulary.units_of("day2") == ("u0", "u1", "u2", "u3")
    assert vocabulary.units_of("day") == ()
    assert (vocabulary.session_row("day1"), vocabulary.session_row("day2")) == (0, 1)


def test_extending_keeps_rows():
    small = Vocabulary.of([DAY1])
    large = small.extend([DAY2])
    assert large == Vocabulary.of([DAY1, DAY2])
    assert large.units[: len(small.units)] == small.units
    assert small == Vocabulary.of([DAY1])  # unchanged


def test_the_blank_unit_has_no_session():
    vocabulary = Vocabulary.of([DAY1])
    assert vocabulary.units[0] == ""
    assert vocabulary.rows_of("", [""])[0] == -1


def test_a_session_twice():
    with pytest.raises(ConfigError, match="same session") as caught:
        Vocabulary.of([DAY1, replace(DAY2, session_id="day1")])
    assert caught.value.got == "day1"


def test_a_session_never_seen():
    with pytest.raises(CheckpointError, match="day3: the decoder has never seen this session") as caught:
        Vocabulary.of([DAY1, DAY2]).session_row("day3")
    assert "day1, day2" in str(caught.value.got)
    assert "adapt" in str(caught.value.fix)


def test_json_keeps_everything():
    vocabulary = Vocabulary.of([DAY1, replace(DAY2, subject_id=None, unit_ids=("a", "é/b", " ", '"'))])
    again = from_json(Vocabulary, json.loads(json.dumps(to_json(vocabulary))))
    assert again == vocabulary
    assert again.rows_of("day2", ["é/b"])[0] == 5
