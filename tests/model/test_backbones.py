"""Every backbone under the one contract, and S4D and Mamba against their papers' formulas."""

import math

import pytest
import torch
from safetensors.torch import load, save
from torch.nn import functional

from possm.batch import Batch, Queries, Tokens
from possm.model.backbones import BACKBONES
from possm.model.decoder import BehaviorConfig, Possm, PossmConfig
from possm.model.mamba import MambaMixer
from possm.model.recurrent import Mixer
from possm.model.s4d import S4dMixer

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}
WIDTH, HIDDEN, LAYERS, CHUNKS = 12, 32, 2, 45
SIZES = {"small": (64, 256, 1), "large": (256, 512, 4)}
PARAMETERS = {
    ("gru", "small"): 247_296,
    ("gru", "large"): 5_910_528,
    ("s4d", "small"): 182_016,
    ("s4d", "large"): 2_503_168,
    ("mamba", "small"): 454_912,
    ("mamba", "large"): 6_914_560,
}
TABLE = {
    ("gru", "small"): "0.247",
    ("gru", "large"): "5.911",
    ("s4d", "small"): "0.182",
    ("s4d", "large"): "2.499",
    ("mamba", "small"): "0.454",
    ("mamba", "large"): "6.910",
}
"""Millions of parameters that the published totals leave for a backbone, norms not counted."""


def build(name, size=(WIDTH, HIDDEN, LAYERS), dropout=0.0):
    width, hidden, num_layers = size
    return BACKBONES[name](width, hidden=hidden, num_layers=num_layers, dropout=dropout)


