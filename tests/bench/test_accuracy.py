"""`possm bench accuracy`: every decoder on every recording, and what it says of those that failed."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

import toys
from bench_helpers import write_toy
from possm import cli
from possm.bench.accuracy import AccuracyReport, bench_accuracy
from possm.bench.accuracy_table import accuracy_markdown
from possm.bench.sources import sources
from possm.bench.trials import STEPS_WARM, BenchConfig, base_config, in_bins, step_ms
from possm.checkpoint import load_decoder
from possm.data.formats import write_hdf5
from possm.errors import ConfigError
from possm.model.decoder import PossmConfig

PROMISED = [
    *("recording", "decoder", "behavior", "seed", "r2", "r2_per_dimension"),
    *("parameters", "train_s", "step_ms", "status"),
]


def tiny(**changes):
    """A preset of a tiny POSSM, trained in short windows."""

    def preset(config):
        decoder = replace(config.decoder, **toys.TINY)
        return replace(config, decoder=decoder, window_s=1.0, device="cpu", **changes)

    return preset


def diverging(config):
    """A preset whose first step ends in numbers that are none."""
    config = tiny(batch_size=4)(config)
    return replace(config, optim=replace(config.optim, learning_rate=1e30, ema=0.0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Recordings of spike times and of bins of 20 ms, and one with nothing to select weights by."""
    made = tmp_path_factory.mktemp("recordings")
    spikes = write_toy(made / "a.h5", session="day1", seconds=20.0, units=8)
    write_toy(made / "b.h5", session="day2", seconds=20.0, units=8, seed=1, bin_ms=20)
    intervals = {name: part for name, part in spikes.intervals.items() if name != "valid_domain"}
    unselected = replace(spikes, session_id="day3", intervals=intervals)
    (made / "broken").mkdir()
    write_hdf5(unselected, made / "broken" / "c.h5")
    return made


def test_from_recordings_to_tables(folder, tmp_path):
    lines: list[str] = []
    config = BenchConfig(seeds=(3,), steps=2, workers=2)
    decoders = {"one": tiny(), "bad": diverging, "two": tiny(batch_size=4)}
    given = [folder / "a.h5", folder / "broken"]
    arguments = {"presets": decoders, "progress": lines.append}
    report = bench_accuracy(given, tmp_path, config, decoders=["one", "bad"], **arguments)
    assert [(row["recording"], row["decoder"]) for row in report.rows] == [
        *(("day1", "one"), ("day1", "bad")),
        *(("day3", "one"), ("day3", "bad")),
    ]
    good, diverged, unselected, _ = report.rows
    assert all(list(row) == PROMISED for row in report.rows)
    assert (good["behavior"], good["seed"], good["status"]) == ("cursor.vel", 3, "ok")
    assert len(good["r2_per_dimension"]) == 2
    assert good["r2"] == pytest.approx(sum(good["r2_per_dimension"]) / 2)
    assert 5_000 < good["parameters"] < 30_000
    assert good["train_s"] > 0 and 0 < good["step_ms"] < 1000
    assert diverged["status"].startswith("failed: day1-bad-seed3, step 1: the training loss")
    assert "valid" in unselected["status"]
    assert diverged["r2"] is unselected["r2"] is None
    assert json.loads((tmp_path / "accuracy.json").read_text()) == list(report.rows)
    assert (tmp_path / "accuracy.md").read_text() == report.text() + "\n"
    assert (tmp_path / "accuracy.png").stat().st_size > 5_000
    assert len(lines) == 4

    run = tmp_path / "runs" / "day1-one-seed3"
    assert load_decoder(run / "decoder.safetensors").config.strictly_causal
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2  # an epoch is one step
    result = tmp_path / "jobs" / "day1-one-seed3.json"
    before = result.stat().st_mtime_ns
    again = bench_accuracy([folder / "a.h5"], tmp_path, config, decoders=["two", "one"], **arguments)
    assert [row["decoder"] for row in again.rows] == ["two", "one"]
    assert again.rows[1] == good
    assert result.stat().st_mtime_ns == before

    with pytest.raises(ConfigError, match="other settings"):
        bench_accuracy([folder / "a.h5"], tmp_path, replace(config, steps=7), presets={"one": tiny()})


def test_what_all_decoders_share(folder, tmp_path):
    """Chunks follow the bins, and a velocity beside its position counts less."""
    one, two = (base_config(source, 5) for source in sources([folder], tmp_path))
    assert (one.decoder.chunk_ms, two.decoder.chunk_ms) == (50, 40)
    assert one.behavior == ("cursor.vel",) and one.seed == 5 and one.decoder.strictly_causal
    assert replace(one, decoder=two.decoder) == two


def row(recording, decoder, seed, r2, behavior="pos", **changes):
    known = {"parameters": 1000, "train_s": 10.0 * (seed + 1), "step_ms": 0.5, "status": "ok"}
    key = {"recording": recording, "decoder": decoder, "behavior": behavior, "seed": seed}
    return {**key, "r2": r2, "r2_per_dimension": [r2], **known, **changes}


