"""Categories live: probabilities that equal the batch's, whatever runs the step, and their names."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from stream_helpers import by_behavior, push_all

import toys
from possm.batch import Prediction
from possm.data.formats.hdf5 import write_hdf5
from possm.data.intervals import Intervals
from possm.evaluation.score import decode
from possm.model.decoder import BehaviorConfig
from possm.streaming.export import export_decoder
from possm.streaming.links.csv import CsvSink
from possm.streaming.links.msgpacks import pack_prediction, unpack_prediction
from possm.streaming.live import LiveDecoder
from possm.streaming.rehearsal import randomise
from possm.streaming.stale import StaleConfig, Watchdog
from trial_toys import CLASSES, LABEL, behavior, class_decoder, trial_recording

RECORDING = replace(trial_recording(trials=12), intervals={})
END_S = 9.0


def make_lively(decoder):
    """Random weights under which probabilities move with the spikes, and no class always wins."""
    randomise(decoder.model, torch.Generator().manual_seed(0))
    (readout,) = decoder.model.readouts.values()
    with torch.no_grad():
        readout.linear.weight.mul_(10)
        odds = decode(decoder, RECORDING, Intervals.of([(0.0, END_S)]), warmup_s=0.0)[LABEL].values
        readout.linear.bias.sub_(torch.from_numpy(np.log(odds).mean(axis=0)))


def pushed(engine):
    return push_all(LiveDecoder(engine, origin_s=0.0), RECORDING, until_s=END_S)


@pytest.mark.parametrize("backbone", ["gru", "s4d", "mamba"])
@pytest.mark.parametrize("engine", ["torch", "onnx"])
def test_probabilities_of_a_stream_are_those_of_the_batch(tmp_path, backbone, engine):
    decoder = class_decoder(RECORDING, backbone=backbone)
    make_lively(decoder)
    wanted = decode(decoder, RECORDING, Intervals.of([(0.0, END_S)]), warmup_s=0.0)[LABEL]
    path = export_decoder(decoder, tmp_path / "d.onnx") if engine == "onnx" else decoder
    predictions = pushed(path)
    times_s, values = by_behavior(predictions)[LABEL]
    np.testing.assert_allclose(times_s, wanted.times_s)
    np.testing.assert_allclose(values, wanted.values, atol=1e-4)
    np.testing.assert_allclose(values.sum(axis=1), 1, atol=1e-5)
    assert values.std(axis=0).max() > 0.02
    assert all(prediction.classes == CLASSES for prediction in predictions)


@pytest.mark.parametrize("engine", ["torch", "onnx"])
def test_beside_a_movement(tmp_path, engine):
    made = toys.recording(seconds=12)
    both = {"vel": BehaviorConfig(num_dimensions=2), LABEL: behavior()}
    decoder = toys.decoder_for(made)  # for its scaling
    mixed = class_decoder(made, behaviors=both)
    mixed = replace(mixed, scaling=decoder.scaling)
    wanted = decode(mixed, made, Intervals.of([(0.0, 5.0)]), warmup_s=0.0)[LABEL]
    path = export_decoder(mixed, tmp_path / "d.onnx") if engine == "onnx" else mixed
    predictions = push_all(LiveDecoder(path), made, until_s=5.0)
    np.testing.assert_allclose(by_behavior(predictions)[LABEL][1], wanted.values, atol=1e-4)
    assert {p.behavior: p.classes for p in predictions} == {"vel": (), LABEL: CLASSES}
    assert abs(by_behavior(predictions)["vel"][1].mean()) > 1  # in physical units


def test_a_table_has_a_column_for_each_class(tmp_path):
    live = LiveDecoder(class_decoder(RECORDING))
    sink = CsvSink(tmp_path / "out.csv")
    sink.start(live.behaviors)
    predictions = push_all(live, RECORDING, until_s=1.0)
    for prediction in predictions:
        sink.write(prediction)
    sink.close()
    with (tmp_path / "out.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20
    shown = [[float(row[f"{LABEL}.{i}"]) for i in range(3)] for row in rows]
    np.testing.assert_allclose(shown, np.concatenate([p.values for p in predictions]), rtol=1e-6)


def test_the_command_streams_categories_without_torch(tmp_path):
    decoder = class_decoder(RECORDING)
    path = export_decoder(decoder, tmp_path / "d.onnx")
    write_hdf5(RECORDING, tmp_path / "r.h5")
    (tmp_path / "torch.py").write_text("raise ImportError('not here')")
    words = [str(path), "--source", f"replay:{tmp_path}/r.h5", "--sink", f"csv:{tmp_path}/o.csv"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    subprocess.run([sys.executable, "-m", "possm", "stream", *words], env=environment, check=True)
    with (tmp_path / "o.csv").open() as file:
        rows = list(csv.DictReader(file))
    shown = [[float(row[f"{LABEL}.{i}"]) for i in range(3)] for row in rows]
    begin_s = float(RECORDING.domain.start_s[0])
    wanted = push_all(LiveDecoder(decoder, origin_s=begin_s), RECORDING, start_s=begin_s, until_s=begin_s + 5)
    np.testing.assert_allclose(shown[:100], np.concatenate([p.values for p in wanted]), atol=1e-4)


def test_messages_carry_the_names():
    pytest.importorskip("msgpack")
    prediction = push_all(LiveDecoder(class_decoder(RECORDING)), RECORDING, until_s=0.1)[-1]
    assert unpack_prediction(pack_prediction(prediction)).classes == CLASSES


def answered(values, classes):
    return Prediction(
        "x", np.array([1.0]), np.array([values], np.float32), 0, 0, 1, 1, 0, 0, 0, classes=classes
    )


@pytest.mark.parametrize(
    ("action", "wanted"), [("hold", [0.8, 0.2]), ("zero", [0.5, 0.5]), ("decay", [0.61036, 0.38964])]
)
def test_without_input_all_classes_become_equally_likely(action, wanted):
    now = [0.0]
    config = StaleConfig(action=action, after_ms=100, tau_ms=200)
    dog = Watchdog(config, now=lambda: now[0])
    dog.heard([answered([0.8, 0.2], ("a", "b"))])
    now[0] = 0.3  # stale for one time constant
    (prediction,) = dog.tick()
    np.testing.assert_allclose(prediction.values, [wanted], atol=1e-4)
