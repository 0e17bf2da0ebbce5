"""The step of a decoder as ONNX nodes: encoder, readout, and the feed-forward block of both.

The same maths as `possm.model`, from the same weights, in the form that costs least for ONE chunk: constants
are folded, and rotations are products with cosines and sines whose signs and sums go into the matrix that
follows. `tests/streaming/test_export.py` holds it against the forward, which stays the one that is read.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from possm.model.decoder import Possm
from possm.model.encoder import UnitTables
from possm.model.layers import FeedForward
from possm.model.readout import ReadoutAttention
from possm.streaming.graph import Graph


def encode(graph: Graph, model: Possm, rows: np.ndarray) -> str:
    """Tokens of one chunk -> its latent (1, width).

    With B = (cos, sin) at the times of the tokens, w their weights, V = (v1, v2) what rotates of their values
    and U = (what does not rotate, 1), all the rest is sums over tokens: w (B V), w (B (v2, v1)) and w U.
    Signs and sums of those go into the matrix that follows.

    An empty chunk sums to 0 everywhere, also in the column of ones: that column carries the difference
    between any other chunk's bias and what the blank unit gives.

    Args:
        graph: Where to add.
        model: Decoder in float64.
        rows: (units,) rows of its unit table, the blank unit first.
    """
    encoder = model.encoder
    tables = UnitTables(*(table[torch.from_numpy(rows)] for table in encoder.tables(model.token())))
    pairs = len(encoder.rotary.omega)
    unit = graph.input("unit", "int64", ["tokens"])
    basis = graph.input("basis", "float32", ["tokens", 2 * pairs])
    weight = _weights(graph, tables, unit, basis, encoder.rest)
    turning = array(tables.value[:, : 2 * pairs])
    halves = (turning, np.roll(turning, pairs, axis=1))
    own = [graph.node("Gather", graph.constant(half), unit) for half in halves]
    products = [graph.node("MatMul", weight, graph.node("Mul", basis, values)) for values in own]

    matrix, blank = encoder.to_out.weight, encoder.latent + encoder.to_out(encoder._blank(tables))
    bias = encoder.latent + encoder.to_out.bias - blank
    still = torch.cat([tables.value[:, 2 * pairs :], tables.value.new_ones(len(rows), 1)], dim=1)
    from_still = torch.cat([matrix[:, 2 * pairs :], bias.T], dim=1)
    summed = graph.node("MatMul", weight, graph.node("Gather", graph.constant(array(still)), unit))
    latent = graph.node("Gemm", summed, graph.constant(array(from_still.T)), graph.constant(array(blank)))
    turned = array(from_products(matrix, pairs).T)
    for product, part in zip(products, np.split(turned, 2), strict=True):
        latent = graph.node("Gemm", product, graph.constant(part), latent)
    return feed_forward(graph, latent, encoder.feed_forward)


def _weights(graph: Graph, tables: UnitTables, unit: str, basis: str, rest: Tensor | None) -> str:
    """Softmax over the tokens, one of count k as k tokens: (1, N). A token at rest takes part, and is cut off
    again, for its value is 0."""
    log_count = graph.input("log_count", "float32", [1, "tokens"])
    still, coefficients = tables.score[:, 0], tables.score[:, 1:]
    at_any_time = graph.node("Gather", graph.constant(array(still)), unit)
    by_time = graph.node("Mul", graph.node("Gather", graph.constant(array(coefficients)), unit), basis)
    every = graph.constant(np.ones((1, coefficients.shape[1])))
    score = graph.node("Gemm", every, by_time, log_count, transB=1)
    logit = graph.node("Add", score, at_any_time)
    if rest is None:
        return graph.node("Softmax", logit, axis=1)
    both = graph.node("Concat", logit, graph.constant(array(rest)[None]), axis=1)
    ends = [graph.constant(np.array([place])) for place in (0, -1, 1)]
    return graph.node("Slice", graph.node("Softmax", both, axis=1), *ends)


def decode(graph: Graph, model: Possm, hidden: str, session: int) -> tuple[str, str]:
    """Newest hidden state (1, 1, hidden) -> attended queries (Q, width), and the hidden states to keep.

    What is asked is the same at every step but for its time, so one matrix takes a hidden state to all that
    its score and its rotated value need: W products with 1, cos and sin of the time between query and hidden
    state. The k hidden states stand side by side, (Q, k W).
    """
    attention, kept = model.attention, model.config.num_context - 1
    recent = graph.input("recent", "float32", [kept, 1, model.config.hidden])
    history = graph.node("Concat", recent, hidden, axis=0)
    _, keep = graph.split(history, [1, kept], axis=0)
    asked, embedding = questions(model, session)
    matrix = context_matrix(attention, asked)
    size, behaviors, pairs = len(matrix), len(asked), len(attention.rotary.omega)
    in_score = behaviors * (1 + 2 * pairs)

    projected = graph.node(
        "MatMul", graph.norm(history, attention.norm_context), graph.constant(array(matrix.T))
    )
    basis = _query_basis(graph, attention, behaviors, size)
    residual = graph.constant(array(embedding + attention.to_out.bias))
    if behaviors > 1:
        which = graph.input("query_behavior", "int64", ["queries"])
        mine = np.repeat(np.eye(behaviors), 1 + 2 * pairs, axis=1)
        mine = np.concatenate([mine, np.ones((behaviors, size - in_score))], axis=1)
        chosen = graph.node("Gather", graph.constant(np.tile(mine, kept + 1)), which)
        basis, residual = graph.node("Mul", basis, chosen), graph.node("Gather", residual, which)
    products = graph.node("Mul", basis, graph.reshape(projected, 1, (kept + 1) * size))
    columns = np.kron(np.eye(kept + 1), (np.arange(size) < in_score)[:, None])
    score = graph.node("Gemm", products, graph.constant(columns), _unknown(graph, kept + 1))
    weight = graph.reshape(graph.node("Softmax", score, axis=1), -1, 1, kept + 1)
    mixed = graph.node("MatMul", weight, graph.reshape(products, -1, kept + 1, size))

    to_out = attention.to_out.weight
    signs = torch.tensor([1, -1, 1, -1]).repeat_interleave(pairs)  # it turns the other way than in a token
    turning = from_products(to_out, pairs) * signs
    out = torch.cat([to_out.new_zeros(len(to_out), in_score), turning, to_out[:, 2 * pairs :]], dim=1)
    attended = graph.node("Gemm", graph.reshape(mixed, -1, size), graph.constant(array(out.T)), residual)
    return feed_forward(graph, attended, attention.feed_forward), keep


def questions(model: Possm, session: int) -> tuple[Tensor, Tensor]:
    """What each behavior asks before time enters (B, head), and its embedding (B, width)."""
    rows = [readout.behavior.weight for readout in model.readouts.values()]  # type: ignore[union-attr]
    embedding = model.session.weight[session] + torch.cat(rows)  # type: ignore[arg-type]
    to_query = model.attention.to_query
    return to_query(model.attention.norm_query(embedding)) * to_query.out_features**-0.5, embedding


def context_matrix(attention: ReadoutAttention, asked: Tensor) -> Tensor:
    """Normed hidden state -> score coefficients of every behavior (1 + 2F each), and values v1, v2, v2, v1
    and what does not rotate: (W, hidden)."""
    key, value = attention.to_key_value.weight.chunk(2, dim=0)  # (head, hidden)
    pairs = len(attention.rotary.omega)
    sizes = [pairs, pairs, len(key) - 2 * pairs]
    k1, k2, k_still = key.split(sizes)
    rows = []
    for question in asked:
        q1, q2, q_still = question[:, None].split(sizes)
        rows += [q_still.T @ k_still, q1 * k1 + q2 * k2, q1 * k2 - q2 * k1]
    v1, v2, v_still = value.split(sizes)
    return torch.cat([*rows, v1, v2, v2, v1, v_still])


def _query_basis(graph: Graph, attention: ReadoutAttention, behaviors: int, size: int) -> str:
    """Query times -> what multiplies the rows of `context_matrix`, for each hidden state: (Q, k W). A sin is
    a cos a quarter turn later, so one node makes all."""
    omega = array(attention.rotary.omega)
    zero, quarter = np.zeros_like(omega), np.full_like(omega, np.pi / 2)
    in_score, in_value = (1 + 2 * len(omega)) * behaviors, 4 * len(omega)
    rest = np.zeros(size - in_score - in_value)
    frequency = np.concatenate([[0, *omega, *omega] * behaviors, np.tile(omega, 4), rest])
    phase = np.concatenate([[0, *zero, *quarter] * behaviors, zero, quarter, zero, quarter, rest])
    shift = -phase - array(attention.context_time_s)[:, None] * frequency  # (k, W)
    frequency = np.tile(frequency, len(shift))[None]
    time_s = graph.input("query_time_s", "float32", ["queries", 1])
    angle = graph.node("Gemm", time_s, graph.constant(frequency), graph.constant(shift.reshape(-1)))
    return graph.node("Cos", angle)


def _unknown(graph: Graph, count: int) -> str:
    """-inf for hidden states from before the stream began, by how many chunks have been seen: (1, k)."""
    seen = graph.input("seen", "int64", [1])
    back = np.arange(count - 1, -1, -1)
    table = np.where(back[None] > np.arange(count)[:, None], -np.inf, 0.0)
    return graph.node("Gather", graph.constant(table), seen)


def from_products(matrix: Tensor, pairs: int) -> Tensor:
    """A matrix on rotated features (out, head) -> on the products v1 cos, v2 sin, v2 cos, v1 sin."""
    first, second = matrix[:, :pairs], matrix[:, pairs : 2 * pairs]
    return torch.cat([first, -first, second, second], dim=1)


def feed_forward(graph: Graph, x: str, block: FeedForward) -> str:
    """(rows, width) -> (rows, width)."""
    up, half = block.up, block.up.out_features // 2
    normed = graph.norm(x, block.norm)
    value, gate = graph.split(graph.linear(normed, array(up.weight), array(up.bias)), [half, half], axis=-1)
    inner = graph.node("Mul", value, graph.node("Gelu", gate))
    return graph.node("Add", x, graph.linear(inner, array(block.down.weight), array(block.down.bias)))


def array(tensor: Tensor) -> np.ndarray:
    """As numpy."""
    return tensor.detach().numpy()
