import json
import logging
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from possm.batch import SequenceTargets
from possm.checkpoint import load_decoder
from possm.data.sentences import SentenceSet
from possm.errors import ConfigError, RecordingError
from possm.evaluation.score import evaluate
from possm.training.loop import train
from possm.training.losses import ctc
from possm.training.optim import OptimConfig
from speech_toys import BEHAVIOR, config_of, decoder_of, every_sequence, spoken


def targets_of(sequences, frames):
    symbols = np.concatenate([np.array(s, np.int64) for s in sequences])
    lengths = np.array([len(s) for s in sequences])
    return SequenceTargets(*map(torch.from_numpy, (symbols, lengths, np.array(frames))))


def test_ctc_against_the_sum_over_all_paths():
    logits = torch.randn(9, 4, generator=torch.Generator().manual_seed(0)).double()
    probabilities = logits.softmax(1).numpy()
    sequences = [(1, 2), (3,)]
    wanted = -math.log(every_sequence(probabilities[:5])[1, 2])
    wanted -= math.log(every_sequence(probabilities[5:])[(3,)])
    got = ctc(logits, targets_of(sequences, [5, 4]))
    assert float(got) == pytest.approx(wanted / 3)


def test_ctc_leaves_out_what_has_no_frames_and_what_does_not_fit():
    logits = torch.randn(7, 4, requires_grad=True)
    alone = ctc(logits[:5], targets_of([(1, 2)], [5]))
    torch.testing.assert_close(ctc(logits[:5], targets_of([(1, 2), (3, 3)], [5, 0])), alone)
    crowded = ctc(logits, targets_of([(1, 2), (3, 3, 3)], [5, 2]))
    crowded.backward()
    torch.testing.assert_close(crowded, alone * 2 / 5)
    assert torch.isfinite(logits.grad).all() and not ctc(logits[:0], targets_of([(1,)], [0])).any()


def sentence_set(*recordings, batch_size=4, seed=0, part=(0, 1)):
    from possm.data.loader import SampleMaker
    from possm.data.transcripts import FrameClock

    decoder = decoder_of(*recordings)
    maker = SampleMaker(
        recordings=recordings,
        vocabulary=decoder.vocabulary,
        inputs=decoder.inputs,
        scaling={},
        chunk_ms=20,
        lead_ms=20,
    )
    symbols = decoder.sequences[BEHAVIOR]
    clock = FrameClock(20, 4)
    return SentenceSet(
        maker=maker,
        behavior=BEHAVIOR,
        symbols=symbols,
        clock=clock,
        batch_size=batch_size,
        seed=seed,
        part=part,
    )


def test_an_epoch_has_every_trial_once():
    made = sentence_set(spoken(sentences=18), spoken(sentences=9, session="tuesday", seed=1))
    assert made.num_windows == 18 and made.num_batches == 5
    batches = list(made.batches(0))
    lengths = np.concatenate([batch.lengths for batch in batches])
    assert sorted(lengths) == sorted(sentence.num_chunks for sentence in made.sentences)
    for batch in batches:
        targets = batch.targets[BEHAVIOR]
        assert targets.lengths.sum() == len(targets.symbols) and batch.num_chunks == batch.lengths.max()
        np.testing.assert_array_equal(targets.frames, batch.lengths // 4)
        assert len(batch.queries[BEHAVIOR].chunk) == targets.frames.sum()


def test_batches_depend_on_seed_and_epoch_only_and_can_be_shared_out():
    recording = spoken(sentences=18)
    one, again = sentence_set(recording), sentence_set(recording)
    np.testing.assert_array_equal(one.batch(3, 1).values.value, again.batch(3, 1).values.value)
    assert any(
        not np.array_equal(one.batch(0, k).lengths, one.batch(1, k).lengths) for k in range(one.num_batches)
    )
    halves = [sentence_set(recording, part=(k, 2)).batch(0, 0).lengths for k in range(2)]
    assert sorted(np.concatenate(halves)) == sorted(one.batch(0, 0).lengths)


def test_a_short_run_learns_and_its_decoder_is_in_the_folder(tmp_path):
    recording = spoken(sentences=60, length=(3, 5))
    config = config_of(epochs=25, optim=OptimConfig(learning_rate=3e-3, ema=0.9))
    result = train([recording], config, tmp_path / "run")
    best = -result.summary["best_valid_minus_error_rate"]
    assert best < 0.5
    loaded = load_decoder(tmp_path / "run" / "decoder.safetensors")
    assert loaded.inputs.rate_hz == 50.0 and loaded.inputs.inputs == ("counts", "power")
    assert len(loaded.sequences[BEHAVIOR]) == 40
    assert evaluate(loaded, recording, split="valid")[0][0].per == pytest.approx(best)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["valid_minus_error_rate"] < rows[-1]["valid_minus_error_rate"]


def test_what_cannot_be_learnt_is_said_before_the_first_step(tmp_path, caplog):
    texts = ["AA B K"] * 8 + [" ".join(["B"] * 4)] + ["S AA"] * 9
    recording = spoken(sentences=18, texts=texts, bins_each=4)
    with caplog.at_level(logging.WARNING):
        train([recording], config_of(epochs=1), tmp_path)
    assert "1 of 12 transcripts are longer than the answers of their trial" in caplog.text


@pytest.mark.parametrize(
    ("texts", "message"),
    [(["AA"] * 8 + ["QQ"], "unknown symbols"), ([""] * 9, "no trial of the train split has a transcript")],
)
def test_bad_transcripts_stop_a_run(tmp_path, texts, message):
    recording = spoken(sentences=9, texts=["AA"] * 9)
    trials = recording.intervals["trials"]
    trials = replace(trials, columns={"phonemes": np.array(texts)})
    recording = replace(recording, intervals={**recording.intervals, "trials": trials})
    with pytest.raises(RecordingError, match=message):
        train([recording], config_of(), tmp_path)


def test_missing_power_stops_a_run(tmp_path):
    recording = replace(spoken(sentences=9), features={})
    with pytest.raises(RecordingError, match="no power in bins"):
        train([recording], config_of(), tmp_path)


def test_bins_that_do_not_fill_a_chunk_stop_a_run(tmp_path):
    config = config_of(decoder=replace(config_of().decoder, chunk_ms=50))
    with pytest.raises(ConfigError, match="whole number of"):
        train([spoken(sentences=9)], config, tmp_path)
