"""Ragged attention against the plain expression, and its gradient against finite differences."""

import pytest
import torch

from possm.baselines.attention import Spans, attend_spans, exact_angles
from possm.model.rotary import Rotary, rotate

SPANS = Spans([(0, 3), (3, 4), (4, 4), (4, 9)], [(0, 5), (2, 9), (3, 4), (8, 11)])


def random_inputs(dtype=torch.float64):
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, rows, 4, dtype=dtype) for rows in (9, 11, 11))
    return query, key, value, torch.randn(11, dtype=dtype)


def plain(query, key, value, bias):
    out = torch.zeros_like(query)
    for (q0, q1), (k0, k1) in zip(*SPANS, strict=True):
        score = query[:, q0:q1] @ key[:, k0:k1].mT / 2 + bias[k0:k1]
        out[:, q0:q1] = score.softmax(-1) @ value[:, k0:k1]
    return out


def test_blocks_are_what_the_plain_expression_says():
    inputs = random_inputs()
    torch.testing.assert_close(attend_spans(*inputs, SPANS), plain(*inputs), rtol=0, atol=1e-12)
    without = attend_spans(*inputs[:3], None, SPANS)
    torch.testing.assert_close(without, plain(*inputs[:3], torch.zeros(11)), rtol=0, atol=1e-12)


def test_gradient_of_overlapping_blocks():
    query, key, value, bias = random_inputs()
    leaves = [x.requires_grad_() for x in (query, key, value)]
    assert torch.autograd.gradcheck(lambda q, k, v: attend_spans(q, k, v, bias, SPANS), leaves)


def test_a_block_does_not_depend_on_the_others():
    query, key, value, bias = random_inputs(torch.float32)
    wanted = attend_spans(query, key, value, bias, SPANS)[:, :3]
    key[:, 5:], value[:, 5:], query[:, 3:] = 7.0, torch.inf, -1.0
    assert attend_spans(query, key, value, bias, SPANS)[:, :3].equal(wanted)


@pytest.mark.parametrize("late_s", [0.0, 31.0, 3600.0])
def test_angles_keep_short_differences_late_in_a_call(late_s):
    rotary = Rotary(16, t_min_s=1e-4, t_max_s=4.0)
    x = torch.ones(64)

    def score(start_s):
        times = torch.tensor([start_s, start_s + 0.01234], dtype=torch.float64)
        cos, sin = exact_angles(rotary, times)
        return rotate(x, cos[0], sin[0]) @ rotate(x, cos[1], sin[1])

    assert abs(score(late_s) - score(0.0)) < 1e-4
