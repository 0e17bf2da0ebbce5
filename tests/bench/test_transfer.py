"""Adapting against training from scratch: what is run, what stands in the rows, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

import toys
from possm.bench.transfer import TransferConfig, before_test, bench_transfer
from possm.bench.transfer_table import (
    ADAPTED,
    sessions_figure,
    transfer_figure,
    transfer_markdown,
    with_choice,
)
from possm.data.formats.hdf5 import write_hdf5
from possm.errors import ConfigError

TINY = {"minutes": (0.5, 9.0, float("inf")), "steps": 4, "pretrain_steps": 4, "seeds": (0,)}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    paths = []
    for day in range(4):
        path = folder / f"day{day}.h5"
        made = toys.recording(seconds=60, session=f"day{day}", seed=day, units=12)
        write_hdf5(replace(made, signals={"hand.vel": made.signals["vel"]}), path)
        paths.append(path)
    return paths


def test_every_mode_has_its_row_and_a_second_run_does_nothing(files, tmp_path):
    config = TransferConfig(**TINY)
    lines = []
    report = bench_transfer(files[:3], files[3:], tmp_path, config, progress=lines.append)
    assert {row["status"] for row in report.rows} == {"ok"}
    got = {(row["mode"], row["start"], row["minutes"]) for row in report.rows}
    modes = [("scratch", None), ("units", "tuning"), ("full", "tuning"), ("lora", "tuning"), ("gru", None)]
    # not quite 48 s lie before the test split: 9 minutes and all there is are these, once
    assert got == {(*mode, m) for mode in [*modes, ("wiener", None)] for m in (0.5, 0.78)}
    for row in report.rows:
        assert row["target"] == "day3" and row["seed"] == 0 and row["adapt_s"] > 0
        assert row["pretrain_sessions"] == (3 if row["start"] else 0)
    assert json.loads((tmp_path / "transfer.json").read_text()) == [dict(row) for row in report.rows]
    assert "day3, hand.vel" in (tmp_path / "transfer.md").read_text()
    assert (tmp_path / "transfer.png").stat().st_size > 1000
    lines.clear()
    again = bench_transfer(files[:3], files[3:], tmp_path, config, progress=lines.append)
    assert again.rows == report.rows and all("done already" in line for line in lines)


def test_tuning_needs_three_sessions_and_that_is_said_before_pretraining(files, tmp_path):
    with pytest.raises(ConfigError, match="--starts electrode"):
        bench_transfer(files[:2], files[3:], tmp_path, TransferConfig(**TINY))
    assert not (tmp_path / "runs").exists()


def test_all_that_lies_before_the_test_split_is_learnt_from():
    made = toys.recording(seconds=60)
    whole = before_test(made).split("train")
    assert whole.total_s == pytest.approx(made.split("train").total_s + made.split("valid").total_s)
    assert whole.end_s[-1] <= made.split("test").start_s[0]


def test_a_target_of_pretraining_is_refused(files, tmp_path):
    with pytest.raises(ConfigError, match="among the recordings of pretraining"):
        bench_transfer(files, files[3:], tmp_path, TransferConfig(**TINY))


def test_the_choice_between_units_and_full_is_made_by_validation_not_by_test():
    row = {"target": "t", "behavior": "b", "minutes": 1, "seed": 0, "pretrain_sessions": 3, "status": "ok"}
    row |= {"start": "tuning", "adapt_s": 1.5}
    units = {**row, "mode": "units", "r2": 0.9, "valid_r2": 0.1}
    full = {**row, "mode": "full", "r2": 0.2, "valid_r2": 0.3}
    chosen = [r for r in with_choice([units, full]) if r["mode"] == ADAPTED]
    assert [(r["r2"], r["adapt_s"]) for r in chosen] == [(0.2, 3.0)]  # both had to be made
    assert "0.200" in transfer_markdown([units, full])


def test_every_target_has_the_choice_of_its_own_start():
    """Rows of one target may have been made with another start than those of the other."""
    row = {"behavior": "b", "minutes": 1, "seed": 0, "pretrain_sessions": 3, "status": "ok", "valid_r2": 0.1}
    row["adapt_s"] = 1.0
    starts = {"same array": "electrode", "another": "tuning"}
    rows = [
        {**row, "target": t, "start": s, "mode": m, "r2": 0.5}
        for t, s in starts.items()
        for m in ("units", "full")
    ]
    chosen = {r["target"]: r["start"] for r in with_choice(rows) if r["mode"] == ADAPTED}
    assert chosen == starts


def test_what_failed_is_listed_and_the_others_stay():
    row = {"target": "t", "behavior": "b", "minutes": 2, "seed": 0, "pretrain_sessions": 3, "start": "tuning"}
    good = {**row, "mode": "units", "r2": 0.9, "valid_r2": 0.1, "adapt_s": 1.0, "status": "ok"}
    bad = {**row, "mode": "full", "r2": None, "valid_r2": None, "adapt_s": None, "status": "failed: killed"}
    text = transfer_markdown([good, bad])
    assert "- t, full, tuning, 3, 2, seed 0: failed: killed" in text and "0.900" in text
    assert transfer_figure([good, bad])


def test_the_gain_is_of_the_same_seeds_and_of_most_sessions():
    row = {"target": "t", "behavior": "b", "minutes": 1, "start": None, "adapt_s": 1.0, "status": "ok"}
    scratch = {"mode": "scratch", "pretrain_sessions": 0}
    alone = [{**row, **scratch, "r2": r2, "valid_r2": r2, "seed": seed} for seed, r2 in ((0, 0.1), (1, 0.3))]
    units = {"mode": "units", "start": "tuning", "valid_r2": 0.5, "seed": 0}
    adapted = [{**row, **units, "pretrain_sessions": number, "r2": r2} for number, r2 in ((3, 0.2), (9, 0.7))]
    text = transfer_markdown([*alone, *adapted])
    assert "| gain of adapted over scratch | +0.600 |  |" in text
    assert "gain of" not in transfer_markdown(adapted)


def test_the_figure_of_sessions_has_a_line_for_every_length_of_calibration():
    row = {"target": "t", "behavior": "b", "mode": "units", "start": "tuning", "seed": 0, "status": "ok"}
    rows = [
        {**row, "minutes": minutes, "pretrain_sessions": number, "r2": number + minutes / 8}
        for minutes in (1, 2)
        for number in (4, 8)
    ]
    another = [{**row, "start": "random", "r2": 0.0} for row in rows]
    axes = sessions_figure([*rows, *another]).axes[0]
    drawn = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert drawn == {"1 min": [[4, 4.125], [8, 8.125]], "2 min": [[4, 4.25], [8, 8.25]]}
