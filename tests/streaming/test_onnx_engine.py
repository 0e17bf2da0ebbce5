"""The stream on ONNX Runtime: like PyTorch's, without torch, and safe against files that are not right."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from stream_helpers import SESSION, assert_same, by_behavior, push_all, random_recording, small_decoder

from possm.data.formats.hdf5 import write_hdf5
from possm.errors import CheckpointError, StreamError
from possm.model.decoder import PossmConfig
from possm.streaming.engines import Engine, open_engine
from possm.streaming.export import export_decoder
from possm.streaming.live import LiveConfig, LiveDecoder
from possm.streaming.onnx_engine import BLOCK, FORMAT, OnnxEngine, TokenBasis
from possm.streaming.sealed import LENGTH, check_seal, seal
from possm.streaming.torch_engine import TorchEngine


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A decoder and its file."""
    decoder = small_decoder()
    return decoder, export_decoder(decoder, tmp_path_factory.mktemp("onnx") / "d.onnx")


def test_a_file_is_opened_by_its_name(exported):
    engine = open_engine(exported[1])
    assert isinstance(engine, OnnxEngine) and isinstance(engine, Engine)
    assert isinstance(open_engine(str(exported[1]), name="onnx"), OnnxEngine)
    assert isinstance(open_engine(exported[0]), TorchEngine)


def test_a_stream_agrees_with_pytorch(exported):
    recording = random_recording(end_s=60.0)
    answers = [
        by_behavior(push_all(LiveDecoder(decoder, output_rate_hz=100.0), recording, until_s=60.0))
        for decoder in exported
    ]
    for name, (times_s, values) in answers[0].items():
        np.testing.assert_array_equal(times_s, answers[1][name][0])
        np.testing.assert_allclose(answers[1][name][1], values, atol=1e-4)


def test_several_chunks_a_step_are_the_same_as_one_by_one(exported):
    recording = random_recording()
    times_s, unit, _ = recording.tokens(0.0, 4.0)
    one, all_at_once = (
        by_behavior(
            LiveDecoder(exported[1], output_rate_hz=70.0, config=LiveConfig(max_chunks=number)).push(
                times_s, unit, 4.0
            )
        )
        for number in (1, 33)
    )
    for name in one:
        np.testing.assert_array_equal(one[name][1], all_at_once[name][1])


def test_save_and_resume(exported, tmp_path):
    recording = random_recording()
    whole = push_all(LiveDecoder(exported[1]), recording, until_s=4.0)
    first = LiveDecoder(exported[1])
    begun = push_all(first, recording, until_s=2.0)
    second = LiveDecoder.resume(first.save(tmp_path / "s.safetensors"), exported[1])
    assert_same(begun + push_all(second, recording, until_s=4.0, start_s=2.0), whole)


def test_the_state_fits_pytorch(exported):
    """A stream can be handed from one engine to the other."""
    recording = random_recording()
    whole = by_behavior(push_all(LiveDecoder(exported[0]), recording, until_s=4.0))
    live = LiveDecoder(exported[1])
    begun = push_all(live, recording, until_s=2.0)
    live.swap(exported[0])
    mixed = by_behavior(begun + push_all(live, recording, until_s=4.0, start_s=2.0))
    for name, (_, values) in whole.items():
        np.testing.assert_allclose(mixed[name][1], values, atol=1e-4)


