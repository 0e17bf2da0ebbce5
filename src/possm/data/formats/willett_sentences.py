"""The sentences in the files of the speech release of Willett et al. 2023, for `willett_speech`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from possm.data.faults import Findings
from possm.data.formats.matfile import find_field, load_matlab
from possm.data.formats.willett import field, matrices, numbers, texts
from possm.errors import RecordingError

TRAIN, TEST, HELD_OUT = PARTITIONS = ("train", "test", "competitionHoldOut")


@dataclass(frozen=True, eq=False)
class Sentence:
    """One sentence of a session."""

    counts: np.ndarray
    """(bins, channels) int16."""
    power: np.ndarray | None
    """(bins, channels or fewer) float32; None where the file has none."""
    text: str
    """What was to be said; "" where it is held out."""
    block: int
    partition: str


def read_sentences(path: Path, threshold: str, findings: Findings) -> list[Sentence]:
    """The sentences of a session in the order of their blocks, those of all its partitions.

    Args:
        path: The file of the session in one of the folders of partitions; elsewhere it is all to train on.
        threshold: "tx1" to "tx4".
        findings: Filled with what was dropped and noticed.

    Raises:
        RecordingError: A field is missing, the channels change, or no sentence is usable.
    """
    home, files = path.absolute().parent, {TRAIN: path}
    if home.name in PARTITIONS:
        files = {name: home.parent / name / path.name for name in PARTITIONS}
    there = {name: file for name, file in files.items() if file.is_file()}
    findings.noticed += [f"no file for the partition {name}" for name in PARTITIONS if name not in there]
    found = [one for name, file in there.items() for one in _partition(file, name, threshold)]
    if not found:
        raise RecordingError("there is no sentence", about=path)
    widths = sorted({one.counts.shape[1] for one in found if len(one.counts)})
    if len(widths) > 1:
        raise RecordingError("the number of channels changes between partitions", about=path, got=widths)
    kept = [one for one in found if len(one.counts)]
    findings.drop("sentences without a bin", len(found) - len(kept))
    fitting = [one for one in kept if one.power is None or len(one.power) == len(one.counts)]
    findings.drop("sentences whose power and counts differ in length", len(kept) - len(fitting))
    if not fitting:
        raise RecordingError("there is no usable sentence", about=path, got=f"{len(found)}, all dropped")
    return sorted(fitting, key=lambda one: one.block)


def _partition(path: Path, name: str, threshold: str) -> list[Sentence]:
    content = load_matlab(path)
    what, cells = f"{path}, {threshold}", field(content, threshold, path, release="speech")
    counts = matrices(cells, about=what)
    if any(one.size and (not np.isfinite(one).all() or one.min() < 0) for one in counts):
        raise RecordingError("counts are negative or not finite", about=what, wanted="0 or more")
    blocks = numbers(field(content, "blockIdx", path, release="speech"))
    lines, power = _texts(content, path, name, len(counts)), _power(content, path, len(counts))
    sizes = {"blockIdx": len(blocks), "sentenceText": len(lines), "spikePow": len(power)}
    wrong = {key: size for key, size in sizes.items() if size != len(counts)}
    if wrong:
        raise RecordingError(
            "the fields have different numbers of sentences",
            about=path,
            got=", ".join(f"{key} {size}" for key, size in wrong.items()),
            wanted=f"{len(counts)}, as {threshold} has",
        )
    return [
        Sentence(one.astype(np.int16), strength, text, int(block), name)
        for one, strength, text, block in zip(counts, power, lines, blocks, strict=True)
    ]


def _texts(content: Mapping[str, Any], path: Path, partition: str, number: int) -> list[str]:
    if partition == HELD_OUT and find_field(content, "sentenceText") is None:
        return [""] * number
    return texts(field(content, "sentenceText", path, release="speech"))


def _power(content: Mapping[str, Any], path: Path, number: int) -> list[np.ndarray | None]:
    cells = find_field(content, "spikePow")
    if cells is None:
        return [None] * number
    return [one.astype(np.float32) for one in matrices(cells, about=f"{path}, spikePow")]
