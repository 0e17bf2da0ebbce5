"""What running an exported decoder changes: against PyTorch in float32, and what int8 weights cost.

python benchmarks/quantization.py [--minutes 10] [--json out.json]
    random decoders, all backbones and sizes, a stream of random spikes: largest difference from PyTorch
python benchmarks/quantization.py --decoder decoder.safetensors RECORDING.h5 ... [--split test]
    a trained decoder on real recordings: R2 of the split in PyTorch, and exported in float32 and int8
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from possm.checkpoint import Decoder, load_decoder
from possm.data.formats import load_recording
from possm.data.recording import Recording
from possm.evaluation.metrics import r2
from possm.model.decoder import PossmConfig
from possm.streaming.engines import Engine, open_engine
from possm.streaming.export import PRECISIONS, export_decoder
from possm.streaming.live import LiveConfig, LiveDecoder
from possm.streaming.rehearsal import BEHAVIORS, random_decoder, random_spikes

UNITS, RATE_HZ = 100, 20.0
AT_ONCE = LiveConfig(max_chunks=200)
"""PyTorch decodes many chunks in a step, which differs by rounding only; exported steps are always single."""


def engines(decoder: Decoder, session: str | None, folder: Path) -> Iterator[tuple[str, Engine]]:
    """By name: PyTorch first."""
    yield "torch", open_engine(decoder, name="torch")
    for precision in PRECISIONS:
        path = export_decoder(decoder, folder / f"{precision}.onnx", session=session, precision=precision)
        yield f"onnx {precision}", open_engine(path)


def differences(size: str, backbone: str, minutes: float) -> Iterator[dict[str, object]]:
    """One row for every precision."""
    make = PossmConfig.large if size == "large" else PossmConfig
    decoder = random_decoder(make(backbone=backbone, behaviors=BEHAVIORS), num_units=UNITS)
    times_s, unit = random_spikes(UNITS, rate_hz=RATE_HZ, duration_s=60 * minutes)
    answers: dict[str, np.ndarray] = {}
    with TemporaryDirectory() as folder:
        for name, engine in engines(decoder, None, Path(folder)):
            live = LiveDecoder(engine, config=AT_ONCE)
            answers[name] = np.concatenate([p.values for p in live.push(times_s, unit, 60 * minutes)])
    wanted = answers.pop("torch")
    for name, got in answers.items():
        difference = np.abs(got - wanted)
        yield {
            "size": size,
            "backbone": backbone,
            "engine": name,
            "chunks": len(wanted),
            "largest_difference": float(difference.max()),
            "rms_difference": float(np.sqrt(np.square(difference).mean())),
            "sd_of_answers": float(wanted.std(0).mean()),
        }


def scores(decoder: Decoder, recording: Recording, split: str) -> Iterator[dict[str, object]]:
    """R2 of every behavior and engine, decoded as a stream through each interval of the split."""
    with TemporaryDirectory() as folder:
        for name, engine in engines(decoder, recording.session_id, Path(folder)):
            for behavior, (target, answer) in decode(engine, recording, split).items():
                yield {
                    "recording": recording.name,
                    "behavior": behavior,
                    "engine": name,
                    "samples": len(target),
                    "r2": r2(target, answer),
                }


def decode(engine: Engine, recording: Recording, split: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Behavior -> what was measured and what was decoded."""
    parts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for begin_s, end_s in recording.split(split):
        signals = {name: recording.behavior(name).slice(begin_s, end_s) for name in engine.spec.behaviors}
        live = LiveDecoder(
            engine,
            session=recording.session_id,
            unit_ids=recording.unit_ids,
            origin_s=begin_s,
            output_times_s={name: signal.times_s for name, signal in signals.items()},
            config=AT_ONCE,
        )
        times_s, unit, count = recording.tokens(begin_s, end_s)
        for prediction in live.push(times_s, unit, end_s, count):
            signal = signals[prediction.behavior]
            rows = np.searchsorted(signal.times_s, prediction.times_s)
            parts.setdefault(prediction.behavior, []).append((signal.values[rows], prediction.values))
    return {
        name: (np.concatenate([t for t, _ in pairs]), np.concatenate([a for _, a in pairs]))
        for name, pairs in parts.items()
    }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recordings", nargs="*", type=Path)
    parser.add_argument("--decoder", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--sizes", nargs="+", default=["small", "large"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, object]] = []

    def add(row: dict[str, object]) -> None:
        rows.append(row)
        print(
            " ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items()),
            flush=True,
        )

    if options.decoder is not None:
        decoder = load_decoder(options.decoder)
        for path in options.recordings:
            for row in scores(decoder, load_recording(path).load(), options.split):
                add(row)
    else:
        for size in options.sizes:
            for backbone in ("gru", "s4d", "mamba"):
                for row in differences(size, backbone, options.minutes):
                    add(row)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
