"""One step of every backbone as ONNX nodes; `STEPS` has a line for each in BACKBONES.

A step takes the latent (1, width) and the names of the state's tensors, and gives the hidden state
(1, hidden), or (1, 1, hidden), and the state after. The maths and the weights are those of `possm.model`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from possm.model.backbones import Gru
from possm.model.mamba import MambaMixer
from possm.model.recurrent import ResidualBackbone
from possm.model.s4d import S4dMixer
from possm.streaming.graph import Graph
from possm.streaming.graph_parts import array

Stepped = tuple[str, tuple[str, ...]]


def gru(graph: Graph, backbone: Gru, x: str, state: Sequence[str]) -> Stepped:
    """State: (layers, 1, hidden)."""
    layers = backbone.gru.num_layers
    rows = graph.split(state[0], [1] * layers, axis=0) if layers > 1 else tuple(state)
    whole = graph.precision == "float32"  # the runtime has a node for it, in float32 only
    after: list[str] = []
    if whole:
        x = graph.reshape(x, 1, 1, -1)
    for layer, row in enumerate(rows):
        weights = [
            array(getattr(backbone.gru, f"{name}_l{layer}"))
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        ]
        x = _gru_node(graph, weights, x, row) if whole else _gru_written_out(graph, weights, x, row)
        after.append(x)
    stacked = graph.node("Concat", *after, axis=0) if layers > 1 else x
    return (x, (stacked,)) if whole else (x, (graph.reshape(stacked, layers, 1, -1),))


def _gru_node(graph: Graph, weights: Sequence[np.ndarray], x: str, held: str) -> str:
    """(1, 1, in) and (1, 1, hidden) -> (1, 1, hidden). ONNX wants the gates as update, reset, new."""

    def ordered(weight: np.ndarray) -> np.ndarray:
        reset, update, new = np.split(weight, 3)
        return np.concatenate([update, reset, new])

    w, r, bw, br = (ordered(weight) for weight in weights)
    given = [graph.constant(w[None]), graph.constant(r[None]), graph.constant(np.concatenate([bw, br])[None])]
    size = r.shape[1]
    return graph.nodes("GRU", x, *given, "", held, outputs=2, hidden_size=size, linear_before_reset=1)[1]


def _gru_written_out(graph: Graph, weights: Sequence[np.ndarray], x: str, held: str) -> str:
    """h' = n + z (h - n), n = tanh(W_n x + r (R_n h)): (1, in) and (1, 1, hidden) -> (1, hidden)."""
    w, r, bw, br = weights
    size = r.shape[1]
    held = graph.reshape(held, 1, size)
    gates_x, new_x = graph.split(graph.linear(x, w, bw), [2 * size, size], axis=1)
    gates_h, new_h = graph.split(graph.linear(held, r, br), [2 * size, size], axis=1)
    gates = graph.node("Sigmoid", graph.node("Add", gates_x, gates_h))
    reset, update = graph.split(gates, [size, size], axis=1)
    new = graph.node("Tanh", graph.node("Add", new_x, graph.node("Mul", reset, new_h)))
    return graph.node("Add", new, graph.node("Mul", update, graph.node("Sub", held, new)))


def residual(graph: Graph, backbone: ResidualBackbone, x: str, state: Sequence[str]) -> Stepped:
    """x + mixer(norm(x)), layer after layer; the state is that of the mixers."""
    x = graph.linear(x, array(backbone.linear.weight), array(backbone.linear.bias))
    share = len(state) // len(backbone.mixers)
    after: tuple[str, ...] = ()
    for index, (norm, mixer) in enumerate(zip(backbone.norms, backbone.mixers, strict=True)):
        step = MIXERS[type(mixer)]
        mixed, kept = step(graph, mixer, graph.norm(x, norm), state[index * share : (index + 1) * share])
        x = graph.node("Add", x, mixed)
        after += kept
    return x, after


