"""The exported graph says what the forward says, whatever the backbone; and says what a host needs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from stream_helpers import BEHAVIORS, UNITS, by_behavior, push_all, random_recording, small_decoder

from possm.batch import Batch, Queries, Tokens
from possm.data.scaling import Scaling
from possm.errors import CheckpointError, ConfigError, StreamError
from possm.model.backbones import BACKBONES
from possm.streaming.export import export_decoder
from possm.streaming.graph_backbones import STEPS
from possm.streaming.live import LiveDecoder
from possm.streaming.onnx_engine import OnnxEngine
from possm.streaming.torch_engine import TorchEngine

ONE = {"cursor.pos": BEHAVIORS["cursor.pos"]}


def random_chunk(rng, *, tokens, queries):
    """One chunk and queries at times of its behaviors, some before and some after its end."""
    times_s = np.sort(rng.uniform(0, 0.05, tokens)).astype(np.float32)
    count = rng.integers(1, 5, tokens).astype(np.float32)
    unit = rng.integers(1, UNITS + 1, tokens)
    asked = {
        name: Queries(np.zeros(number, np.int64), rng.uniform(-0.05, 0.1, number).astype(np.float32))
        for name, number in queries.items()
    }
    offsets = np.array([0, tokens])
    return Batch(Tokens(unit, times_s, count, offsets), np.zeros(1, np.int64), 1, asked)


def engines(folder, **changes):
    decoder = small_decoder(**changes)
    return OnnxEngine(export_decoder(decoder, folder / "d.onnx")), TorchEngine(decoder)


def assert_agree(onnx_engine, torch_engine, batches):
    state, wanted_state = onnx_engine.initial_state(), torch_engine.initial_state()
    for batch in batches:
        answers, state = onnx_engine.step(batch, state)
        wanted, wanted_state = torch_engine.step(batch, wanted_state)
        assert answers.keys() == wanted.keys()
        for name, values in wanted.items():
            np.testing.assert_allclose(answers[name], values, atol=1e-4)
    pairs = zip((*state.backbone, state.recent), (*wanted_state.backbone, wanted_state.recent), strict=True)
    for ours, theirs in pairs:  # the states of S4D add up to large numbers
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * max(1, np.abs(theirs).max(initial=0)))
    np.testing.assert_array_equal(state.seen, wanted_state.seen)


@pytest.mark.parametrize("behaviors", [ONE, BEHAVIORS], ids=["one", "two"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_agrees_with_the_forward(tmp_path, backbone, behaviors):
    rng = np.random.default_rng(0)
    batches = [
        random_chunk(
            rng,
            tokens=int(rng.choice([0, 1, 7, 40])),
            queries={name: int(rng.integers(0, 4)) for name in behaviors},
        )
        for _ in range(60)
    ]
    pair = engines(tmp_path, backbone=backbone, behaviors=behaviors, num_layers=2)
    assert_agree(*pair, batches)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_context": 1},
        {"num_context": 5},
        {"lead_ms": 0},
        {"head_width": 32, "num_rotary_pairs": 16},
        {"chunk_ms": 20},
    ],
    ids=str,
)
def test_every_size_agrees(tmp_path, changes):
    rng = np.random.default_rng(1)
    batches = [random_chunk(rng, tokens=n, queries={"cursor.pos": 2}) for n in (0, 3, 0, 9, 30, 1, 0)]
    assert_agree(*engines(tmp_path, behaviors=ONE, **changes), batches)


def test_an_empty_chunk_is_one_blank_unit(tmp_path):
    """Not merely the same as the forward: the same as a token of row 0 at the start of the chunk."""
    engine, _ = engines(tmp_path, behaviors=ONE, rest=0.0)
    empty = random_chunk(np.random.default_rng(0), tokens=0, queries={"cursor.pos": 1})
    blank = Tokens(np.zeros(1, np.int64), np.zeros(1, np.float32), np.ones(1, np.float32), np.array([0, 1]))
    with_blank = Batch(blank, empty.session, 1, empty.queries)
    other = random_chunk(np.random.default_rng(0), tokens=1, queries={"cursor.pos": 1})
    one, two, three = (
        engine.step(batch, engine.initial_state())[1].backbone[0] for batch in (empty, with_blank, other)
    )
    np.testing.assert_allclose(one, two, atol=2e-5)
    assert np.abs(one - three).max() > 1e-2


def test_a_session_of_several_has_its_own_units(tmp_path):
    own = {"tuesday": {"cursor.pos": Scaling((5.0, -2.0), (3.0, 0.5), "cm")}}
    decoder = replace(small_decoder(sessions=("monday", "tuesday")), session_scaling=own)
    path = export_decoder(decoder, tmp_path / "d.onnx", session="tuesday")
    recording = random_recording(end_s=2.0)
    times_s, unit, _ = recording.tokens(0.0, 2.0)
    answers = {}
    for name, live in (("onnx", LiveDecoder(path)), ("torch", LiveDecoder(decoder, session="tuesday"))):
        answers[name] = by_behavior(live.push(times_s, unit, 2.0))
    for behavior, (_, values) in answers["torch"].items():
        np.testing.assert_allclose(answers["onnx"][behavior][1], values, atol=3e-4)
    assert OnnxEngine(path).spec.scaling["cursor.pos"] == own["tuesday"]["cursor.pos"]
    assert OnnxEngine(path).spec.vocabulary.sessions == ("tuesday",)
    with pytest.raises(CheckpointError, match="never seen"):
        LiveDecoder(path, session="monday")
    with pytest.raises(StreamError, match="one session"):
        export_decoder(decoder, tmp_path / "e.onnx")
    with pytest.raises(CheckpointError, match="never seen"):
        export_decoder(decoder, tmp_path / "e.onnx", session="sunday")
    assert not (tmp_path / "e.onnx").exists()


def test_spec_goes_along(tmp_path):
    engine, torch_engine = engines(tmp_path, lead_ms=20)
    assert engine.spec == torch_engine.spec  # vocabulary, scaling, behaviors, chunk, lead and hash
    onnx.checker.check_model(onnx.load(tmp_path / "d.onnx"))


def test_int8_is_close_and_smaller(tmp_path):
    decoder = small_decoder(width=64, hidden=128, behaviors=ONE)
    paths = [export_decoder(decoder, tmp_path / f"{p}.onnx", precision=p) for p in ("float32", "int8")]
    recording = random_recording()
    exact, rough = (by_behavior(push_all(LiveDecoder(path), recording, until_s=4.0)) for path in paths)
    difference = np.abs(exact["cursor.pos"][1] - rough["cursor.pos"][1])
    assert 0 < difference.max() < 0.1 * exact["cursor.pos"][1].std()
    assert paths[1].stat().st_size < 0.7 * paths[0].stat().st_size
    with pytest.raises(ConfigError, match="precision"):
        export_decoder(decoder, tmp_path / "x.onnx", precision="int3")


def test_a_readout_without_an_export_is_named(tmp_path):
    class Foreign(torch.nn.Module):
        def __init__(self, width, *, num_dimensions):
            super().__init__()
            self.behavior = torch.nn.Embedding(1, width)
            self.own = torch.nn.Linear(width, num_dimensions)

    decoder = small_decoder(behaviors=ONE)
    decoder.model.readouts["@cursor/pos"] = Foreign(16, num_dimensions=2)
    with pytest.raises(CheckpointError, match="Foreign"):
        export_decoder(decoder, tmp_path / "d.onnx")


def test_every_backbone_has_a_step():
    assert STEPS.keys() == BACKBONES.keys()
