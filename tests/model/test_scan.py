"""Both scans against a loop written from their formula, whatever the decays, and their gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from possm.model import scan, selective
from possm.model.scan import constant_scan, selective_scan

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}
MAGNITUDES = (0.0, 1e-30, 1e-3, 0.5, 0.999999, 1.0)

sizes = st.tuples(st.integers(1, 70), st.integers(1, 4), st.integers(1, 5), st.integers(1, 4))
dtypes = st.sampled_from(list(TOLERANCE))
seeds = st.integers(0, 10_000)


def drawn(values, shape, seed):
    """Random picks from `values`, so that extreme decays stand beside ordinary ones."""
    picks = torch.randint(len(values), shape, generator=torch.Generator().manual_seed(seed))
    return torch.tensor(values, dtype=torch.float64)[picks]


def normal(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pair(numbers):
    return numbers.real.contiguous(), numbers.imag.contiguous()


def constant_arguments(size, dtype, seed):
    num_steps, num_sequences, channels, states = size
    angle = normal(channels, states, seed=seed + 1) * 4
    decay = torch.polar(drawn(MAGNITUDES, (channels, states), seed), angle)
    output = torch.complex(normal(channels, states, seed=seed + 2), normal(channels, states, seed=seed + 3))
    drive = normal(num_steps, num_sequences, channels, seed=seed + 4)
    state = normal(num_sequences, 2, channels, states, seed=seed + 5)
    arguments = {"drive": drive, "decay": pair(decay), "output": pair(output), "state": state}
    return {name: cast(value, dtype) for name, value in arguments.items()}


def selective_arguments(size, dtype, seed):
    num_steps, num_sequences, channels, states = size
    rates = [-0.0, -1e-12, -0.1, -1.0, -30.0, -1e4]  # decays of 1 down to exp(-10^4) = 0
    arguments = {
        "x": normal(num_steps, num_sequences, channels, seed=seed),
        "step": drawn([0.0, 1e-6, 0.1, 1.0], (num_steps, num_sequences, channels), seed + 1),
        "rate": drawn(rates, (states, channels), seed + 2),
        "write": normal(num_steps, num_sequences, states, seed=seed + 3),
        "read": normal(num_steps, num_sequences, states, seed=seed + 4),
        "state": normal(num_sequences, states, channels, seed=seed + 5),
    }
    return {name: cast(value, dtype) for name, value in arguments.items()}


def cast(value, dtype):
    return tuple(part.to(dtype) for part in value) if isinstance(value, tuple) else value.to(dtype)


def constant_loop(drive, *, decay, output, state):
    """h[t] = decay h[t-1] + drive[t], y[t] = 2 Re(sum output h[t]), in complex numbers."""
    held, answers = torch.complex(state[:, 0], state[:, 1]), []
    for now in drive:
        held = torch.complex(*decay) * held + now.unsqueeze(-1)
        answers.append(2 * (torch.complex(*output) * held).sum(-1).real)
    return torch.stack(answers), torch.stack(pair(held), dim=1)


def selective_loop(x, *, step, rate, write, read, state):
    answers = []
    for t in range(len(x)):
        decay = torch.exp(torch.einsum("si,ni->sni", step[t], rate))
        state = decay * state + torch.einsum("sn,si,si->sni", write[t], step[t], x[t])
        answers.append(torch.einsum("sn,sni->si", read[t], state))
    return torch.stack(answers), state


SCANS = {
    "constant": (constant_scan, constant_loop, constant_arguments),
    "selective": (selective_scan, selective_loop, selective_arguments),
}


def assert_close(got, wanted, tolerance):
    for one, other in zip(got, wanted, strict=True):
        assert one.shape == other.shape and one.isfinite().all()
        assert (one - other).abs().max() <= tolerance * other.abs().max().clamp(min=1)


@pytest.mark.parametrize("kind", SCANS)
@given(size=sizes, dtype=dtypes, seed=seeds)
@settings(max_examples=60)
def test_a_scan_is_its_loop(kind, size, dtype, seed):
    function, loop, arguments_of = SCANS[kind]
    arguments = arguments_of(size, dtype, seed)
    exact = {name: cast(value, torch.float64) for name, value in arguments.items()}
    assert_close(function(**arguments), loop(**exact), TOLERANCE[dtype])


@pytest.mark.parametrize("kind", SCANS)
@given(size=sizes, cut=st.integers(1, 69), seed=seeds)
@settings(max_examples=30)
def test_a_window_in_two_parts_is_the_window(kind, size, cut, seed):
    function, _, arguments_of = SCANS[kind]
    arguments = arguments_of((70, *size[1:]), torch.float64, seed)
    timed = {"drive", "x", "step", "write", "read"}
    answers, state = [], arguments["state"]
    for part in (slice(0, cut), slice(cut, None)):
        now = {name: value[part] if name in timed else value for name, value in arguments.items()}
        answer, state = function(**now | {"state": state})
        answers.append(answer)
    assert_close((torch.cat(answers), state), function(**arguments), 1e-12)


@pytest.fixture
def small_pieces(monkeypatch):
    """Blocks, segments and tiles small enough that a short window spans several, the last ones cut short."""
    monkeypatch.setattr(scan, "BLOCK", 3)
    monkeypatch.setattr(selective, "KEPT_EVERY", 3)
    monkeypatch.setattr(selective, "TILE", 2 * 2 * 3)


@pytest.mark.parametrize("num_steps", [1, 3, 7])
def test_gradients_of_the_constant_scan(small_pieces, num_steps):
    arguments = constant_arguments((num_steps, 3, 2, 3), torch.float64, 0)

    def function(drive, real, imaginary, shown, turned, state):
        return constant_scan(drive, decay=(real, imaginary), output=(shown, turned), state=state)

    flat = (arguments["drive"], *arguments["decay"], *arguments["output"], arguments["state"])
    assert torch.autograd.gradcheck(function, [value.clone().requires_grad_() for value in flat])


@pytest.mark.parametrize("num_steps", [1, 3, 7])
def test_gradients_of_the_selective_scan(small_pieces, num_steps):
    arguments = selective_arguments((num_steps, 3, 2, 3), torch.float64, 0)
    arguments["step"] = arguments["step"] + 0.3
    arguments["rate"] = arguments["rate"].clamp(min=-3.0) - 0.2

    def function(*values):
        return selective_scan(**dict(zip(arguments, values, strict=True)))

    assert torch.autograd.gradcheck(
        function, [value.clone().requires_grad_() for value in arguments.values()]
    )


@pytest.mark.parametrize("kind", SCANS)
def test_a_thousand_steps_of_extreme_decays_have_finite_gradients(kind):
    """Products of a thousand decays are far below the smallest float; nothing may divide by them."""
    function, _, arguments_of = SCANS[kind]
    arguments = arguments_of((1000, 2, 6, 4), torch.float32, 1)
    leaves = []
    for name, value in arguments.items():
        parts = [part.clone().requires_grad_() for part in (value if isinstance(value, tuple) else (value,))]
        arguments[name] = tuple(parts) if isinstance(value, tuple) else parts[0]
        leaves += parts
    answer, state = function(**arguments)
    (answer.square().mean() + state.square().mean()).backward()
    assert all(leaf.grad.isfinite().all() and leaf.grad.abs().max() > 0 for leaf in leaves)


def test_strided_arguments_give_the_same_answers_and_gradients():
    arguments = selective_arguments((8, 3, 4, 2), torch.float64, 3)
    results = []
    for turn in (lambda v: v, lambda v: v.mT.contiguous().mT):
        leaves = {name: value.clone().requires_grad_() for name, value in arguments.items()}
        answer, state = selective_scan(**{name: turn(leaf) for name, leaf in leaves.items()})
        (answer.sin().sum() + state.sin().sum()).backward()
        results.append((answer, state, *(leaf.grad for leaf in leaves.values())))
    assert_close(*results, 1e-12)


def stand_in_kernel(u, delta, a, b, c, *, return_last_state):
    """What mamba-ssm documents: time last, (batch, inner, time), zero initial state, last state wanted."""
    assert return_last_state and a.shape == (u.shape[1], b.shape[1])
    first = u.new_zeros(len(u), b.shape[1], u.shape[1])
    u, delta, b, c = (tensor.permute(2, 0, 1) for tensor in (u, delta, b, c))
    answer, state = selective_loop(u, step=delta, rate=a.T, write=b, read=c, state=first)
    return answer.permute(1, 2, 0), state.mT


@pytest.mark.parametrize("zero_state", [True, False])
def test_the_kernel_of_mamba_ssm_is_called_as_it_documents(monkeypatch, zero_state):
    arguments = selective_arguments((9, 3, 4, 2), torch.float64, 4)
    if zero_state:
        arguments["state"].zero_()
    wanted = selective_scan(**arguments)
    monkeypatch.setattr(selective, "find_kernel", lambda x: stand_in_kernel)
    assert_close(selective_scan(**arguments), wanted, 1e-9)


def test_there_is_no_kernel_on_a_cpu():
    assert selective.find_kernel(torch.zeros(1)) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("zero_state", [True, False])
def test_cuda_gives_the_answers_and_gradients_of_the_cpu(zero_state):
    """With mamba-ssm installed this compares its kernel, without it torch on the device."""
    arguments = selective_arguments((20, 3, 64, 16), torch.float32, 5)
    if zero_state:
        arguments["state"].zero_()
    results = []
    for device in ("cpu", "cuda"):
        leaves = {name: value.to(device).requires_grad_(name != "state") for name, value in arguments.items()}
        answer, state = selective_scan(**leaves)
        answer.sin().sum().backward()
        gradients = [leaf.grad for name, leaf in leaves.items() if name != "state"]
        results.append([tensor.detach().cpu() for tensor in (answer, state, *gradients)])
    assert_close(*results, 1e-4)
