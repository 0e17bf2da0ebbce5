"""The causal POYO against the POYO of torch_brain with the same weights, where that is installed."""

import pytest
import torch

from possm.baselines.poyo import Poyo, PoyoConfig
from possm.batch import Batch, Queries, Tokens
from possm.model.contract import BehaviorConfig
from possm.streaming.rehearsal import randomise

models = pytest.importorskip("torch_brain.models", reason="torch_brain (extra `peers`) is not installed")

UNITS, PAIRS, HEAD = 12, 4, 16
SIZES = {"depth": 2, "cross_heads": 2, "self_heads": 3}


def ours():
    config = PoyoConfig(
        **SIZES,
        width=24,
        head_width=HEAD,
        num_rotary_pairs=PAIRS,
        latents_per_step=3,
        behaviors={"vel": BehaviorConfig(num_dimensions=2)},
    )
    model = Poyo(config, num_units=UNITS, num_sessions=1).double()
    randomise(model, torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.readouts[0].behavior.weight.zero_()  # POYO has one behavior
    return model.eval()


def theirs(model):
    """POYO with our weights; features of a head in the order (first, second), (first, second), ..."""
    config = model.config
    other = models.POYO(
        sequence_length=1.0,
        latent_step=0.125,
        num_latents_per_step=3,
        dim_out=2,
        dim=24,
        dim_head=HEAD,
        t_min=config.t_min_s,
        t_max=config.t_max_s,
        **SIZES,
    )
    other.rotary_emb.omega[:] = 0
    other.rotary_emb.omega[: HEAD // 4] = model.rotary.omega[: HEAD // 4]
    other.unit_emb.initialize_vocab([f"unit{i}" for i in range(UNITS)])
    other.session_emb.initialize_vocab(["session"])
    other = other.double().eval()
    with torch.no_grad():
        other.unit_emb.weight[1:] = model.token.unit.weight
        other.session_emb.weight[1:] = model.session.weight
        other.token_type_emb.weight[0] = model.token.kind.weight[0]
        other.latent_emb.weight[:] = model.latent
        cross(other.enc_atn, model.encode)
        cross(other.dec_atn, model.decode)
        forward(other.enc_ffn, model.encode_forward)
        forward(other.dec_ffn, model.decode_forward)
        for (attention, block), layer in zip(other.proc_layers, model.layers, strict=True):
            attention.norm.load_state_dict(layer.norm.state_dict())
            attention.to_qkv.weight[:] = interleaved(layer.to_query_key_value.weight)
            out(attention, layer)
            forward(block, layer.feed_forward)
        other.readout.load_state_dict(model.readouts[0].linear.state_dict())
    return other


def cross(other, mine):
    other.norm.load_state_dict(mine.norm_query.state_dict())
    other.norm_context.load_state_dict(mine.norm_context.state_dict())
    other.to_q.weight[:] = interleaved(mine.to_query.weight)
    other.to_kv.weight[:] = interleaved(mine.to_key_value.weight)
    out(other, mine)


def out(other, mine):
    other.to_out.weight[:] = interleaved(mine.to_out.weight.T).T
    other.to_out.bias[:] = mine.to_out.bias


def forward(other, mine):
    norm, feed = other
    norm.load_state_dict(mine.norm.state_dict())
    feed.net[0].load_state_dict(mine.up.state_dict())
    feed.net[3].load_state_dict(mine.down.state_dict())


def interleaved(rows):
    order = [part * PAIRS + i for i in range(PAIRS) for part in (0, 1)] + list(range(2 * PAIRS, HEAD))
    heads = rows.unflatten(0, (-1, HEAD))
    return heads[:, order].flatten(0, 1)


def test_same_weights_same_answers():
    """One second of spikes; our blank tokens, one a chunk, are tokens of unit 0 for POYO."""
    model, generator = ours(), torch.Generator().manual_seed(1)
    number, chunks = 150, 20
    times_s = torch.rand(number, generator=generator, dtype=torch.float64).sort().values
    unit = torch.randint(1, UNITS, (number,), generator=generator)
    chunk = (times_s * 20).long()
    offsets = torch.searchsorted(chunk, torch.arange(chunks + 1))
    asked_s = torch.tensor([0.96, 1.0, 1.04], dtype=torch.float64)
    queries = {"vel": Queries(torch.full((3,), chunks - 1), asked_s - 1.0)}
    tokens = Tokens(unit, times_s - chunk.double() * 0.05, torch.ones(number).double(), offsets)
    with torch.no_grad():
        got, _ = model(Batch(tokens, torch.zeros(1, dtype=torch.int64), chunks, queries))
        other = theirs(model)
        grid_s = torch.arange(8).double() * 0.125 + 0.0625
        wanted = other(
            input_unit_index=torch.cat([unit + 1, torch.ones(chunks, dtype=torch.int64)])[None],
            input_timestamps=torch.cat([times_s, torch.arange(chunks).double() * 0.05])[None],
            input_token_type=torch.zeros(1, number + chunks, dtype=torch.int64),
            latent_index=torch.arange(3).repeat(8)[None],
            latent_timestamps=grid_s.repeat_interleave(3)[None],
            session_index=torch.ones(1, dtype=torch.int64),
            output_timestamps=asked_s[None],
        )[0]
    assert wanted.std() > 0.1
    torch.testing.assert_close(got["vel"], wanted, rtol=0, atol=1e-9)
