"""The sequence readout: a strided causal convolution, the same however it is cut; and what looks ahead."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from possm.batch import Batch, Queries, Values
from possm.data.chunks import no_tokens
from possm.errors import ConfigError
from possm.model.decoder import BehaviorConfig, Possm, PossmConfig
from toys import TINY, random_weights, to_torch

UNITS, CHUNKS, KERNEL, STRIDE = 6, 23, 5, 3
SAID = {"trials.phonemes": BehaviorConfig(num_dimensions=4, readout="sequence", classes=("AA", "B", "K"))}


def config_of(**changes):
    settings = {"inputs": ("counts",), "num_latents": 2, "chunk_ms": 20, "behaviors": SAID}
    return PossmConfig(
        **{**TINY, **settings, "sequence_kernel": KERNEL, "sequence_stride": STRIDE, **changes}
    )


def model_of(**changes):
    model = Possm(config_of(**changes), num_units=UNITS + 1, num_sessions=2)
    return random_weights(model, std=0.3).double()


def values_of(sequences=2, chunks=CHUNKS, seed=0):
    value = np.random.default_rng(seed).standard_normal((sequences, chunks, UNITS)).astype(np.float32)
    unit = np.tile(np.arange(1, UNITS + 1), (sequences, 1))
    time_s = np.full(unit.shape, 0.01, np.float32)
    return Values(value, unit, np.ones_like(unit), time_s, np.full((sequences, chunks), UNITS))


def batch_of(values, *, first=0, last=CHUNKS, lengths=None, behaviors=tuple(SAID)):
    """Chunks first..last of every sequence, asked at the ends of every STRIDE counted from the first."""
    part = Values(
        values.value[:, first:last], values.unit, values.kind, values.time_s, values.size[:, first:last]
    )
    sequences, chunks = part.size.shape
    number = np.arange(first, last)
    ends = number[(number + 1) % STRIDE == 0] - first
    chunk = np.concatenate([ends + s * chunks for s in range(sequences)])
    queries = {name: Queries(chunk, np.zeros(len(chunk), np.float32)) for name in behaviors}
    tokens = no_tokens(sequences * chunks)
    return to_torch(
        Batch(tokens, np.arange(sequences) % 2, chunks, queries, {}, part, lengths), torch.float64
    )


def test_it_is_a_strided_convolution():
    model = model_of()
    batch = batch_of(values_of())
    got = model(batch)[0]["trials.phonemes"].unflatten(0, (2, -1))
    hidden, _ = model.backbone(model.encode(batch, model.tables()), model.initial_state(2).backbone)
    readout = model.readouts["@trials/phonemes"]
    normed = functional.pad(readout.norm(hidden).transpose(1, 2), (KERNEL - STRIDE, 0))
    weight = readout.linear.weight.unflatten(1, (KERNEL, -1)).transpose(1, 2)
    wanted = functional.conv1d(normed, weight, readout.linear.bias, stride=STRIDE).transpose(1, 2)
    assert wanted.shape[1] == CHUNKS // STRIDE
    torch.testing.assert_close(got, wanted[:, : CHUNKS // STRIDE])


@pytest.mark.parametrize("size", [1, 2, 7])
def test_any_cut_gives_the_same_answers(size):
    model, values = model_of(), values_of()
    whole = model(batch_of(values))[0]["trials.phonemes"].unflatten(0, (2, -1))
    parts, state = [], None
    for first in range(0, CHUNKS, size):
        answers, state = model(batch_of(values, first=first, last=min(first + size, CHUNKS)), state)
        parts.append(answers["trials.phonemes"].unflatten(0, (2, -1)))
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-12, atol=1e-12)


def test_the_future_moves_no_bit_of_the_past():
    model, values = model_of(), values_of()
    one = model(batch_of(values))[0]["trials.phonemes"].unflatten(0, (2, -1))
    values.value[:, 12:] += 3
    two = model(batch_of(values))[0]["trials.phonemes"].unflatten(0, (2, -1))
    assert torch.equal(one[:, :4], two[:, :4]) and not torch.equal(one[:, 4:], two[:, 4:])


def test_without_other_behaviors_there_is_no_attention():
    model = model_of()
    assert not hasattr(model, "attention") and model.config.kept == KERNEL - 1


def test_beside_a_continuous_behavior():
    """The longer memory of the convolution changes nothing for attention."""
    vel = {"vel": BehaviorConfig(num_dimensions=2)}
    both, alone = model_of(behaviors={**vel, **SAID}), model_of(behaviors=vel)
    alone.load_state_dict({n: t for n, t in both.state_dict().items() if "phonemes" not in n})
    values = values_of()
    batch = batch_of(values, behaviors=("vel", *SAID))
    wanted = alone(batch_of(values, behaviors=("vel",)))[0]["vel"]
    torch.testing.assert_close(both(batch)[0]["vel"], wanted)
    state, parts = None, []
    for first in range(0, CHUNKS, STRIDE):
        last = min(first + STRIDE, CHUNKS)
        answers, state = both(batch_of(values, first=first, last=last, behaviors=("vel", *SAID)), state)
        parts.append(answers["vel"].unflatten(0, (2, -1)))
    torch.testing.assert_close(torch.cat(parts, 1), wanted.unflatten(0, (2, -1)))


def test_a_day_layer_starts_as_the_identity_and_is_of_its_session():
    with_layer = Possm(config_of(day_layer=True), num_units=UNITS + 1, num_sessions=2).double().eval()
    plain = Possm(config_of(), num_units=UNITS + 1, num_sessions=2).double().eval()
    plain.load_state_dict({n: t for n, t in with_layer.state_dict().items() if not n.startswith("day.")})
    batch = batch_of(values_of())
    before = plain(batch)[0]["trials.phonemes"]
    torch.testing.assert_close(with_layer(batch)[0]["trials.phonemes"], before)
    with torch.no_grad():
        with_layer.day.weight.weight[1] += 0.3
    first, second = with_layer(batch)[0]["trials.phonemes"].chunk(2)
    torch.testing.assert_close(first, before.chunk(2)[0])
    assert not torch.allclose(second, before.chunk(2)[1])


def test_one_that_looks_ahead_is_not_moved_by_padding():
    model, values = model_of(backbone="bigru"), values_of()
    alone = model(batch_of(values, last=15))[0]["trials.phonemes"].unflatten(0, (2, -1))
    lengths = np.array([15, CHUNKS])
    padded = model(batch_of(values, lengths=lengths))[0]["trials.phonemes"].unflatten(0, (2, -1))
    torch.testing.assert_close(padded[0, :5], alone[0])
    assert not torch.allclose(padded[1, :5], alone[1])
    assert model.config.looks_ahead and not model.config.strictly_causal


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sequence_kernel": 0}, "sequence_kernel"),
        ({"sequence_stride": 0}, "sequence_stride"),
        ({"backbone": "lstm"}, "bigru"),
    ],
)
def test_settings(changes, message):
    with pytest.raises(ConfigError, match=message):
        config_of(**changes)


def test_a_sequence_has_a_symbol_less_than_answers():
    with pytest.raises(ConfigError, match="symbols"):
        BehaviorConfig(num_dimensions=3, readout="sequence", classes=("AA", "B", "K"))
