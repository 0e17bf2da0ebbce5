"""Many recordings as one set: what is wrong with one of them is said by name."""

from __future__ import annotations

from dataclasses import replace

import pytest

import toys
from possm.data.collection import check_distinct, open_recordings, renamed
from possm.data.formats.hdf5 import write_hdf5
from possm.errors import ConfigError, RecordingError

TOY = toys.recording(seconds=10)


def recording(session, *behaviors):
    return replace(TOY, session_id=session, signals={name: TOY.signals["vel"] for name in behaviors})


def names(recordings):
    return [list(r.signals) for r in recordings]


# ---------------------------------------------------------------- opening
@pytest.fixture
def files(tmp_path):
    """Two good files with a damaged one between them."""
    for session in ("a", "b", "c"):
        write_hdf5(recording(session, "cursor.vel"), tmp_path / f"{session}.h5")
    content = (tmp_path / "b.h5").read_bytes()
    (tmp_path / "b.h5").write_bytes(content[: len(content) // 2])
    return [tmp_path / f"{session}.h5" for session in ("a", "b", "c")]


def test_a_damaged_file_is_named(files):
    with pytest.raises(RecordingError, match=r"b\.h5"):
        open_recordings(files)


def test_a_damaged_file_is_skipped_on_request_only(files, caplog):
    opened = open_recordings(files, skip_bad=True)
    assert [r.session_id for r in opened] == ["a", "c"]
    assert len(caplog.records) == 1 and "b.h5" in caplog.text
    assert len(opened[1].tokens(0, 1)[0]) == len(TOY.tokens(0, 1)[0])


def test_no_good_file(files):
    with pytest.raises(RecordingError, match="none of the files"):
        open_recordings(files[1:2], skip_bad=True)
    assert open_recordings([]) == []


def test_a_session_listed_twice(files):
    with pytest.raises(ConfigError, match=r"(?s)same session.*a\.h5 and .*a\.h5"):
        open_recordings([files[0], files[2], files[0]])
    check_distinct([recording("a"), recording("b")])


# ---------------------------------------------------------------- renaming
def test_a_rule_for_all():
    """Those that have the old name get the new one; who has the new one already is left alone."""
    made = renamed(
        [recording("a", "hand.vel"), recording("b", "cursor.vel"), recording("c", "cursor.vel", "hand.vel")],
        ["hand.vel=cursor.vel"],
    )
    assert names(made) == [["cursor.vel"], ["cursor.vel"], ["cursor.vel", "hand.vel"]]
    assert made[0].behavior("cursor.vel") is TOY.signals["vel"]


def test_a_rule_for_one_session():
    given = [recording(s, "hand.vel", "eye.pos") for s in "ab"]
    made = renamed(given, ["b:hand.vel=cursor.vel", "eye.pos=gaze"])
    assert names(made) == [["hand.vel", "gaze"], ["cursor.vel", "gaze"]]
    assert names(given) == [["hand.vel", "eye.pos"]] * 2


def test_nothing_to_do_is_no_error_where_all_have_the_name():
    given = [recording("a", "cursor.vel"), recording("b", "cursor.vel")]
    assert names(renamed(given, ["hand.vel=cursor.vel"])) == names(given)


@pytest.mark.parametrize(
    ("rule", "error", "says"),
    [
        ("hand.vel", ConfigError, "cannot be read"),
        ("=cursor.vel", ConfigError, "cannot be read"),
        ("hand.vel=", ConfigError, "cannot be read"),
        ("hnad.vel=x", ConfigError, "(?s)changes nothing.*cursor.vel, hand.vel"),
        ("z:hand.vel=x", ConfigError, "changes nothing"),
        ("a:hnad.vel=x", RecordingError, "no behavior 'hnad.vel'"),
        ("b:hand.vel=cursor.vel", RecordingError, "already"),
    ],
)
def test_rules_that_cannot_be_meant(rule, error, says):
    given = [recording("a", "hand.vel"), recording("b", "cursor.vel", "hand.vel")]
    with pytest.raises(error, match=says):
        renamed(given, [rule])
    if error is RecordingError or "changes" in says:
        assert names(renamed(given, [rule], strict=False)) == names(given)