WITHOUT_TORCH = """
import json, re, sys, time
from pathlib import Path
began = time.perf_counter()
from possm.streaming.live import LiveDecoder
live = LiveDecoder(sys.argv[1])
predictions = live.push([0.01, 0.02], [1, 2], 0.05)
print(json.dumps({
    "took_s": time.perf_counter() - began,
    "loaded": sorted(sys.modules),
    "mb": int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024,
    "values": predictions[0].values.tolist(),
}))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_without_torch(exported):
    best = min(
        (
            json.loads(subprocess.check_output([sys.executable, "-c", WITHOUT_TORCH, str(exported[1])]))
            for _ in "12"
        ),
        key=lambda run: run["took_s"],
    )
    assert "onnxruntime" in best["loaded"]
    assert not {"torch", "onnx", "scipy", "matplotlib", "h5py"} & set(best["loaded"])
    assert best["took_s"] < 1.5
    assert best["mb"] < 150
    wanted = LiveDecoder(exported[0]).push([0.01, 0.02], [1, 2], 0.05)[0].values
    np.testing.assert_allclose(best["values"], wanted, atol=1e-5)


def test_the_command_streams_without_torch(exported, tmp_path):
    write_hdf5(random_recording(), tmp_path / "r.h5")
    (tmp_path / "torch.py").write_text("raise ImportError('not here')")
    words = [str(exported[1]), "--source", f"replay:{tmp_path}/r.h5", "--sink", f"csv:{tmp_path}/o.csv"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "possm", "stream", *words], env=environment, check=True)
    assert time.perf_counter() - began < 30
    assert len((tmp_path / "o.csv").read_text().splitlines()) > 80


def refused(content, path, match):
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=match):
        OnnxEngine(path)


def test_cut_short(exported, tmp_path):
    content = exported[1].read_bytes()
    for size in [0, 1, 50, 1000, len(content) // 2, len(content) - LENGTH, len(content) - 1]:
        refused(content[:size], tmp_path / "cut.onnx", "cut short|no decoder")


def test_every_flipped_bit_is_found(exported, tmp_path):
    content = exported[1].read_bytes()
    rng = random.Random(0)
    places = [rng.randrange(8 * len(content)) for _ in range(300)]
    places += range(8 * (len(content) - LENGTH), 8 * len(content))  # every bit of the seal
    for place in places:
        changed = bytearray(content)
        changed[place // 8] ^= 1 << place % 8
        with pytest.raises(CheckpointError):
            check_seal(bytes(changed), "x")
    refused(bytes(changed), tmp_path / "flipped.onnx", "damaged")


def test_foreign_files(tmp_path):
    node = helper.make_node("Abs", ["x"], ["y"])
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    model = helper.make_model(helper.make_graph([node], "g", [x], [y]), ir_version=10)
    refused(model.SerializeToString(), tmp_path / "a.onnx", "no decoder that possm exported")
    refused(seal(model.SerializeToString()), tmp_path / "b.onnx", "does not say")
    refused(b"not onnx at all", tmp_path / "c.onnx", "no decoder")
    refused(seal(b"possm"), tmp_path / "d.onnx", "cannot run")
    helper.set_model_props(model, {"possm": json.dumps({"format": 99})})
    refused(seal(model.SerializeToString()), tmp_path / "e.onnx", "another version")
    helper.set_model_props(model, {"possm": json.dumps({"format": FORMAT})})
    refused(seal(model.SerializeToString()), tmp_path / "f.onnx", "does not say")
    with pytest.raises(CheckpointError, match="no such file"):
        OnnxEngine(tmp_path / "nowhere.onnx")


def test_a_sealed_file_is_still_onnx(exported):
    model = onnx.load(exported[1])
    assert model.producer_name == "possm"
    assert {entry.key for entry in model.metadata_props} == {"possm", "possm.sha256"}


def test_other_units(exported):
    with pytest.raises(StreamError, match="none of the stream's units"):
        LiveDecoder(exported[1], unit_ids=("x", "y"))
    with pytest.raises(CheckpointError, match="never seen"):
        LiveDecoder(exported[1], session="tuesday")
    live = LiveDecoder(exported[1], session=SESSION, unit_ids=("3", "x"))
    live.push([0.01, 0.02], [0, 1], 0.05)
    assert live.counts.used == 1 and live.counts.unknown == 1


def test_without_onnxruntime(exported, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(StreamError, match=r"possm\[onnx\]"):
        OnnxEngine(exported[1])


@pytest.mark.parametrize("tokens", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7])
@pytest.mark.parametrize("t_min_s", [1e-2, PossmConfig().encoder_t_min_s])
def test_the_basis_is_cosines_and_sines_of_the_time_since_the_latent(tokens, t_min_s):
    omega = 2 * np.pi / np.geomspace(t_min_s, 10, 16)
    time_s = np.random.default_rng(tokens).uniform(0, 0.05, tokens).astype(np.float32)
    angle = (time_s[:, None].astype(float) - 0.025) * omega
    made = TokenBasis(omega, 0.025)(time_s)
    assert made.dtype == np.float32
    # float32 rounds the time, the frequency and the angle: each by 6e-8 of a largest angle of 0.025 omega
    bound = 4 * 6e-8 * 0.025 * omega.max() + 1e-6
    np.testing.assert_allclose(made, np.concatenate([np.cos(angle), np.sin(angle)], axis=1), atol=bound)


def test_threads_do_not_disturb_each_other():
    """Two streams of one decoder, each in a thread of its own."""
    basis = TokenBasis(2 * np.pi / np.geomspace(1e-4, 10, 16), 0.025)
    times_s = np.random.default_rng(0).uniform(0, 0.05, (2, BLOCK)).astype(np.float32)
    wanted = [basis(each) for each in times_s]
    with ThreadPoolExecutor(2) as threads:
        same = threads.map(
            lambda number: all(np.array_equal(basis(times_s[number]), wanted[number]) for _ in range(300)),
            (0, 1),
        )
    assert all(same)