def s4d(graph: Graph, mixer: S4dMixer, x: str, state: Sequence[str]) -> Stepped:
    """State (1, 2, hidden, pairs). Complex products as sums over the real and the imaginary part."""
    size = len(mixer.skip)
    decay, output = (np.stack([array(part) for part in pair]) for pair in mixer.discrete())
    same = np.stack([decay[0], decay[0]])[None]  # what each part keeps of itself, and of the other part
    other = np.stack([-decay[1], decay[1]])[None]
    swapped = graph.node("Gather", state[0], graph.constant(np.array([1, 0])), axis=1)
    kept = graph.node("Mul", state[0], graph.constant(same))
    kept = graph.node("Add", kept, graph.node("Mul", swapped, graph.constant(other)))
    column = graph.reshape(x, 1, 1, size, 1)
    drive = graph.node("Mul", column, graph.constant(np.array([1.0, 0.0]).reshape(1, 2, 1, 1)))
    after = graph.node("Add", kept, drive)
    signed = np.stack([2 * output[0], -2 * output[1]])[None]
    shown = graph.node("Mul", after, graph.constant(signed))
    filtered = graph.reshape(_sum(graph, shown, 1, 3), 1, size)
    skipped = graph.node("Add", filtered, graph.node("Mul", x, graph.constant(array(mixer.skip))))
    active = graph.node("Gelu", skipped)
    value, gate = graph.split(
        graph.linear(active, array(mixer.linear.weight), array(mixer.linear.bias)), [size, size], axis=1
    )
    return graph.node("Mul", value, graph.node("Sigmoid", gate)), (after,)


def mamba(graph: Graph, mixer: MambaMixer, x: str, state: Sequence[str]) -> Stepped:
    """State (1, 3, inner) and (1, states, inner)."""
    inner, rate = len(mixer.skip), -np.exp(array(mixer.log_rate))
    states = len(rate)
    x, gate = graph.split(graph.linear(x, array(mixer.linear_in.weight)), [inner, inner], axis=1)
    padded = graph.node("Concat", state[0], graph.reshape(x, 1, 1, inner), axis=1)
    limits = [graph.constant(np.array([limit])) for limit in (1, 4, 1)]
    recent = graph.node("Slice", padded, *limits)
    products = graph.node("Mul", padded, graph.constant(array(mixer.conv_weight)[None]))
    convolved = graph.node("Add", _sum(graph, products, 1), graph.constant(array(mixer.conv_bias)))
    x = graph.node("Mul", convolved, graph.node("Sigmoid", convolved))
    sizes = [mixer.rank, states, states]
    step, write, read = graph.split(graph.linear(x, array(mixer.choose.weight)), sizes, axis=1)
    to_step = mixer.linear_step
    step = graph.node("Softplus", graph.linear(step, array(to_step.weight), array(to_step.bias)))
    decay = graph.node("Exp", graph.node("Mul", step, graph.constant(rate[None])))
    kept = graph.node("Mul", decay, state[1])
    write = graph.reshape(write, 1, states, 1)
    after = graph.node("Add", kept, graph.node("Mul", write, graph.node("Mul", step, x)))
    shown = graph.node("Gemm", read, graph.reshape(after, states, inner))
    skipped = graph.node("Add", shown, graph.node("Mul", x, graph.constant(array(mixer.skip))))
    gated = graph.node("Mul", skipped, graph.node("Mul", gate, graph.node("Sigmoid", gate)))
    return graph.linear(gated, array(mixer.linear_out.weight)), (recent, after)


def _sum(graph: Graph, x: str, *axes: int) -> str:
    return graph.node("ReduceSum", x, graph.constant(np.array(axes)), keepdims=0)


STEPS: dict[str, Callable[..., Stepped]] = {"gru": gru, "s4d": residual, "mamba": residual}
"""By the name of the backbone."""
MIXERS: dict[type, Callable[..., Stepped]] = {S4dMixer: s4d, MambaMixer: mamba}
"""By the class of the layer."""
