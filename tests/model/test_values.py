"""Tokens with a value, several latents and their self-attention, against one token at a time."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from possm.batch import KINDS, Batch, Tokens, Values
from possm.errors import ConfigError
from possm.model.decoder import BehaviorConfig, Possm, PossmConfig
from possm.model.rotary import rotate
from possm.model.tokens import TokenEmbedding
from toys import TINY, random_weights, to_torch

UNITS, CHUNK_S = 7, 0.02
BEHAVIORS = {"vel": BehaviorConfig(num_dimensions=2)}


def model_of(**changes):
    config = PossmConfig(**{**TINY, "chunk_ms": 20, "behaviors": BEHAVIORS, "num_latents": 3, **changes})
    return random_weights(Possm(config, num_units=UNITS + 1, num_sessions=2), std=0.3).double()


def batch_with(*, inputs, bins=2, sizes=None, seed=0, units=((1, 2, 3), (4, 5, 6)), chunks=4):
    """Two sequences of the given units; spikes, values, or both."""
    rng = np.random.default_rng(seed)
    kinds = [KINDS[name] for name in inputs if KINDS[name]]
    most = bins * len(kinds) * max(map(len, units))
    unit = np.zeros((len(units), most), np.int64)
    kind, time_s = np.ones_like(unit), np.zeros(unit.shape, np.float32)
    for row, own in enumerate(units):
        slots = [(b, k, u) for b in range(bins) for k in kinds for u in own]
        for place, (b, k, u) in enumerate(slots):
            unit[row, place], kind[row, place] = u, k
            time_s[row, place] = (b + 0.5) * CHUNK_S / bins
    full = np.full((len(units), chunks), most)
    size = full if sizes is None else np.array(sizes)
    value = rng.standard_normal((len(units), chunks, most)).astype(np.float32)
    values = Values(value, unit, kind, time_s, size) if kinds else None
    tokens = spikes_of(rng, "spikes" in inputs, len(units) * chunks)
    return to_torch(Batch(tokens, np.array([0, 1]), chunks, {}, {}, values), torch.float64)


def spikes_of(rng, some, groups):
    counts = rng.integers(0, 4, groups) if some else np.zeros(groups, int)
    total = int(counts.sum())
    return Tokens(
        rng.integers(1, UNITS + 1, total),
        rng.uniform(0, CHUNK_S, total).astype(np.float32),
        rng.integers(1, 4, total).astype(np.float32),
        np.concatenate([[0], np.cumsum(counts)]),
    )


def tokens_of(model, batch, sequence, chunk):
    """(embedding, time, multiplicity) of every token of one chunk, each written out."""
    group = sequence * batch.num_chunks + chunk
    for n in range(int(batch.tokens.offsets[group]), int(batch.tokens.offsets[group + 1])):
        token = model.token.unit.weight[batch.tokens.unit[n]] + model.token.kind.weight[0]
        yield token, batch.tokens.time_s[n], batch.tokens.count[n]
    if batch.values is not None:
        for m in range(int(batch.values.size[sequence, chunk])):
            if batch.values.unit[sequence, m]:
                kind = batch.values.kind[sequence, m]
                unit = model.token.unit.weight[batch.values.unit[sequence, m]]
                turn = model.token.turn[model.token.value_kinds.index(int(kind))]
                slope = unit @ turn + model.token.value.weight[kind]
                token = unit + model.token.kind.weight[kind]
                token = token + batch.values.value[sequence, chunk, m] * slope
                yield token, batch.values.time_s[sequence, m], torch.tensor(1.0)


def naive(model, batch, sequence, chunk):
    """The latents of one chunk, token by token and latent by latent."""
    encoder, config = model.encoder, model.config
    tokens = list(tokens_of(model, batch, sequence, chunk))
    blank = model.token.unit.weight[0] + model.token.kind.weight[0]
    if not tokens and encoder.rest is None:
        tokens = [(blank, torch.zeros((), dtype=torch.float64), torch.tensor(1.0))]
    latents = []
    for row in range(config.num_latents):
        latent = encoder.latent[row]
        time_s = (row + 0.5) * CHUNK_S / config.num_latents
        query = encoder.to_query(encoder.norm_latent(latent)) / np.sqrt(config.head_width)
        logits, values = [], []
        for token, when_s, count in tokens:
            key, value = encoder.to_key_value(encoder.norm_token(token)).chunk(2)
            cos, sin = encoder.rotary((when_s - time_s).double())
            logits.append(query @ rotate(key, cos, sin) + count.double().log())
            values.append(rotate(value, cos, sin))
        if encoder.rest is not None:
            logits.append(encoder.rest[0])
            values.append(torch.zeros(config.head_width, dtype=torch.float64))
        attended = torch.stack(logits).softmax(0) @ torch.stack(values)
        offset = getattr(encoder, "offset", torch.zeros(config.num_latents, 1))[row]  # `Encoder` has none
        latents.append(encoder.feed_forward(latent + offset + encoder.to_out(attended)))
    stacked = torch.stack(latents)
    for layer in encoder.layers:
        stacked = self_attention(layer, stacked)
    return stacked.flatten()


def told(offset, slope, values):
    """How much of each unit's value a mean over tokens tells: R2 of least squares, mean over units."""
    points = functional.layer_norm(offset + values.unsqueeze(2) * slope, offset.shape[-1:])
    means = torch.cat([points.mean(1), torch.ones(len(values), 1)], dim=1)
    left = values - means.detach() @ torch.linalg.lstsq(means.detach(), values).solution
    return float(1 - left.square().sum(0).div(values.square().sum(0)).mean())


