"""A trained decoder -> one .onnx file: the step of one session, with all that a host needs in its metadata.

    (tokens of ONE chunk, query times, state) -> (answers by behavior, state)

Inputs: ``unit`` (N,) rows of the session's units, 1 or more, ``basis`` (N, 2F) cosines, then sines of omega_f
times the time since the latent (`TokenBasis`; omega and the latent's place in the chunk are in the metadata),
``log_count`` (1, N) logarithms of the counts, ``query_time_s`` (Q, 1) output time minus the end of the chunk,
the state (``state.0``, ..., ``recent``, ``seen``), and with several behaviors ``query_behavior`` (Q,), the
number of each query's. N and Q vary and may be 0. Outputs: one (Q, D) per behavior, scaled or logits, and
``next.`` + every state tensor.
"""

from __future__ import annotations

import copy
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import ModelProto, helper

from possm.checkpoint import Decoder
from possm.config import require, to_json
from possm.data.files import atomic_path
from possm.decoders import kind_of
from possm.errors import CheckpointError, StreamError
from possm.model.decoder import Possm, PossmConfig
from possm.model.readout import CategoryReadout, ContinuousReadout
from possm.streaming.engines import StreamSpec
from possm.streaming.graph import Graph
from possm.streaming.graph_backbones import STEPS
from possm.streaming.graph_parts import array, decode, encode
from possm.streaming.sealed import seal
from possm.streaming.torch_engine import spec_of

FORMAT = 2
"""Version of the graph's inputs, outputs and metadata; a reader refuses what it does not know."""
PRECISIONS = ("float32", "int8")


def export_decoder(
    decoder: Decoder,
    path: str | os.PathLike[str],
    *,
    session: str | None = None,
    precision: str = "float32",
) -> Path:
    """Write the step of a decoder for one session; a file that is there stays whole until the new one is.

    Args:
        decoder: What to export.
        path: The .onnx file to write.
        session: Whose units; None is the decoder's only one.
        precision: Of the weights: "float32", or "int8" for the large matrices.

    Raises:
        ConfigError: No such precision.
        StreamError: The session is not clear.
        CheckpointError: The decoder has never seen the session, a part of it cannot be exported, or the
            disk refuses.
    """
    require(precision in PRECISIONS, "precision", precision, f"one of {', '.join(PRECISIONS)}")
    session = _only_session(decoder, session)
    rows = _rows(decoder, session)
    check_exportable(decoder)
    with torch.inference_mode():
        model = copy.deepcopy(decoder.model).cpu().double().eval()
        assert isinstance(model, Possm)  # others are not exportable
        made = build(model, rows, decoder.vocabulary.session_row(session), precision=precision)
    layout = [[tensor.name.removeprefix("next."), _shape(tensor)] for tensor in made.graph.output]
    behaviors = len(decoder.config.behaviors)
    content = {
        "format": FORMAT,
        "possm_version": _version(),
        "spec": to_json(_spec(decoder, session, rows)),
        "architecture": {
            "backbone": decoder.config.backbone,
            "size": size_name(decoder.config),
            "precision": precision,
        },
        "state": layout[behaviors:],
        "omega": model.encoder.rotary.omega.tolist(),
        "latent_time_s": model.encoder.latent_time_s,
    }
    helper.set_model_props(made, {"possm": json.dumps(content)})
    try:
        with atomic_path(Path(path)) as temporary:
            temporary.write_bytes(seal(made.SerializeToString()))
    except OSError as error:
        raise CheckpointError(
            "cannot be saved", about=path, got=error, fix="free the disk or choose another folder"
        ) from error
    return Path(path)


def check_exportable(decoder: Decoder) -> None:
    """Whether there is a graph of its step.

    Raises:
        CheckpointError: There is none.
    """
    if not isinstance(decoder.model, Possm):
        raise CheckpointError(
            "only POSSM decoders are exported; this one runs on the torch engine", got=kind_of(decoder.config)
        )
    if not decoder.config.plain or decoder.config.day_layer or decoder.sequences:
        raise CheckpointError(
            "a decoder of several latents, tokens with a value, days or sequences is not exported yet",
            got=f"inputs {', '.join(decoder.config.inputs)}, {decoder.config.num_latents} latents",
            fix="run it on the torch engine",
        )


def size_name(config: PossmConfig) -> str:
    """What to call the size of a decoder: the paper's names, or its numbers."""
    size = (config.width, config.hidden, config.num_layers)
    return {(64, 256, 1): "small", (256, 512, 4): "large"}.get(size) or "{}/{}x{}".format(*size)


def build(model: Possm, rows: np.ndarray, session: int, *, precision: str = "float32") -> ModelProto:
    """The graph of one step.

    Args:
        model: Decoder in float64, where constants are folded.
        rows: (units,) rows of its unit table, the blank unit first; the graph counts units by these.
        session: Row of the session.
        precision: Of the weights.
    """
    graph = Graph(precision=precision)
    latent = encode(graph, model, rows)
    before = model.initial_state(1).backbone
    names = [graph.input(f"state.{i}", "float32", list(x.shape)) for i, x in enumerate(before)]
    hidden, after = STEPS[model.config.backbone](graph, model.backbone, latent, names)
    attended, recent = decode(graph, model, graph.reshape(hidden, 1, 1, model.config.hidden), session)
    kept = model.config.num_context - 1
    counted = graph.constant(np.minimum(np.arange(1, kept + 2), kept))
    seen = graph.node("Gather", counted, "seen")
    for name, readout in zip(model.config.behaviors, model.readouts.values(), strict=True):
        answer, width = _answer(graph, attended, readout, name)
        graph.output(answer, name, "float32", ["queries", width])
    for i, (value, x) in enumerate(zip(after, before, strict=True)):
        graph.output(value, f"next.state.{i}", "float32", list(x.shape))
    graph.output(recent, "next.recent", "float32", [kept, 1, model.config.hidden])
    graph.output(seen, "next.seen", "int64", [1])
    return graph.model()


def _answer(graph: Graph, attended: str, readout: Any, behavior: str) -> tuple[str, int]:
    if not isinstance(readout, ContinuousReadout | CategoryReadout):
        raise CheckpointError(
            "this kind of readout cannot be exported yet", about=behavior, got=type(readout).__name__
        )
    weight = array(readout.linear.weight)
    return graph.linear(attended, weight, array(readout.linear.bias)), len(weight)


def _only_session(decoder: Decoder, session: str | None) -> str:
    known = decoder.vocabulary.sessions
    if session is None and len(known) != 1:
        raise StreamError(
            "an exported decoder is of one session",
            got=f"{len(known)}: {', '.join(known[:5])}",
            fix="name one",
        )
    session = known[0] if session is None else session
    decoder.vocabulary.session_row(session)
    return session


def _rows(decoder: Decoder, session: str) -> np.ndarray:
    vocabulary = decoder.vocabulary
    return np.concatenate([[0], vocabulary.rows_of(session, vocabulary.units_of(session))])


def _spec(decoder: Decoder, session: str, rows: np.ndarray) -> StreamSpec:
    """As of the whole decoder, but for a vocabulary of this session only."""
    vocabulary, kept, _ = decoder.vocabulary.only([session])
    assert np.array_equal(kept, rows)
    spec = replace(spec_of(decoder), vocabulary=vocabulary)
    return replace(spec, scaling=spec.scaling_of(session), session_scaling={})


def _shape(tensor: Any) -> list[int | str]:
    return [d.dim_param or d.dim_value for d in tensor.type.tensor_type.shape.dim]


def _version() -> str:
    from possm import __version__

    return __version__