def randomised(module, seed=0, dtype=torch.float32):
    """Every parameter moved off its starting value, element by element: ones and zeros hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.2 * noise * (parameter.std() + 0.5 if parameter.numel() > 1 else 1))
    return module.to(dtype).eval()


def inputs(dtype=torch.float32, num_sequences=3, num_chunks=CHUNKS, width=WIDTH, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_sequences, num_chunks, width, generator=generator).to(dtype)


def saved_and_loaded(state):
    arrays = load(save({str(index): tensor for index, tensor in enumerate(state)}))
    return tuple(arrays[str(index)] for index in range(len(state)))


@torch.inference_mode()
def run_in_parts(backbone, sequence, size):
    state, parts = backbone.initial_state(len(sequence)), []
    for part in sequence.split(size, dim=1):
        hidden, state = backbone(part, saved_and_loaded(state))
        parts.append(hidden)
    return torch.cat(parts, dim=1), state


def assert_close(got, wanted, tolerance):
    for one, other in zip(got, wanted, strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype and one.isfinite().all()
        assert (one - other).abs().max() <= tolerance * other.abs().max().clamp(min=1)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize("name", BACKBONES)
def test_any_chunk_size_gives_the_hidden_states_of_one_call(name, size, dtype):
    backbone, sequence = randomised(build(name), dtype=dtype), inputs(dtype)
    hidden, state = run_in_parts(backbone, sequence, size)
    wanted, last = run_in_parts(backbone, sequence, CHUNKS)
    assert wanted.std() > 0.1
    assert_close((hidden, *state), (wanted, *last), TOLERANCE[dtype])


@pytest.mark.parametrize("name", BACKBONES)
def test_a_lost_state_would_be_noticed(name):
    torch.manual_seed(0)  # whatever ran before; some weights forget nearly all of a state
    backbone, sequence = randomised(build(name)), inputs()
    wanted, _ = run_in_parts(backbone, sequence, CHUNKS)
    for lost in range(len(backbone.initial_state(3))):
        with torch.inference_mode():
            _, state = backbone(sequence[:, :20], backbone.initial_state(3))
            kept = [torch.zeros_like(t) if i == lost else t for i, t in enumerate(state)]
            hidden, _ = backbone(sequence[:, 20:], tuple(kept))
        assert (hidden - wanted[:, 20:]).abs().max() > 1e-2


@pytest.mark.parametrize("now", [1, 7, 33])
@pytest.mark.parametrize("name", BACKBONES)
def test_the_future_does_not_move_the_past_by_a_bit(name, now):
    backbone, sequence = randomised(build(name)), inputs()
    other = torch.cat([sequence[:, :now], 100 * inputs(seed=2)[:, now:]], dim=1)
    with torch.inference_mode():
        one, two = (backbone(s, backbone.initial_state(3))[0] for s in (sequence, other))
    assert one[:, :now].equal(two[:, :now])
    assert not torch.isclose(one[:, now:], two[:, now:]).all(-1).any()


@pytest.mark.parametrize("name", BACKBONES)
def test_sequences_do_not_see_each_other(name):
    backbone, sequence = randomised(build(name), dtype=torch.float64), inputs(torch.float64)
    together, _ = run_in_parts(backbone, sequence, CHUNKS)
    for row in range(3):
        alone, _ = run_in_parts(backbone, sequence[row : row + 1], CHUNKS)
        assert_close((alone[0],), (together[row],), 1e-9)


@pytest.mark.parametrize("name", BACKBONES)
def test_a_call_leaves_the_state_it_was_given(name):
    backbone, sequence = randomised(build(name)), inputs()
    with torch.inference_mode():
        _, state = backbone(sequence[:, :5], backbone.initial_state(3))
        before = [tensor.clone() for tensor in state]
        for size in (1, 9):
            backbone(sequence[:, :size], state)
    assert all(one.equal(other) for one, other in zip(state, before, strict=True))


@pytest.mark.parametrize("name", BACKBONES)
def test_ten_minutes_of_stream(name):
    """12,000 steps one by one are finite and do not drift from two calls over all of them."""
    backbone, sequence = (
        randomised(build(name, (8, 16, 1))),
        inputs(num_sequences=1, num_chunks=12_000, width=8),
    )
    state, steps = backbone.initial_state(1), []
    with torch.inference_mode():
        for step in sequence.split(1, dim=1):
            hidden, state = backbone(step, state)
            steps.append(hidden)
        halfway, after = backbone(sequence[:, :6000], backbone.initial_state(1))
        rest, last = backbone(sequence[:, 6000:], after)
    assert_close((torch.cat(steps, 1), *state), (torch.cat([halfway, rest], 1), *last), 1e-4)
    late = torch.cat(steps[-3000:]).abs().max()
    assert late < 3 * torch.cat(steps[:3000]).abs().max()


@pytest.mark.parametrize(("name", "size"), PARAMETERS)
def test_parameter_counts(name, size):
    backbone = build(name, SIZES[size])
    total = sum(p.numel() for p in backbone.parameters())
    norms = sum(p.numel() for p in getattr(backbone, "norms", torch.nn.ModuleList()).parameters())
    assert total == PARAMETERS[name, size]
    assert f"{(total - norms) / 1e6:.3f}" == TABLE[name, size]


@pytest.mark.parametrize("name", BACKBONES)
def test_states_are_zero_at_first_and_have_one_entry_per_sequence(name):
    backbone = build(name).double()
    for one, five in zip(backbone.initial_state(1), backbone.initial_state(5), strict=True):
        assert one.dtype == five.dtype == torch.float64 and not five.any()
        assert one.numel() * 5 == five.numel() and 5 in five.shape[:2]


@pytest.mark.parametrize("name", BACKBONES)
def test_dropout_acts_in_training_only(name):
    backbone, sequence = randomised(build(name, dropout=0.5)), inputs()
    state = backbone.initial_state(3)
    assert backbone(sequence, state)[0].equal(backbone(sequence, state)[0])
    backbone.train()
    assert not backbone(sequence, state)[0].equal(backbone(sequence, state)[0])


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("name", BACKBONES)
def test_every_parameter_learns(name, dtype):
    """Also under autocast, where states stay float32."""
    backbone, sequence = randomised(build(name)).train(), inputs().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is not None):
        hidden, state = backbone(sequence, backbone.initial_state(3))
    hidden.float().square().mean().backward()
    assert all(tensor.dtype == torch.float32 for tensor in state) or name == "gru"
    idle = [k for k, p in backbone.named_parameters() if not (p.grad.isfinite().all() and p.grad.any())]
    assert idle == [] and sequence.grad.any()


@pytest.mark.parametrize("num_chunks", [1, 40])
def test_s4d_is_its_formula(num_chunks):
    """Zero-order hold of diagonal systems, in complex numbers, step after step."""
    mixer = randomised(S4dMixer(6), dtype=torch.float64)
    x, held = (
        inputs(torch.float64, 2, num_chunks, 6).transpose(0, 1),
        torch.zeros(2, 6, 32, dtype=torch.complex128),
    )
    rate = torch.complex(-mixer.log_damping.exp(), mixer.frequency)
    step = mixer.log_step.exp().unsqueeze(1)
    decay, gain = torch.exp(step * rate), (torch.exp(step * rate) - 1) / rate
    answers = []
    for now in x:
        held = decay * held + gain * now.unsqueeze(-1)
        shown = 2 * (torch.complex(*mixer.output) * held).sum(-1).real + mixer.skip * now
        value, gate = mixer.linear(functional.gelu(shown)).chunk(2, dim=-1)
        answers.append(value * torch.sigmoid(gate))
    answer, _ = mixer(x, mixer.initial_state(2))
    assert_close((answer,), (torch.stack(answers),), 1e-9)


@pytest.mark.parametrize("num_chunks", [1, 40])
def test_mamba_is_its_formula(num_chunks):
    mixer = randomised(MambaMixer(6, num_layers=2), dtype=torch.float64)
    sequence = inputs(torch.float64, 2, num_chunks, 6).transpose(0, 1)
    x, gate = mixer.linear_in(sequence).chunk(2, dim=-1)
    past = functional.pad(x.permute(1, 2, 0), (3, 0))
    weight = mixer.conv_weight.T.unsqueeze(1)
    x = functional.silu(functional.conv1d(past, weight, mixer.conv_bias, groups=12)).permute(2, 0, 1)
    low, write, read = mixer.choose(x).split([1, 16, 16], dim=-1)
    step, rate = functional.softplus(mixer.linear_step(low)), -mixer.log_rate.exp()
    held, answers = torch.zeros(2, 16, 12, dtype=torch.float64), []
    for t in range(num_chunks):
        drive = write[t].unsqueeze(2) * (step[t] * x[t]).unsqueeze(1)
        held = torch.exp(step[t].unsqueeze(1) * rate) * held + drive
        answers.append((read[t].unsqueeze(2) * held).sum(1) + mixer.skip * x[t])
    wanted = mixer.linear_out(torch.stack(answers) * functional.silu(gate))
    answer, _ = mixer(sequence, mixer.initial_state(2))
    assert_close((answer,), (wanted,), 1e-9)


@pytest.mark.parametrize("num_chunks", [1, 6])
@pytest.mark.parametrize("mixer", [S4dMixer(3), MambaMixer(3, num_layers=1)])
def test_gradients_of_a_layer(mixer, num_chunks):
    """By every parameter, the input and the state, against differences."""
    names, values = zip(*randomised(mixer, dtype=torch.float64).named_parameters(), strict=True)
    state = [torch.randn_like(tensor) for tensor in mixer.initial_state(2)]
    leaves = [*values, inputs(torch.float64, 2, num_chunks, 3).transpose(0, 1).contiguous(), *state]

    def function(*leaves):
        parameters, rest = dict(zip(names, leaves, strict=False)), leaves[len(names) :]
        answer, after = torch.func.functional_call(mixer, parameters, (rest[0], tuple(rest[1:])))
        return answer, *after

    leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    assert torch.autograd.gradcheck(function, leaves, fast_mode=True)


def test_s4d_keeps_its_accuracy_for_slow_modes():
    """exp(x) - 1 of a small x, as a difference in float32, would be off by one part in ten thousand."""
    mixer = S4dMixer(50)
    with torch.no_grad():
        mixer.log_step.fill_(math.log(1e-4))
        single = mixer.discrete()[1]
        double = mixer.double().discrete()[1]
    for one, other in zip(single, double, strict=True):
        assert ((one - other).abs() <= 3e-6 * torch.stack(double).norm(dim=0)).all()


def test_fresh_models_start_as_published():
    torch.manual_seed(0)
    s4d, mamba = S4dMixer(200), MambaMixer(200, num_layers=4)
    assert 0.001 <= s4d.log_step.exp().min() < 0.002 and 0.05 < s4d.log_step.exp().max() <= 0.1
    assert s4d.frequency[3].tolist() == pytest.approx([math.pi * n for n in range(32)])
    assert mamba.log_rate[:, 7].exp().tolist() == pytest.approx(range(1, 17))
    step = functional.softplus(mamba.linear_step.bias)
    assert 0.00099 <= step.min() < 0.002 and 0.05 < step.max() <= 0.1001


@pytest.mark.parametrize("mixer", [S4dMixer(8), MambaMixer(8, num_layers=1)])
def test_parameters_without_weight_decay_exist(mixer: Mixer):
    assert mixer.undecayed and set(mixer.undecayed) <= {name for name, _ in mixer.named_parameters()}


def labelled_batch(num_sequences, num_chunks, seed=0):
    """Spikes, and an answer that depends on all of them up to then."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(0, 9, (num_sequences * num_chunks,), generator=generator)
    total = int(sizes.sum())
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
    unit = torch.randint(1, 6, (total,), generator=generator)
    tokens = Tokens(unit, torch.rand(total, generator=generator) * 0.05, torch.ones(total), offsets)
    queries = {"pos": Queries(torch.arange(len(sizes)), torch.zeros(len(sizes)))}
    batch = Batch(tokens, torch.zeros(num_sequences, dtype=torch.int64), num_chunks, queries)
    surplus = sizes.view(num_sequences, num_chunks).float().cumsum(1) - 4 * torch.arange(1, num_chunks + 1)
    return batch, surplus.sin().view(-1, 1)


@pytest.mark.parametrize("name", BACKBONES)
def test_a_decoder_learns(name):
    torch.manual_seed(0)
    config = PossmConfig(
        backbone=name,
        width=16,
        hidden=32,
        num_layers=2,
        dropout=0.0,
        behaviors={"pos": BehaviorConfig(num_dimensions=1)},
    )
    model, (batch, wanted) = Possm(config, num_units=6, num_sessions=1), labelled_batch(4, 20)
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=5e-3), []
    for _ in range(60):
        loss = (model(batch)[0]["pos"] - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.4 * losses[0]