MISSING = dict.fromkeys(("r2", "r2_per_dimension", "parameters", "train_s", "step_ms"))


GROUPS = {"d1": "monkey", "d2": "monkey", "r": "rat"}


def test_the_table_of_known_rows():
    rows = [
        *(row(day, "gru", seed, 0.8 + 0.1 * seed) for day in ("d1", "d2") for seed in (0, 1)),
        *(row(day, "mlp", seed, 0.6) for day in ("d1", "d2") for seed in (0, 1)),
        row("r", "gru", 0, 0.25),
        row("r", "mlp", 0, 0.5),
    ]
    rows[7] |= MISSING | {"r2": 0.95, "parameters": 1}
    text = accuracy_markdown(rows, GROUPS)
    assert "| decoder | monkey, pos (2 recordings) | rat, pos | parameters | training s | step ms |" in text
    assert "| gru | **0.850 ± 0.050** | 0.250 | 1,000 | 10 | 0.50 |" in text
    assert "| mlp | 0.688 ± 0.152 | **0.500** | 1,000 | 10 | 0.50 |" in text
    assert "| d1 | pos | **0.850** | 0.600 |" in text
    assert "| d2 | pos | **0.850** | 0.775 |" in text
    assert "Without a score" not in text

    rows[6] |= MISSING | {"status": "failed: it | broke"}
    text = accuracy_markdown(rows, GROUPS)
    assert "| mlp | 0.717 ± 0.165 (3 of 4) | **0.500** |" in text
    assert "| d2 | pos | **0.850** | – |" in text
    assert "- d2, mlp, seed 0: failed: it | broke" in text


def test_a_table_without_one_score(tmp_path):
    rows = (row("r", "gru", 0, None) | MISSING | {"status": "failed: x"},)
    AccuracyReport(rows, GROUPS).write(tmp_path)
    assert "| gru | – | – | – | – |" in (tmp_path / "accuracy.md").read_text()
    assert (tmp_path / "accuracy.png").exists()


class SlowLive:
    """A stream whose first steps take 20 ms, the others 3 ms."""

    def __init__(self, origin_s: float, session: str) -> None:
        self.decoded_s, self.session, self.pushed = origin_s, session, []

    def push(self, times_s, unit, until_s, counts):
        until_cpu_s = time.thread_time() + (0.02 if len(self.pushed) < STEPS_WARM else 0.003)
        while time.thread_time() < until_cpu_s:
            pass
        time.sleep(0.01)  # as when other processes have their turn
        assert ((times_s >= self.decoded_s) & (times_s < until_s)).all()
        self.pushed.append(counts.sum())
        self.decoded_s = until_s


def test_time_of_a_step():
    recording = toys.recording(seconds=20.0, units=4, bin_ms=50)
    opened = []

    def live(**settings):
        opened.append(SlowLive(**settings))
        return opened[-1]

    took_ms = step_ms(SimpleNamespace(config=PossmConfig(chunk_ms=50), live=live), recording)
    assert 3 <= took_ms < 8
    start_s, end_s = recording.split("test").start_s[0], recording.split("test").end_s[-1]
    assert opened[0].session == "toy"
    assert len(opened[0].pushed) == int((end_s - start_s) / 0.05)
    assert sum(opened[0].pushed) == recording.binned.slice(start_s, opened[0].decoded_s).values.sum()


def test_in_bins():
    recording = toys.recording(seconds=20.0, units=4)
    binned = in_bins(recording, 50).binned
    assert binned.values.shape == (400, 4) and binned.rate_hz == 20
    for bin_number, unit in ((0, 0), (17, 3), (399, 1)):
        inside = recording.spikes.slice(bin_number * 0.05, (bin_number + 1) * 0.05).unit
        assert binned.values[bin_number, unit] == (inside == unit).sum()
    assert binned.values.sum() == len(recording.spikes)


WRONG = {
    "{}/a.h5 --decoders possm-gur": "did you mean 'possm-gru'?",
    "{}/a.h5 --seeds -1": "seeds is out of range",
    "{}/a.h5 {}/a.h5 --decoders x": "decoders names 'x'",
    "": "no recording given",
    "{}/none.h5": "none.h5",
}


@pytest.mark.parametrize(("words", "says"), WRONG.items())
def test_errors_of_the_user(capsys, folder, tmp_path, words, says):
    line = ["bench", "accuracy", *words.replace("{}", str(folder)).split(), "--out", str(tmp_path / "x")]
    assert cli.main(line) == cli.USAGE_ERROR
    assert says in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_command(capsys, folder, tmp_path):
    """The one decoder that is fitted in no time, from the shell's side."""
    words = ["bench", "accuracy", folder / "a.h5", "--decoders", "wiener", "--seeds", "0", "--out", tmp_path]
    assert cli.main([str(word) for word in words]) == 0
    shown = capsys.readouterr()
    assert "| wiener | " in shown.out
    assert "day1-wiener-seed0: ok" in shown.err
    assert json.loads((tmp_path / "accuracy.json").read_text())[0]["r2"] > 0
