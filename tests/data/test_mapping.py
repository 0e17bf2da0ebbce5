from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from possm.data.formats.mapping import list_maps, load_map, parse_map, who
from possm.data.formats.rules import ColumnRule
from possm.errors import ConfigError

BINS = {"field": "Y", "holds": "counts", "bin_s": 0.1}


def test_the_shipped_maps_are_valid_and_say_what_they_read() -> None:
    maps = list_maps()
    assert set(maps) >= {"limblab-binned", "contdata95", "place-cells"}
    assert all(maps.values())


def test_a_map_of_ones_own_is_read_from_its_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('about = "mine"\n[bins]\nfield = "Y"\nholds = "counts"\nbin_s = 0.1\n')
    mapping = load_map(path)
    assert (mapping.name, mapping.about) == ("mine", "mine")
    assert mapping.bins is not None
    assert mapping.bins.bin_s == 0.1


def test_columns_of_trials_have_a_short_and_a_long_form() -> None:
    columns = {
        "a": 5,
        "b": [6, 5],
        "c": {"column": 8, "letter": True},
        "d": {"word": [64, 71], "times": 45.0},
    }
    mapping = parse_map(
        {"bins": BINS, "trials": [{"field": "t", "start": 0, "end": 1, "columns": columns}]}, "m"
    )
    assert mapping.trials[0].columns == {
        "a": ColumnRule(column=(5,)),
        "b": ColumnRule(column=(6, 5)),
        "c": ColumnRule(column=(8,), letter=True),
        "d": ColumnRule(word=(64, 71), times=45.0),
    }


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({}, "one of [bins], [spikes] and [rasters]"),
        ({"bins": BINS, "spikes": {"field": "s"}}, "one of [bins], [spikes] and [rasters]"),
        ({"bins": {**BINS, "bin_ms": 100}}, "unknown bin_ms"),
        ({"bins": {"field": "Y", "holds": "counts"}}, "missing bin_s"),
        ({"bins": {**BINS, "holds": "spikes"}}, 'holds = "counts" or "rates"'),
        ({"bins": {**BINS, "bin_s": 0}}, "bin_s above 0"),
        ({"bins": BINS, "signal": []}, "unknown signal"),
        ({"bins": BINS, "signals": [{"name": "a.b"}]}, "either a field or gradient_of"),
        ({"bins": BINS, "signals": [{"name": "a.b", "gradient_of": "a.c"}]}, "no signal above"),
        ({"bins": BINS, "signals": [{"name": "a.b", "field": "X", "stamp": "middle"}]}, '"start" or "end"'),
        ({"spikes": {"field": "s"}, "signals": [{"name": "a.b", "field": "X"}]}, "needs a field of times"),
        (
            {"bins": BINS, "quality": {"frozen": {"signal": "a.b", "within": 1.0, "seconds": 1.0}}},
            "unknown signal",
        ),
        ({"bins": "Y"}, "wanted: a table"),
    ],
)
def test_a_wrong_map_says_where_it_is_wrong(table: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        parse_map(table, "m")


def test_a_map_that_is_not_there_or_not_toml(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"(?s)no such map.*limblab-binned"):
        load_map("limblab")
    with pytest.raises(ConfigError, match="no such map"):
        load_map(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("a = = 1")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_map(tmp_path / "bad.toml")


def test_who_a_file_is_from_is_read_from_its_name() -> None:
    mapping = load_map("limblab-binned")
    session, subject, facts = who(mapping, "Spike_09-05-12_WF_001")
    assert (session, subject) == ("spike_20120905", "spike")
    assert facts["session.recording_date"] == "2012-09-05"
    assert who(mapping, "Jango_20141203_default_offline_data")[:2] == ("jango_20141203", "jango")
    assert who(mapping, "my own file (2)")[:2] == ("my_own_file_2_", None)


def test_the_examples_of_the_documentation_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "formats.md").read_text()
    toml, python = (re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL) for kind in ("toml", "python"))
    mapping = parse_map(tomllib.loads(toml[0]), "documented")
    assert who(mapping, "Spike_09-05-12_x")[0] == "spike_20120905"
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    given: dict[str, Any] = {
        "times_s": np.sort(rng.uniform(0, 600, 9000)),
        "unit": rng.integers(0, 2, 9000),
        "pos": rng.standard_normal((60000, 2)),
    }
    exec(python[0], given)
    assert len(given["window"].signals["cursor.pos"]) == 100
