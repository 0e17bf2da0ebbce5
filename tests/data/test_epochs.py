"""Batches of an epoch: all of it, the same whoever makes them and when, different every time they may be."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import numpy as np
import pytest

import toys
from possm.data.augment import AugmentConfig
from possm.data.epochs import TrainingSet
from possm.data.formats import load_recording, write_hdf5
from possm.data.intervals import Intervals
from possm.data.loader import SampleMaker
from possm.data.scaling import Scaling
from possm.data.vocabulary import Vocabulary
from possm.data.workers import Workers
from possm.errors import ConfigError, PossmError, RecordingError

RECORDINGS = [
    toys.recording(seconds=20, session="a"),
    toys.recording(seconds=30, session="b", seed=1),
    toys.recording(seconds=20, bin_ms=50, session="binned"),
]
DROPS = AugmentConfig(min_units_kept=0.5, token_dropout=0.1)


def training_set(recordings=RECORDINGS, *, augment=DROPS, **changes):
    maker = SampleMaker(
        recordings=recordings,
        vocabulary=Vocabulary.of(recordings),
        scaling={next(iter(recordings[0].signals)): Scaling((0.0, 0.0), (1.0, 1.0))},
        chunk_ms=50,
        lead_ms=50,
        augment=augment,
    )
    return TrainingSet(**{"maker": maker, "window_s": 1.0, "batch_size": 8, **changes})


def flat(batch):
    """Every array of a batch, by name."""
    found = {}
    for field in fields(batch):
        value = getattr(batch, field.name)
        items = value.items() if isinstance(value, dict) else [("", value)]
        for name, item in items:
            if is_dataclass(item):
                inner = {f"{field.name}.{name}.{key}": array for key, array in flat(item).items()}
                found |= inner
            elif item is not None:
                found[f"{field.name}.{name}"] = np.asarray(item)
    return found


def same(one, other):
    one, other = flat(one), flat(other)
    return one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


def test_an_epoch():
    """Windows of 1.02 s are 20 chunks; 13.5 + 20.5 + 13.5 s of training are 13 + 20 + 13 windows."""
    batches = list(training_set(window_s=1.02).batches(0))
    assert [len(batch.session) for batch in batches] == [8, 8, 8, 8, 8, 6]
    assert all(batch.num_chunks == 20 for batch in batches)
    assert np.bincount(np.concatenate([b.session for b in batches])).tolist() == [13, 20, 13]


@pytest.mark.parametrize("balance", ["time", "session", "dataset"])
@pytest.mark.parametrize("window_s", [0.3, 1.0, 7.0, 60.0])
def test_the_number_of_batches_is_known_beforehand(balance, window_s):
    made = training_set(window_s=window_s, balance=balance)
    for epoch in range(5):
        assert len(list(made.batches(epoch))) == made.num_batches
        assert len(made._epoch(epoch)) == made.num_windows


def test_windows_are_no_longer_than_any_interval():
    short = [
        replace(r, intervals={"train_domain": Intervals.of([(1.0, 1.7), (2.0, 2.33)])}) for r in RECORDINGS
    ]
    made = training_set(short, window_s=4.0)
    assert made.num_chunks == 14
    assert sum(len(batch.session) for batch in made.batches(0)) == 6


def test_a_batch_depends_on_its_number_only():
    whole = list(training_set().batches(3))
    alone = training_set()
    for number in (4, 0, 2, 4):  # in any order, after any other epoch
        assert same(alone.batch(3, number), whole[number])
        alone.batch(1, 0)


def test_no_chance_repeats():
    """Epochs, batches, places in a batch and seeds all have their own."""
    recording = RECORDINGS[0]
    interval = replace(recording, intervals={"train_domain": Intervals.of([(2.0, 3.0)] * 64)})
    made = [training_set([interval], augment=AugmentConfig(token_dropout=0.5), seed=seed) for seed in (0, 1)]
    kept = []
    for each in made:
        for epoch in range(2):
            for batch in each.batches(epoch):
                offsets = batch.tokens.offsets[:: batch.num_chunks]
                pairs = zip(offsets[:-1], offsets[1:], strict=True)
                kept += [batch.tokens.time_s[a:b].tobytes() for a, b in pairs]
    assert len(set(kept)) == len(kept) == 2 * 2 * 64  # always the same window, other spikes of it


def test_parts_of_a_batch_are_the_batch():
    """Two processes that train together have every window once, with the chance it has in one process."""
    whole = training_set()
    parts = [training_set(part=(rank, 2)) for rank in range(2)]
    for number in range(whole.num_batches):
        one, halves = whole.batch(1, number), [part.batch(1, number) for part in parts]
        assert sorted(one.session) == sorted(np.concatenate([half.session for half in halves]))
        assert len(one.tokens.unit) == sum(len(half.tokens.unit) for half in halves)
        assert one.tokens.unit.sum() == sum(half.tokens.unit.sum() for half in halves)


def test_every_part_has_a_share_in_the_smallest_batch():
    made = [training_set(part=(rank, 8)) for rank in range(8)]
    assert all(len(each.batch(0, each.num_batches - 1).session) == 1 for each in made)


def test_nothing_to_train_on():
    empty = [replace(r, intervals={"train_domain": Intervals.of([])}) for r in RECORDINGS]
    with pytest.raises(ConfigError, match="no window"):
        training_set(empty)
    with pytest.raises(ConfigError, match="part"):
        training_set(part=(2, 2))


# ---------------------------------------------------------------- other processes
@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """The same recordings in files, opened lazily."""
    folder = tmp_path_factory.mktemp("recordings")
    opened = []
    for recording in RECORDINGS:
        signals = {"cursor.vel": recording.signals["vel"]}
        write_hdf5(replace(recording, signals=signals), folder / f"{recording.session_id}.h5")
        opened.append(load_recording(folder / f"{recording.session_id}.h5"))
    return opened


def test_workers_make_the_same_batches(stored):
    made = training_set(stored)
    alone = [list(made.batches(epoch)) for epoch in range(2)]
    for count in (0, 1, 3):
        with Workers(made, count) as workers:
            for epoch in range(2):
                batches = list(workers.batches(epoch))
                assert len(batches) == len(alone[epoch])
                assert all(same(a, b) for a, b in zip(batches, alone[epoch], strict=True))


def test_an_epoch_that_is_broken_off(stored):
    made = training_set(stored)
    with Workers(made, 2) as workers:
        next(workers.batches(0))
        assert all(same(a, b) for a, b in zip(workers.batches(1), made.batches(1), strict=True))


def test_what_a_worker_meets_reaches_the_run(stored):
    broken = training_set([*stored[:2], replace(stored[2], signals={})])
    with Workers(broken, 2) as workers, pytest.raises(RecordingError, match="no behavior 'cursor.vel'"):
        list(workers.batches(0))


def test_a_worker_that_is_gone(stored):
    with Workers(training_set(stored), 2) as workers:
        batches = workers.batches(0)
        next(batches)
        workers._processes[1].send_signal(signal.SIGKILL)
        workers._processes[1].wait()
        with pytest.raises(PossmError, match="is gone"):
            for _ in batches:
                workers._processes[1].poll()


def test_workers_end_with_the_run(stored):
    with Workers(training_set(stored), 2) as workers:
        processes = list(workers._processes)
        assert all(process.poll() is None for process in processes)
    assert all(process.poll() is not None for process in processes)


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_workers_end_when_the_run_is_killed(stored, tmp_path):
    """Not by a word of the run, which cannot say any more, but because their input ends."""
    code = (
        "import pickle, sys, time; from possm.data.workers import Workers; "
        "made = pickle.load(sys.stdin.buffer); workers = Workers(made, 2); next(workers.batches(0)); "
        "print(*[p.pid for p in workers._processes], flush=True); time.sleep(60)"
    )
    run = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert run.stdin is not None and run.stdout is not None
    pickle.dump(training_set(stored), run.stdin)
    run.stdin.flush()
    workers = [int(word) for word in run.stdout.readline().split()]
    run.kill()
    run.wait()
    run.stdin.close()
    run.stdout.close()
    ended = time.monotonic() + 20
    while any(alive(pid) for pid in workers) and time.monotonic() < ended:
        time.sleep(0.05)
    assert len(workers) == 2 and not any(alive(pid) for pid in workers)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    try:  # one that nobody has waited for has ended, too
        return state.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return not state.parents[1].exists()


def test_workers_load_no_torch():
    code = "import sys, possm.data.workers; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
