"""Imagined handwriting of Willett et al. 2021 (Dryad doi:10.5061/dryad.wh70rxwmv): ``singleLetters.mat``.

A session is a folder ``Datasets/t5.2019.05.08``; ``singleLetters.mat`` in it has single characters, written
on cue. Two arrays of 96 electrodes in the hand knob, threshold crossings in 10 ms bins. Fields that are read:

    neuralActivityTimeSeries   (bins, 192) counts, the blocks one after the other
    blockNumsTimeSeries        (bins, 1) number of the block of each bin; nothing was recorded between blocks
    characterCues              (trials, 1) cell: "a" ... "z", "comma", ..., and "doNothing"
    goPeriodOnsetTimeBin       (trials, 1) bin of the go cue
    delayPeriodOnsetTimeBin    (trials, 1) bin at which the character was shown; may be missing
    neuralActivityCube_a       (trials, 201, 192) for each character; used to find out how go bins are counted
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from possm.config import require
from possm.data.faults import Findings
from possm.data.formats.matfile import load_matlab
from possm.data.formats.willett import (
    drop_silence,
    field,
    inside,
    numbers,
    session_facts,
    texts,
)
from possm.data.intervals import Intervals
from possm.data.recording import Recording
from possm.data.series import Binned
from possm.data.trial_splits import with_splits
from possm.errors import RecordingError

BIN_S = 0.01
REST = "doNothing"  # the cue to write nothing: a trial without a character, in no split
CUBE, CUBE_BEFORE = "neuralActivityCube_", (50, 51)  # bins of a cube before its go cue, by who counts
FILE = "singleLetters.mat"
FOLD, VALID, TEST = 9, 2, 5  # of every nine trials of a character, one validates and one tests


@dataclass(frozen=True, kw_only=True)
class HandwritingRelease:
    """How to read the handwriting release."""

    before_s: float = 0.8
    """A trial begins this much before its go cue ..."""
    after_s: float = 0.8
    """... and ends this much after it."""

    def __post_init__(self) -> None:
        require(0 <= self.before_s <= 10, "before_s", self.before_s, "0 to 10 s")
        require(0 < self.after_s <= 10, "after_s", self.after_s, "above 0, at most 10 s")


def handwriting_sessions(path: Path) -> list[Path]:
    """The files of a session or of the whole release: a ``.mat`` file, its folder, or the folder of folders.

    Raises:
        RecordingError: There is none.
    """
    if path.is_file():
        return [path]
    found = sorted(path.rglob(FILE))
    if not found:
        raise RecordingError(
            "no handwriting session is here",
            about=path,
            wanted=f"{FILE}, in a folder for each session",
            fix="give the folder handwritingBCIData/Datasets, or one of those in it",
        )
    return found


def read_handwriting(
    path: str | Path, config: HandwritingRelease | None = None, *, findings: Findings | None = None
) -> Recording:
    """Read one session.

    Of every nine trials of a character the third validates and the sixth tests, the others train.

    Args:
        path: ``singleLetters.mat``; the folder it lies in names the session.
        config: Where trials begin and end.
        findings: Filled with what was dropped and noticed.

    Raises:
        RecordingError: Not a file of this release, no usable trial, or its parts do not fit each other.
    """
    path, config = Path(path), config or HandwritingRelease()
    findings = Findings() if findings is None else findings
    content = load_matlab(path)
    counts, blocks = _activity(content, path)
    binned = Binned(counts, 0.0, 1 / BIN_S)
    of_block = _runs(blocks)
    trials = _trials(content, path, binned, config, findings)
    domain = drop_silence(of_block, binned, findings)
    trials = _keep(trials, inside(trials, of_block), "trials that reach over the end of a block", findings)
    good = inside(trials, domain)
    findings.drop("trials (kept, in no split) while no channel fires", int((~good).sum()))
    name = path.absolute().parent.name if path.name == FILE else path.stem
    subject, facts = session_facts(name, "willett_handwriting_2021", "imagined_handwriting")
    trials = replace(trials, columns={**trials.columns, "block": _block_at(blocks, trials)})
    recording = Recording(
        session_id=name,
        subject_id=subject,
        unit_ids=tuple(f"channel_{k:03d}" for k in range(counts.shape[1])),
        unit_columns={"electrode": np.arange(1, counts.shape[1] + 1)},
        binned=binned,
        domain=domain,
        intervals={"trials": trials, "blocks": of_block},
        attributes={**facts, "source_file": path.name},
    )
    return _split(recording, trials, good, path)


def _activity(content: Mapping[str, Any], path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(bins, channels) counts and (bins,) block numbers."""
    counts = np.asarray(field(content, "neuralActivityTimeSeries", path, release="handwriting"))
    blocks = numbers(field(content, "blockNumsTimeSeries", path, release="handwriting"))
    if counts.ndim != 2 or len(counts) != len(blocks):
        raise RecordingError(
            "counts and block numbers do not fit each other",
            about=path,
            got=f"neuralActivityTimeSeries {counts.shape}, blockNumsTimeSeries {blocks.shape}",
            wanted="(bins, channels) and (bins,)",
        )
    if not np.isfinite(counts).all() or counts.min() < 0:
        raise RecordingError("counts are negative or not finite", about=path, wanted="0 or more")
    return counts.astype(np.int16), blocks


