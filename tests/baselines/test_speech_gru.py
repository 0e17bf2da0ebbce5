import numpy as np
import pytest
import torch

from possm.baselines.speech_gru import SpeechGru, SpeechGruConfig
from possm.batch import Batch, Queries, Values
from possm.checkpoint import Decoder, load_decoder, save_decoder
from possm.data.chunks import no_tokens
from possm.data.features import InputConfig
from possm.data.vocabulary import Vocabulary
from possm.errors import ConfigError, StreamError
from possm.evaluation.sequences import decode_sequences
from possm.model.decoder import BehaviorConfig
from possm.streaming.live import LiveDecoder
from speech_toys import BEHAVIOR, SYMBOLS, spoken
from toys import random_weights, to_torch

SAID = {BEHAVIOR: BehaviorConfig(num_dimensions=len(SYMBOLS) + 1, readout="sequence", classes=SYMBOLS)}
CHANNELS, CHUNKS, STRIDE = 4, 17, 3
SMALL = {"hidden": 10, "num_layers": 2, "kernel": 5, "stride": STRIDE, "chunk_ms": 20, "behaviors": SAID}


def model_of(sessions=2, **changes):
    config = SpeechGruConfig(**{**SMALL, **changes})
    return random_weights(
        SpeechGru(config, num_units=1 + sessions * CHANNELS, num_sessions=sessions)
    ).double()


def batch_of(*, first=0, last=CHUNKS, lengths=None, size=None, seed=0):
    value = (
        np.random.default_rng(seed).standard_normal((2, CHUNKS, CHANNELS)).astype(np.float32)[:, first:last]
    )
    chunks = last - first
    unit = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    full = np.full((2, chunks), CHANNELS) if size is None else size
    values = Values(value, unit, np.ones_like(unit), np.full(unit.shape, 0.01, np.float32), full)
    number = np.arange(first, last)
    ends = number[(number + 1) % STRIDE == 0] - first
    chunk = np.concatenate([ends, ends + chunks])
    queries = {BEHAVIOR: Queries(chunk, np.zeros(len(chunk), np.float32))}
    batch = Batch(no_tokens(2 * chunks), np.array([0, 1]), chunks, queries, {}, values, lengths)
    return to_torch(batch, torch.float64)


def test_against_windows_written_out():
    model, batch = model_of(), batch_of()
    got = model(batch)[0][BEHAVIOR].unflatten(0, (2, -1))
    for session in range(2):
        mapped = batch.values.value[session] @ model.day_weight[session] + model.day_bias[session]
        bins = torch.cat([torch.zeros(4, CHANNELS), mapped / (1 + mapped.abs())])  # 4 before the start
        ends = range(STRIDE - 1, CHUNKS, STRIDE)
        flat = torch.stack([bins[end : end + 5].T.flatten() for end in ends])
        hidden, _ = model.gru(flat[None])
        torch.testing.assert_close(got[session], model.readouts[0](hidden[0]))


@pytest.mark.parametrize("size", [1, 2, 7])
def test_any_cut_gives_the_same_answers(size):
    model = model_of()
    whole = model(batch_of())[0][BEHAVIOR].unflatten(0, (2, -1))
    parts, state = [], None
    for first in range(0, CHUNKS, size):
        answers, state = model(batch_of(first=first, last=min(first + size, CHUNKS)), state)
        parts.append(answers[BEHAVIOR].unflatten(0, (2, -1)))
    torch.testing.assert_close(torch.cat(parts, dim=1), whole)


def test_what_is_past_the_end_does_not_count():
    model = model_of(both_ways=True)
    whole = model(batch_of(last=9))[0][BEHAVIOR].unflatten(0, (2, -1))
    size = np.where(np.arange(CHUNKS) < 9, CHANNELS, 0)[None].repeat(2, 0)
    padded = model(batch_of(size=size, lengths=np.array([9, 9])))[0][BEHAVIOR].unflatten(0, (2, -1))
    torch.testing.assert_close(padded[:, :3], whole)


def test_the_sizes_of_the_paper():
    """256 channels, 24 sessions: 55 million parameters, and 133 million in both directions."""
    for both_ways, wanted in ((False, 55.1e6), (True, 133.8e6)):
        with torch.device("meta"):
            config = SpeechGruConfig(behaviors=SAID, both_ways=both_ways)
            model = SpeechGru(config, num_units=1 + 24 * 256, num_sessions=24)
        assert sum(p.numel() for p in model.parameters()) == pytest.approx(wanted, rel=0.005)


def decoder_of(recording, **changes):
    vocabulary = Vocabulary.of([recording])
    config = SpeechGruConfig(**{**SMALL, "inputs": ("counts", "power"), **changes})
    model = SpeechGru(config, num_units=len(vocabulary.units), num_sessions=1)
    inputs = InputConfig(inputs=config.inputs, rate_hz=50.0)
    return Decoder(random_weights(model), vocabulary, {}, inputs=inputs)


def test_saved_streamed_and_scored(tmp_path):
    recording = spoken(sentences=3)
    decoder = load_decoder(save_decoder(decoder_of(recording), tmp_path / "a.safetensors"))
    wanted = decode_sequences(decoder, recording, BEHAVIOR, split="train")
    sentence = wanted.sentences[0]
    live = LiveDecoder(decoder, unit_ids=recording.unit_ids)
    power, start_s, end_s = recording.features["power"], sentence.window.start_s, sentence.window.limit_s
    times_s, unit, count = recording.tokens(0.0, start_s)
    live.push(times_s, unit, start_s, count, features={"power": power.slice(0.0, start_s)})
    live.restart(start_s)
    times_s, unit, count = recording.tokens(start_s, end_s)
    said = live.push(times_s, unit, end_s, count, features={"power": power.slice(start_s, end_s)})
    got = np.concatenate([prediction.values for prediction in said])
    np.testing.assert_allclose(got, wanted.probabilities[0], rtol=1e-3, atol=1e-5)


def test_in_both_directions_it_refuses_a_stream():
    with pytest.raises(StreamError, match="reads a whole sequence"):
        LiveDecoder(decoder_of(spoken(sentences=3), both_ways=True))


def test_sessions_of_other_channels_are_refused():
    one, other = spoken(sentences=3), spoken(sentences=3, channels=21, session="tuesday")
    with pytest.raises(ConfigError, match="same channels in every session"):
        model_of().fit_inputs([one, other], None)
    with pytest.raises(ConfigError, match="same values in every chunk"):
        model_of(sessions=1, inputs=("counts", "power"))(batch_of())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": ("spikes",)}, "inputs"),
        ({"kernel": 0}, "kernel"),
        ({"dropout": 1.0}, "dropout"),
        ({"behaviors": {"vel": BehaviorConfig(num_dimensions=2)}}, "sequences"),
    ],
)
def test_settings(changes, message):
    with pytest.raises(ConfigError, match=message):
        SpeechGruConfig(**{**SMALL, **changes})
