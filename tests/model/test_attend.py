"""The blocked attention against the plain expression it stands for, and against finite differences."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from possm.model import attend as module
from possm.model.attend import TokenTimes, attend

UNITS, PAIRS, HEAD = 5, 3, 8


def plain(score, value, omega, tokens):
    """Chunk by chunk, with complex numbers for the rotation."""
    out = []
    for begin, end in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True):
        unit, time_s = tokens.unit[begin:end], tokens.time_s[begin:end].unsqueeze(1)
        turn = torch.exp(1j * time_s * omega)
        c = score[unit]
        logit = c[:, 0] + (c[:, 1 : 1 + PAIRS] * turn.real + c[:, 1 + PAIRS :] * turn.imag).sum(1)
        weight = torch.softmax(logit + tokens.multiplicity[begin:end].log(), dim=0).unsqueeze(1)
        v = value[unit]
        turned = torch.complex(v[:, :PAIRS], v[:, PAIRS : 2 * PAIRS]) * turn
        rows = torch.cat([turned.real, turned.imag, v[:, 2 * PAIRS :]], dim=1)
        out.append((weight * rows).sum(0))
    return torch.stack(out)


def example(sizes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    total = sum(sizes)
    random = {"generator": generator, "dtype": torch.float64}
    tokens = TokenTimes(
        torch.randint(0, UNITS, (total,), generator=generator),
        torch.rand(total, **random) * 0.05 - 0.025,
        torch.randint(1, 4, (total,), generator=generator).double(),
        torch.tensor([0, *torch.tensor(sizes).cumsum(0)]),
    )
    score = torch.randn(UNITS, 1 + 2 * PAIRS, **random).requires_grad_()
    value = torch.randn(UNITS, HEAD, **random).requires_grad_()
    return score, value, torch.tensor([1.0, 50.0, 4000.0], dtype=torch.float64), tokens


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=12),
    block=st.integers(1, 20),
    seed=st.integers(0, 99),
)
def test_equals_the_plain_expression_in_any_blocks(sizes, block, seed):
    score, value, omega, tokens = example(sizes, seed)
    before, module.BLOCK = module.BLOCK, block
    try:
        ours = attend(score, value, omega, tokens)
        weights = torch.randn(ours.shape, dtype=torch.float64)
        gradients = torch.autograd.grad((ours * weights).sum(), (score, value))
    finally:
        module.BLOCK = before
    theirs = plain(score, value, omega, tokens)
    wanted = torch.autograd.grad((theirs * weights).sum(), (score, value), allow_unused=True)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    for got, want in zip(gradients, wanted, strict=True):
        want = torch.zeros_like(got) if want is None else want
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


def test_gradcheck():
    score, value, omega, tokens = example([3, 0, 5, 1])
    assert torch.autograd.gradcheck(lambda s, v: attend(s, v, omega, tokens), (score, value))
    rest = torch.tensor([0.7], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s, v, r: attend(s, v, omega, tokens, r), (score, value, rest))


@pytest.mark.parametrize("rest", [-3.0, 0.5, 40.0])
def test_a_token_at_rest_is_one_more_whose_value_is_0(rest):
    score, value, omega, tokens = example([3, 0, 5, 1])
    more, nothing = score.new_zeros(1, score.shape[1]), value.new_zeros(1, HEAD)
    more[0, 0] = rest
    at = tokens.offsets[1:]
    where = torch.cat([torch.arange(len(tokens.unit)), at - 0.5]).argsort()

    def joined(own, new):
        return torch.cat([own, new.expand(len(at)).to(own)])[where]

    rows, ones = torch.tensor(UNITS), torch.tensor(1.0)
    longer = TokenTimes(
        joined(tokens.unit, rows),
        joined(tokens.time_s, 0 * ones),
        joined(tokens.multiplicity, ones),
        tokens.offsets + torch.arange(len(at) + 1),
    )
    wanted = plain(torch.cat([score, more]), torch.cat([value, nothing]), omega, longer)
    got = attend(score, value, omega, tokens, torch.tensor([rest], dtype=torch.float64))
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)


def test_an_empty_chunk_gives_zero_and_huge_scores_stay_finite():
    score, value, omega, tokens = example([0, 4])
    out = attend(score * 1e4, value, omega, tokens)
    assert torch.equal(out[0], torch.zeros(HEAD, dtype=torch.float64))
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("count", [2, 7])
def test_a_count_weighs_as_many_tokens(count):
    score, value, omega, _ = example([1])
    unit, time_s = torch.tensor([1, 2]), torch.tensor([0.01, -0.01], dtype=torch.float64)
    one = torch.ones(2, dtype=torch.float64)
    once = TokenTimes(unit, time_s, one * torch.tensor([count, 1.0]), torch.tensor([0, 2]))
    many = TokenTimes(
        torch.tensor([1] * count + [2]),
        torch.cat([time_s[:1].repeat(count), time_s[1:]]),
        torch.ones(count + 1, dtype=torch.float64),
        torch.tensor([0, count + 1]),
    )
    torch.testing.assert_close(attend(score, value, omega, once), attend(score, value, omega, many))