def _runs(blocks: np.ndarray) -> Intervals:
    """One interval for each block, with its ``number``; blocks touch, and nothing runs across."""
    first = np.append(0, np.flatnonzero(np.diff(blocks)) + 1)
    last = np.append(first[1:], len(blocks))
    return Intervals(first * BIN_S, last * BIN_S, {"number": blocks[first].astype(np.int64)})


def _trials(
    content: Mapping[str, Any], path: Path, binned: Binned, config: HandwritingRelease, findings: Findings
) -> Intervals:
    labels = np.array(texts(field(content, "characterCues", path, release="handwriting")))
    go = numbers(field(content, "goPeriodOnsetTimeBin", path, release="handwriting")).astype(np.float64)
    if len(labels) != len(go):
        raise RecordingError(
            "there are not as many cues as go times",
            about=path,
            got=f"{len(labels)} characterCues, {len(go)} goPeriodOnsetTimeBin",
        )
    shift = _first_bin(content, binned, labels, go, findings)
    shown = numbers(content.get("delayPeriodOnsetTimeBin", np.full(len(go), np.nan))).astype(np.float64)
    characters = np.where(labels == REST, "", labels)
    columns = {"character": characters, "cue": labels, "go_cue_time": (go - shift) * BIN_S}
    if len(shown) == len(go):
        columns["cue_time"] = (shown - shift) * BIN_S
    known = np.isfinite(go) & (labels != "")
    findings.drop("trials without a cue or a go time", int((~known).sum()))
    order = np.flatnonzero(known)[np.argsort(go[known], kind="stable")]
    if not len(order):
        raise RecordingError("there is no trial", about=path)
    columns = {name: column[order] for name, column in columns.items()}
    go_s = columns["go_cue_time"]
    return Intervals(go_s - config.before_s, go_s + config.after_s, columns)


def _first_bin(
    content: Mapping[str, Any], binned: Binned, labels: np.ndarray, go: np.ndarray, findings: Findings
) -> int:
    """What the first bin is called in this file, 0 or 1: found where a cube begins in the time series."""
    votes = [0, 0]
    for label in np.unique(labels):
        cube = content.get(f"{CUBE}{label}")
        rows = np.flatnonzero((labels == label) & np.isfinite(go))
        if not isinstance(cube, np.ndarray) or cube.ndim != 3 or len(cube) != len(rows):
            continue
        for trial, row in zip(cube, rows, strict=True):
            for base, before in enumerate(CUBE_BEFORE):
                start = int(go[row]) - before
                part = binned.values[max(start, 0) : start + len(trial)]
                votes[base] += part.shape == trial.shape and bool(part.any()) and np.array_equal(part, trial)
    if not any(votes):
        findings.noticed.append("no cube of a character to check go times by: bins are taken to count from 1")
        return 1
    return int(votes[1] >= votes[0])


def _keep(trials: Intervals, good: np.ndarray, what: str, findings: Findings) -> Intervals:
    findings.drop(what, int((~good).sum()))
    return trials.where(good)


def _block_at(blocks: np.ndarray, trials: Intervals) -> np.ndarray:
    rows = np.floor(trials.columns["go_cue_time"] / BIN_S + 1e-6).astype(np.int64)
    return blocks[np.clip(rows, 0, len(blocks) - 1)].astype(np.int64)


def _split(recording: Recording, trials: Intervals, good: np.ndarray, path: Path) -> Recording:
    """By the number of a trial among those of its character, modulo nine."""
    labels = trials.columns["character"]
    names = np.full(len(trials), "", dtype="U5")
    for label in set(labels.tolist()) - {""}:
        rows = np.flatnonzero(labels == label)
        turn = np.arange(len(rows)) % FOLD
        names[rows] = np.where(turn == VALID, "valid", np.where(turn == TEST, "test", "train"))
    names[~good] = ""
    if not (names == "train").any():
        raise RecordingError(
            "no trial is usable", about=path, got=f"{len(trials)} trials, none of a character"
        )
    return with_splits(recording, trials, names)