def test_a_mean_over_tokens_tells_whose_values_they_were():
    """With one slope for all units it would hardly know more than the sum of the values."""
    torch.manual_seed(0)
    offset, slope = (rows[0, 1:] for rows in TokenEmbedding(9, 32, kinds=(1,)).lines())
    values = torch.randn(300, 8, generator=torch.Generator().manual_seed(1))
    assert told(offset, slope, values) > 0.7
    assert told(offset, slope.mean(0).expand_as(slope), values) < 0.5


def test_kinds_of_one_channel_begin_alike_and_learn_apart():
    """Counts and power of a channel say much the same: with slopes of their own they disturbed each other."""
    embedding = TokenEmbedding(9, 32, kinds=(1, 3))
    _, (of_counts, of_power) = embedding.lines()
    torch.testing.assert_close(of_counts, of_power, rtol=0, atol=0)
    of_power.sum().backward()
    counts, power = (turn.grad for turn in embedding.turn)
    assert counts is None or not counts.any()
    assert power.any()


def test_blocks_begin_as_the_identity():
    """What the backbone sees at first is what attention found."""
    config = PossmConfig(
        **TINY, chunk_ms=20, behaviors=BEHAVIORS, num_latents=3, latent_layers=2, inputs=("counts",)
    )
    model = Possm(config, num_units=UNITS + 1, num_sessions=2).double().eval()
    batch, encoder = batch_with(inputs=("counts",)), model.encoder
    attended = encoder._attended(batch.tokens, batch.values, model.tables())
    wanted = (encoder.latent + encoder.to_out(attended) + encoder.feed_forward.down.bias).flatten(1)
    got = model.encode(batch, model.tables()).flatten(0, 1)
    bias = sum(layer.to_out.bias + layer.feed_forward.down.bias for layer in encoder.layers)
    torch.testing.assert_close(got, wanted + bias.repeat(3))


def self_attention(layer, latents):
    query, key, value = layer.to_all(layer.norm(latents)).chunk(3, dim=-1)
    heads = []
    for q, k, v in zip(*(x.chunk(layer.num_heads, dim=-1) for x in (query, key, value)), strict=True):
        heads.append((q @ k.T / np.sqrt(q.shape[-1])).softmax(-1) @ v)
    return layer.feed_forward(latents + layer.to_out(torch.cat(heads, dim=-1)))


