"""The decoder against a plain, slow transcription of the released architecture (arXiv 2506.05320, its code).

Nothing is shared with the package but the weights: every token is projected on its own, features rotate in
interleaved pairs, attention runs chunk by chunk and query by query, the GRU is written out.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from possm.model.decoder import BehaviorConfig, Possm, PossmConfig
from toys import batch_of, random_sample, random_weights, tiny_config

UNITS = 9
CONFIG = tiny_config(
    rest=0.0,
    behaviors={"vel": BehaviorConfig(num_dimensions=2), "emg.a": BehaviorConfig(num_dimensions=3)},
)
BEHAVIORS = {"vel": 100.0, "emg.a": 37.0}


def model_of(config: PossmConfig = CONFIG, seed: int = 0) -> Possm:
    return random_weights(Possm(config, num_units=UNITS, num_sessions=2), seed=seed).double()


def periods_s(pairs: int, shortest_s: float, longest_s: float) -> list[float]:
    """Log-spaced, both ends included."""
    ratio = longest_s / shortest_s
    return [shortest_s * ratio ** (i / (pairs - 1)) for i in range(pairs)]


def interleaved(rows: torch.Tensor, pairs: int) -> torch.Tensor:
    """Rows of a projection in the order (first, second), (first, second), ... of the released code."""
    order = [part * pairs + i for i in range(pairs) for part in (0, 1)]
    return rows[order + list(range(2 * pairs, len(rows)))]


def turn(x: torch.Tensor, time_s: float, periods: list[float]) -> torch.Tensor:
    """Interleaved rotation: (x1, x2) -> cos (x1, x2) + sin (-x2, x1); features beyond the pairs stay."""
    out = x.clone()
    for i, period in enumerate(periods):
        omega = float(np.float32(2 * math.pi / period))
        cos, sin = math.cos(omega * time_s), math.sin(omega * time_s)
        a, b = x[2 * i], x[2 * i + 1]
        out[2 * i], out[2 * i + 1] = a * cos - b * sin, b * cos + a * sin
    return out


def norm(x: torch.Tensor, layer: torch.nn.LayerNorm) -> torch.Tensor:
    centred = x - x.mean()
    return centred / torch.sqrt(centred.square().mean() + layer.eps) * layer.weight + layer.bias


def cross_attention(query, query_s, contexts, contexts_s, *, block, norms, periods):
    """One head with residual, then the GEGLU block with residual."""
    norm_query, norm_context = norms
    pairs, head = len(periods), block.to_query.out_features
    to_q = interleaved(block.to_query.weight, pairs)
    to_k, to_v = (interleaved(part, pairs) for part in block.to_key_value.weight.split(head))
    to_out = interleaved(block.to_out.weight.T, pairs).T
    q = turn(to_q @ norm(query, norm_query), query_s, periods)
    scores, values = [], []
    for context, context_s in zip(contexts, contexts_s, strict=True):
        normed = norm(context, norm_context)
        scores.append(q @ turn(to_k @ normed, context_s, periods) / math.sqrt(head))
        values.append(turn(to_v @ normed, context_s, periods))
    weights = torch.softmax(torch.stack(scores), 0)
    summed = sum(w * v for w, v in zip(weights, values, strict=True))
    x = query + to_out @ turn(summed, -query_s, periods) + block.to_out.bias
    feed = block.feed_forward
    a, gate = (feed.up.weight @ norm(x, feed.norm) + feed.up.bias).split(4 * len(x))
    return x + feed.down.weight @ (a * functional.gelu(gate)) + feed.down.bias


def naive_latent(model, units, times_s, counts):
    """A chunk: a count of k is k tokens; no token is one blank token at time 0."""
    config, tokens = model.config, []
    for unit, time_s, count in zip(units, times_s, counts, strict=True):
        tokens += [(int(unit), float(time_s))] * int(count)
    tokens = tokens or [(0, 0.0)]
    return cross_attention(
        model.encoder.latent[0],
        config.chunk_s / 2,
        [model.token.unit.weight[unit] + model.token.kind.weight[0] for unit, _ in tokens],
        [time_s for _, time_s in tokens],
        block=model.encoder,
        norms=(model.encoder.norm_latent, model.encoder.norm_token),
        periods=periods_s(config.num_rotary_pairs, config.encoder_t_min_s, config.t_max_s),
    )


def naive_gru(gru, latents):
    """One layer, gates written out (reset, update, new)."""
    hidden, states = torch.zeros(gru.hidden_size, dtype=torch.float64), []
    for x in latents:
        ri, zi, ni = (gru.weight_ih_l0 @ x + gru.bias_ih_l0).chunk(3)
        rh, zh, nh = (gru.weight_hh_l0 @ hidden + gru.bias_hh_l0).chunk(3)
        reset, update = torch.sigmoid(ri + rh), torch.sigmoid(zi + zh)
        hidden = (1 - update) * torch.tanh(ni + reset * nh) + update * hidden
        states.append(hidden)
    return states


def naive(model, sample, behavior):
    """Answers of one behavior, query by query."""
    tokens, config = sample.tokens, model.config
    bounds = list(zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True))
    latents = [
        naive_latent(model, tokens.unit[a:b], tokens.time_s[a:b].astype(float), tokens.count[a:b])
        for a, b in bounds
    ]
    states = naive_gru(model.backbone.gru, latents)
    readout = model.readouts["@" + behavior.replace(".", "/")]
    query = model.session.weight[sample.session] + readout.behavior.weight[0]
    answers = []
    queries = sample.queries[behavior]
    for chunk, time_s in zip(queries.chunk, queries.time_s.astype(float), strict=True):
        seen = range(max(0, chunk - config.num_context + 1), chunk + 1)
        answered = cross_attention(
            query,
            time_s,
            [states[i] for i in seen],
            [float(np.float32((i - chunk) * config.chunk_s)) for i in seen],
            block=model.attention,
            norms=(model.attention.norm_query, model.attention.norm_context),
            periods=periods_s(config.num_rotary_pairs, config.readout_t_min_s, config.t_max_s),
        )
        answers.append(readout.linear.weight @ answered + readout.linear.bias)
    return torch.stack(answers)


@pytest.mark.parametrize("seed", [0, 1])
def test_encoder(seed):
    model, sample = model_of(seed=seed), random_sample(num_chunks=6, units=UNITS, seed=seed, empty=(0, 3))
    tokens = sample.tokens
    assert (np.diff(tokens.offsets) == 0).sum() >= 2
    assert tokens.count.max() > 1
    ours = model.encoder(batch_of(sample, dtype=torch.float64).tokens, model.tables())
    bounds = zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True)
    theirs = [
        naive_latent(model, tokens.unit[a:b], tokens.time_s[a:b].astype(float), tokens.count[a:b])
        for a, b in bounds
    ]
    torch.testing.assert_close(ours, torch.stack(theirs), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("lead_s", [0.0, 0.05, 0.07])
def test_whole_decoder(lead_s):
    """Two sequences in one batch, two behaviors at their own rates, empty chunks, the first chunks too."""
    model = model_of()
    samples = [
        random_sample(num_chunks=7, units=UNITS, seed=s, lead_s=lead_s, behaviors=BEHAVIORS, empty=(2 * s,))
        for s in (0, 1)
    ]
    ours, _ = model(batch_of(*samples, dtype=torch.float64))
    for name in BEHAVIORS:
        theirs = torch.cat([naive(model, sample, name) for sample in samples])
        torch.testing.assert_close(ours[name], theirs, rtol=1e-10, atol=1e-10)
        assert ours[name].std() > 0.01  # the comparison is of something


@pytest.mark.parametrize("num_context", [1, 2, 5])
def test_other_contexts(num_context):
    model = model_of(tiny_config(num_context=num_context, rest=0.0))
    sample = random_sample(num_chunks=4, units=UNITS)
    ours, _ = model(batch_of(sample, dtype=torch.float64))
    torch.testing.assert_close(ours["vel"], naive(model, sample, "vel"), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("config", "wanted"), [(PossmConfig, 405_696), (PossmConfig.large, 7_657_216)], ids=["small", "large"]
)
def test_parameter_counts_of_the_released_code(config, wanted):
    """Without unit and session tables and readouts."""
    model = Possm(config(behaviors=CONFIG.behaviors, rest=0.0), num_units=50, num_sessions=3)
    left_out = [model.token.unit, model.session, model.readouts]
    total = sum(p.numel() for p in model.parameters())
    assert total - sum(p.numel() for part in left_out for p in part.parameters()) == wanted


def test_embeddings_start_small():
    model = Possm(PossmConfig(behaviors=CONFIG.behaviors, rest=0.0), num_units=2000, num_sessions=500)
    for table in (model.token.unit.weight, model.session.weight):
        assert table.std().item() == pytest.approx(0.02, rel=0.05)
