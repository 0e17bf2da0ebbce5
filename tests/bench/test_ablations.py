"""`possm bench accuracy --ablations`: what is changed where, and what the tables say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import toys
from bench_helpers import write_toy
from possm.bench import ablations
from possm.bench.ablations import ABLATIONS, CHANGES, UNCHANGED, AblationReport, bench_ablations
from possm.bench.sources import Source
from possm.bench.trials import BenchConfig, base_config
from possm.training.presets import PRESETS


def source(bin_ms: float | None) -> Source:
    return Source(Path("x.h5"), "x", "x", ("cursor.pos",), bin_ms, "digest")


def trials(bin_ms: float | None) -> dict[str, object]:
    where = source(bin_ms)
    return {trial.decoder: trial for trial in ablations._trials(where, base_config(where, 0), PRESETS)}


def test_every_line_is_a_decoder_and_every_change_a_line():
    lines = [decoder for one in ABLATIONS.values() for decoder in one.values()]
    assert {*lines} == {UNCHANGED, *CHANGES}
    assert all(list(one.values()).count(UNCHANGED) == 1 for one in ABLATIONS.values())
    assert {change.preset for change in CHANGES.values()} <= set(PRESETS)


def test_the_unchanged_decoder_is_what_its_lines_say():
    config = trials(None)[UNCHANGED].config
    assert config == PRESETS[UNCHANGED](base_config(source(None), 0))
    assert (config.decoder.backbone, config.decoder.num_context, config.decoder.chunk_ms) == ("gru", 3, 50)
    assert config.decoder.effective_lead_ms == 50
    assert config.augment.min_units_kept == 1


def test_each_changes_one_thing():
    made = trials(None)
    unchanged = made[UNCHANGED].config
    assert set(made) == {UNCHANGED, *CHANGES}
    assert made["possm-gru+bins10"].bins_ms == 10
    for name, trial in made.items():
        if name != "gru":
            assert trial.config.optim == unchanged.optim and trial.config.seed == unchanged.seed
    assert made["possm-gru+k5"].config == replace(
        unchanged, decoder=replace(unchanged.decoder, num_context=5)
    )
    assert made["possm-gru+chunk20"].config.decoder.effective_lead_ms == 20
    counts = made["possm-gru+counts"].config
    assert counts == replace(unchanged, decoder=counts.decoder)
    for name in ("backbone", "width", "hidden", "num_layers", "dropout", "effective_lead_ms"):
        assert getattr(counts.decoder, name) == getattr(unchanged.decoder, name), name
    assert made["possm-gru+lead0"].config.decoder.strictly_causal is False
    assert made["possm-gru+lead200"].config.decoder.effective_lead_ms == 200
    assert made["possm-gru+units50"].config.augment.min_units_kept == 0.5


ABSENT = {
    10.0: {"bins10", "bins50"},
    50.0: {"bins10", "bins50", "chunk20"},
    100.0: {"bins10", "bins50", "chunk20", "lead100"},
}


@pytest.mark.parametrize(("bin_ms", "absent"), ABSENT.items())
def test_only_where_the_bins_allow(bin_ms, absent):
    assert {*CHANGES} - trials(bin_ms).keys() == {f"{UNCHANGED}+{name}" for name in absent}


def row(recording, decoder, seed, r2, status="ok"):
    known = {"parameters": 1000, "train_s": 10.0, "step_ms": 0.5, "status": status}
    key = {"recording": recording, "decoder": decoder, "behavior": "pos", "seed": seed}
    return {**key, "r2": r2, "r2_per_dimension": [r2], **known}


def test_tables_of_known_rows():
    """The spike recording 'a' only is in the table of spike times; differences are paired."""
    rows = (
        *(row(name, UNCHANGED, seed, 0.5 + 0.1 * seed) for name in "ab" for seed in (0, 1)),
        *(row("a", "possm-gru+bins50", seed, 0.4) for seed in (0, 1)),
        *(row(name, "possm-gru+k1", seed, 0.4 + 0.1 * seed) for name in "ab" for seed in (0, 1)),
        row("b", "possm-gru+k5", 0, None, "failed: x"),
        row("b", "possm-gru+k5", 1, 0.7),
    )
    report = AblationReport(rows, {"a": "rat", "b": "rat"})
    text = report.text()
    times, contexts = text.split("### ")[1:3]
    assert times.startswith("When spikes were") and contexts.startswith("Hidden states")
    assert "|  | rat, pos | parameters" in times
    assert "| spike times | 0.550 | 1,000" in times
    assert "| centres of 50 ms bins | 0.400 (-0.150 ± 0.050) |" in times
    assert "10 ms" not in times
    assert "| 1 | 0.450 (-0.100 ± 0.000) |" in contexts
    assert "| 5 | 0.700 (+0.100) |" in contexts
    assert "- b, possm-gru+k5, seed 0: failed: x" in text

    lines = report.to_json()
    of_times = [line for line in lines if line["ablation"] == "When spikes were"]
    assert [(line["value"], line["recording"]) for line in of_times] == [
        *[("spike times", "a")] * 2,
        *[("centres of 50 ms bins", "a")] * 2,
    ]
    assert lines[0].keys() >= {"ablation", "value", *rows[0]}


def test_a_run(tmp_path, monkeypatch):
    """Two changes of a tiny decoder on a recording that allows one of them."""
    wanted = ("possm-gru+bins50", "possm-gru+k1")
    monkeypatch.setattr(ablations, "CHANGES", {name: CHANGES[name] for name in wanted})
    write_toy(tmp_path / "a.h5", session="day", seconds=20.0, units=8, bin_ms=50)

    def tiny(config):
        return replace(config, decoder=replace(config.decoder, **toys.TINY), window_s=1.0, device="cpu")

    config = BenchConfig(seeds=(0,), steps=1, workers=2)
    report = bench_ablations([tmp_path / "a.h5"], tmp_path / "out", config, presets={UNCHANGED: tiny})
    assert [(row["decoder"], row["status"]) for row in report.rows] == [
        (UNCHANGED, "ok"),
        ("possm-gru+k1", "ok"),
    ]
    assert (tmp_path / "out" / "ablations.md").read_text() == report.text() + "\n"
    assert len(json.loads((tmp_path / "out" / "ablations.json").read_text())) == 2
