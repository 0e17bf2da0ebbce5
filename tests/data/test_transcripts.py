import logging
from dataclasses import replace

import numpy as np
import pytest

from possm.data.labels import is_category
from possm.data.sentences import frame_queries, sentences_of, usable_transcripts
from possm.data.transcripts import FrameClock, Transcripts, is_sequence, least_frames, symbols_of, too_long
from possm.errors import RecordingError
from speech_toys import BEHAVIOR, spoken

CLOCK = FrameClock(20, 4)
PHONEMES = ("AA", "B", "K", "S", "SIL")


def relabelled(recording, **texts):
    trials = recording.intervals["trials"]
    column = trials.columns["phonemes"].astype("U60").copy()
    for row, text in texts.items():
        column[int(row[1:])] = text
    return replace(
        recording,
        intervals={**recording.intervals, "trials": replace(trials, columns={"phonemes": column})},
    )


def test_what_a_transcript_says():
    recording = spoken(sentences=3, texts=["AA B", "S S SIL", "K"])
    found = Transcripts.of(recording, BEHAVIOR, PHONEMES)
    assert [list(numbers) for numbers in found.numbers] == [[1, 2], [4, 4, 5], [3]]
    assert found.row_at(float(found.trials.start_s[1]) + 0.01) == 1 and found.row_at(0.0) == -1
    assert is_sequence(recording, BEHAVIOR) and not is_category(recording, BEHAVIOR)


def test_phonemes_are_all_phonemes():
    assert len(symbols_of([spoken(sentences=6)], BEHAVIOR)) == 40


def test_other_sequences_have_the_symbols_that_are_there():
    recording = spoken(sentences=6, texts=["x y", "z", "x", "y", "x", "x"])
    trials = recording.intervals["trials"]
    renamed = replace(trials, columns={"stroke_sequence": trials.columns["phonemes"]})
    recording = replace(recording, intervals={**recording.intervals, "trials": renamed})
    assert symbols_of([recording], "trials.stroke_sequence") == ("x", "y", "z")


def test_an_unknown_phoneme_is_named():
    recording = relabelled(spoken(sentences=6), _2="AA QQ B")
    with pytest.raises(RecordingError, match=r"unknown symbols[\s\S]*'QQ' \(trial 2\)"):
        symbols_of([recording], BEHAVIOR)
    with pytest.raises(RecordingError, match=r"'QQ' \(trial 2\)"):
        Transcripts.of(recording, BEHAVIOR, PHONEMES)


@pytest.mark.parametrize(("numbers", "least"), [([], 0), ([1], 1), ([1, 1], 3), ([1, 2, 2, 2], 6)])
def test_repeats_need_a_blank_between_them(numbers, least):
    assert least_frames(np.array(numbers, int)) == least


def test_transcripts_longer_than_their_trial_are_named_and_counted(caplog):
    recording = relabelled(spoken(sentences=9, length=(4, 5)), _1=" ".join(["B"] * 12), _3="")
    found = Transcripts.of(recording, BEHAVIOR, PHONEMES)
    assert found.empty == 1
    np.testing.assert_array_equal(np.flatnonzero(too_long(recording, found, CLOCK)), [1])
    with caplog.at_level(logging.WARNING):
        usable = usable_transcripts(recording, BEHAVIOR, PHONEMES, CLOCK, split="train")
    assert len(usable.trials) == 4
    start_s = recording.intervals["trials"].start_s[1]
    assert "1 of 5 transcripts are longer than the answers of their trial" in caplog.text
    assert f"trials 1 (at {start_s:.2f} s)" in caplog.text
    assert "1 trials without a transcript are left out" in caplog.text


def test_nothing_that_fits_is_an_error():
    recording = spoken(sentences=6)
    with pytest.raises(
        RecordingError, match=r"no trial has a transcript[\s\S]*too long[\s\S]*sequence_stride"
    ):
        usable_transcripts(recording, BEHAVIOR, PHONEMES, FrameClock(20, 40), split="train")


def test_a_trial_shorter_than_a_chunk_has_no_frame():
    recording = spoken(sentences=2, texts=["AA", "B"])
    assert CLOCK.frames_in(recording, (1.0, 1.01)) == 0
    assert CLOCK.chunks_in(recording, (1.0, 1.019))[1] == 0
    assert len(frame_queries(0, CLOCK).chunk) == 0


def test_windows_begin_on_the_edge_of_a_bin_and_hold_whole_chunks():
    recording = spoken(sentences=1, texts=["AA B"])
    trials = replace(recording.intervals["trials"], start_s=np.array([0.095]), end_s=np.array([0.437]))
    recording = replace(recording, intervals={"trials": trials})
    (sentence,) = sentences_of(recording, Transcripts.of(recording, BEHAVIOR, PHONEMES), CLOCK)
    assert sentence.window.start_s == pytest.approx(0.1) and sentence.num_chunks == 16
    assert sentence.window.limit_s == pytest.approx(0.42)
    np.testing.assert_array_equal(frame_queries(16, CLOCK).chunk, [3, 7, 11, 15])