@pytest.mark.parametrize("inputs", [("counts",), ("counts", "power"), ("spikes", "power"), ("spikes",)])
@pytest.mark.parametrize(("bins", "layers"), [(1, 0), (2, 2)])
def test_the_encoder_against_one_token_at_a_time(inputs, bins, layers):
    model = model_of(inputs=inputs, latent_layers=layers)
    batch = batch_with(inputs=inputs, bins=bins)
    got = model.encode(batch, model.tables())
    for sequence in range(2):
        for chunk in range(batch.num_chunks):
            wanted = naive(model, batch, sequence, chunk)
            torch.testing.assert_close(got[sequence, chunk], wanted, rtol=1e-9, atol=1e-9)


def test_chunks_with_some_or_no_bins_and_sequences_of_other_sizes():
    """A chunk that ends early, one past the end, and a sequence with fewer channels, beside a full one."""
    inputs, units = ("spikes", "counts", "power"), ((1, 2, 3, 7), (4, 5))
    model = model_of(inputs=inputs)
    batch = batch_with(inputs=inputs, units=units, sizes=[[16, 16, 8, 0], [16, 16, 16, 0]], seed=3)
    got = model.encode(batch, model.tables())
    for sequence in range(2):
        for chunk in range(batch.num_chunks):
            torch.testing.assert_close(got[sequence, chunk], naive(model, batch, sequence, chunk))


def test_one_latent_with_the_general_encoder_is_the_small_model():
    """Self-attention over one latent aside, the general encoder must reduce to the plain one."""
    plain = model_of(num_latents=1)
    general = model_of(num_latents=1, latent_layers=1)
    weights = plain.state_dict()
    missing = general.load_state_dict(weights, strict=False).missing_keys
    assert missing and all(name.startswith(("encoder.layers", "encoder.offset")) for name in missing)
    general.encoder.layers = torch.nn.ModuleList()
    torch.nn.init.zeros_(general.encoder.offset)
    batch = batch_with(inputs=("spikes",))
    torch.testing.assert_close(
        general.encode(batch, general.tables()), plain.encode(batch, plain.tables()), rtol=0, atol=1e-15
    )


def test_gradients_reach_every_parameter():
    model = model_of(inputs=("spikes", "counts", "power"), latent_layers=1).train()
    batch = batch_with(inputs=("spikes", "counts", "power"))
    functional.mse_loss(model.encode(batch, model.tables()), torch.zeros(2, 4, 48).double()).backward()
    for name, parameter in [*model.token.named_parameters(), *model.encoder.named_parameters()]:
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_defaults_build_the_plain_encoder():
    model = Possm(PossmConfig(behaviors=BEHAVIORS), num_units=5, num_sessions=1)
    assert model.config.plain and type(model.encoder).__name__ == "Encoder"
    assert not hasattr(model.token, "value")


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"inputs": ()}, "inputs"),
        ({"inputs": ("lfp",)}, "inputs"),
        ({"inputs": ("counts", "counts")}, "inputs"),
        ({"num_latents": 0}, "num_latents"),
        ({"latent_heads": 3, "latent_layers": 1}, "latent_heads"),
        ({"latent_layers": -1}, "latent_layers"),
    ],
)
def test_settings_out_of_range_are_named(changes, names):
    with pytest.raises(ConfigError, match=names):
        PossmConfig(behaviors=BEHAVIORS, **changes)


def test_a_first_batch_makes_latents_vary_over_chunks():
    """With random weights the mean over hundreds of channels is nearly the same in every chunk."""
    inputs = ("counts", "power")
    config = PossmConfig(**TINY, chunk_ms=20, behaviors=BEHAVIORS, num_latents=3, inputs=inputs)
    model = Possm(config, num_units=UNITS + 1, num_sessions=2).double().eval()
    batch = batch_with(
        inputs=inputs, chunks=60, sizes=[[8] * 50 + [0] * 10, [8] * 60], bins=2, units=((1, 2),) * 2
    )

    def spread():
        tables = model.tables()
        attended = model.encoder._attended(batch.tokens, batch.values, tables)
        there = batch.values.size.flatten() > 0
        return (model.encoder.to_out(attended) + model.encoder.offset)[there].detach()

    assert spread().std(dim=0).mean() < 0.1
    model.see(batch)
    assert float(spread().std(dim=0).mean()) == pytest.approx(0.3)
    assert spread().mean(dim=0).abs().max() < 1e-9  # of each latent of its own
