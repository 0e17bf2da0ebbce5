"""Arrays in a file: read as h5py reads them, with few files open, from any thread and process."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

import toys
from possm.data.formats import load_recording, stored
from possm.data.formats.hdf5 import write_hdf5
from possm.data.formats.stored import StoredArray, StoredFile
from possm.data.recording import Recording
from possm.errors import RecordingError


def a_recording(seconds: float) -> Recording:
    made = toys.recording(seconds=seconds)
    return replace(made, signals={"cursor.vel": made.signals["vel"]})


RECORDING = a_recording(20)
KINDS = {
    "plain": {},
    "compressed": {"chunks": (16, 2), "compression": "gzip"},
    "big-endian": {"dtype": ">f8"},
}


def an_array(path: Path, *, values: np.ndarray, **how) -> StoredArray:
    with h5py.File(path, "w") as file:
        file.create_dataset("group/values", data=values, **how)
    file_ = StoredFile.of(path)
    with h5py.File(path, "r") as file:
        return file_.array(file["group/values"])


@pytest.mark.parametrize("kind", KINDS)
def test_slices_and_rows(tmp_path, kind):
    values = np.random.default_rng(0).standard_normal((100, 2))
    array = an_array(tmp_path / "a.h5", values=values, **KINDS[kind])
    assert (array.place is not None) == (kind == "plain")
    assert len(array) == 100 and array.shape == (100, 2)
    for first, last in ((0, 100), (None, None), (3, 7), (-5, None), (90, 500), (50, 50), (60, 40)):
        np.testing.assert_array_equal(array[first:last], values[first:last], strict=kind != "big-endian")
    np.testing.assert_array_equal(array[7], values[7])
    np.testing.assert_array_equal(array[-1], values[-1])
    for wrong in (100, -101, slice(0, 9, 2)):
        with pytest.raises(IndexError):
            array[wrong]


def test_an_empty_array(tmp_path):
    assert an_array(tmp_path / "a.h5", values=np.zeros((0, 3)))[:].shape == (0, 3)


def many(folder: Path, number: int) -> list[StoredArray]:
    return [
        an_array(folder / f"{i}.h5", values=np.arange(10) + i, **([{}, {"chunks": (5,)}][i % 2]))
        for i in range(number)
    ]


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc to count open files")
def test_few_files_are_open(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "MAX_OPEN", 4)
    arrays = many(tmp_path, 12)
    before = open_files()
    for _ in range(3):
        for i, array in enumerate(arrays):
            np.testing.assert_array_equal(array[2:4], [i + 2, i + 3])
    assert open_files() <= before + 2 * 4  # a compressed one is opened twice
    for array in arrays:
        array.file.close()
    assert open_files() <= before


def test_threads_read_what_they_ask_for(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "MAX_OPEN", 2)
    arrays, wrong = many(tmp_path, 6), []

    def read(seed):
        rng = np.random.default_rng(seed)
        for _ in range(200):
            i, row = rng.integers(6), rng.integers(10)
            if arrays[i][row] != i + row:
                wrong.append((i, row))

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_another_process_reads_a_pickled_recording(tmp_path):
    write_hdf5(RECORDING, tmp_path / "a.h5")
    recording = load_recording(tmp_path / "a.h5")
    pickled = pickle.dumps(recording)
    assert len(pickled) < 10_000 < RECORDING.spikes.times_s.nbytes
    code = "import pickle, sys; r = pickle.load(sys.stdin.buffer); print(len(r.tokens(3.0, 8.0)[0]))"
    made = subprocess.run([sys.executable, "-c", code], input=pickled, capture_output=True, check=True)
    assert int(made.stdout) == len(RECORDING.tokens(3.0, 8.0)[0])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_reads_for_itself(tmp_path):
    array = an_array(tmp_path / "a.h5", values=np.arange(10.0))
    assert array[3] == 3
    child = os.fork()
    if not child:
        os._exit(0 if array[4] == 4 and len(stored._POOL.opened) == 1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert array[5] == 5


def test_closed(tmp_path):
    write_hdf5(RECORDING, tmp_path / "a.h5")
    with load_recording(tmp_path / "a.h5") as recording:
        assert len(recording.tokens(0, 1)[0])
    with pytest.raises(RecordingError, match="closed"):
        recording.tokens(0, 1)
    recording.close()  # again does no harm


def test_a_file_that_was_replaced_is_not_misread(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "MAX_OPEN", 1)
    write_hdf5(RECORDING, tmp_path / "a.h5")
    recording = load_recording(tmp_path / "a.h5")
    other = an_array(tmp_path / "b.h5", values=np.zeros(3))
    write_hdf5(a_recording(21), tmp_path / "a.h5")
    assert not other[0]  # closes the other file
    with pytest.raises(RecordingError, match=r"a\.h5.*changed"):
        recording.tokens(0, 1)
    os.remove(tmp_path / "a.h5")
    with pytest.raises(RecordingError, match=r"a\.h5"):
        recording.tokens(0, 1)


def test_a_file_cut_short_while_open(tmp_path):
    write_hdf5(RECORDING, tmp_path / "a.h5")
    recording = load_recording(tmp_path / "a.h5")
    assert len(recording.tokens(0, 1)[0])
    os.truncate(tmp_path / "a.h5", 5000)
    with pytest.raises(RecordingError, match="ends inside 'spikes/"):
        recording.spikes.load()


def test_damage_that_h5py_finds(tmp_path):
    array = an_array(tmp_path / "a.h5", values=np.zeros((4000, 2)), compression="gzip", chunks=(4000, 2))
    content = bytearray((tmp_path / "a.h5").read_bytes())
    with h5py.File(tmp_path / "a.h5", "r") as file:
        place = file["group/values"].id.get_chunk_info(0).byte_offset
    content[place : place + 8] = b"\xff" * 8
    (tmp_path / "a.h5").write_bytes(content)
    array.file.stamp = stored._stamp(tmp_path / "a.h5")
    with pytest.raises(RecordingError, match=r"a\.h5.*cannot be read"):
        array[:]
