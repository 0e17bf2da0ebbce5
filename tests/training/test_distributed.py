"""Several processes train as one, resume as any other number, and say plainly that one of them died."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import toys
from possm.batch import Batch
from possm.checkpoint import load_decoder
from possm.data.epochs import TrainingSet
from possm.data.formats.hdf5 import write_hdf5
from possm.data.loader import SampleMaker
from possm.data.scaling import Scaling
from possm.data.vocabulary import Vocabulary
from possm.errors import ConfigError, PossmError
from possm.training.config import TrainConfig
from possm.training.distributed import joined
from possm.training.loop import train
from possm.training.losses import loss_weights, total_loss
from possm.training.presets import PRESETS

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="this torch has no torch.distributed"
)

OPTIONS = """
    --behavior hand.vel --window-s 1 --batch-size 6 --epochs 2 --valid-every 1 --dropout 0 --device cpu
    --width 8 --hidden 8 --min-units-kept 0.7
"""
DIES = """
import os, sys, time
from possm.cli import main
from possm.training.run import Run
def validate(self, progress, whole=Run.validate):
    whole(self, progress)
    if self.processes.rank == 1 and self.epoch == 1:
        while not (self.out / "metrics.jsonl").exists():  # what the first process writes last
            time.sleep(0.01)
        os._exit(3)
Run.validate = validate
sys.exit(main())
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    paths = []
    for day in range(2):
        made = toys.recording(seconds=30, session=f"day{day}", seed=day, units=10)
        paths.append(folder / f"day{day}.h5")
        write_hdf5(replace(made, signals={"hand.vel": made.signals["vel"]}), paths[-1])
    return [str(path) for path in paths]


def run(processes: int, *arguments: str, script: str | None = None) -> subprocess.CompletedProcess[str]:
    """`possm train` in so many processes."""
    command = ["-m", "possm"] if script is None else [script]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    return subprocess.run(
        [sys.executable, *(launch if processes > 1 else []), *command, "train", *arguments],
        capture_output=True,
        text=True,
        timeout=180,
        env=environment,
    )


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_train_as_one_and_the_other_way_goes_on(files, tmp_path):
    """Losses and weights to float tolerance; a run of two is taken up by one."""
    one, two = tmp_path / "one", tmp_path / "two"
    done = run(1, *files, *OPTIONS.split(), "--out", str(one))
    assert done.returncode == 0, done.stderr
    done = run(2, *files, *OPTIONS.split(), "--out", str(two))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("decoder  ") == 1
    for left, right in zip(metrics(one), metrics(two), strict=True):
        for key in ("train_loss", "valid_r2"):
            assert left[key] == pytest.approx(right[key], abs=1e-5), key
    weights = [load_decoder(path / "decoder.safetensors").model.state_dict() for path in (one, two)]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], atol=1e-5, rtol=1e-4)


def test_a_process_that_dies_ends_the_run_and_another_number_goes_on(files, tmp_path):
    script = tmp_path / "dies.py"
    script.write_text(DIES)
    out = tmp_path / "run"
    done = run(2, *files, *OPTIONS.split(), "--out", str(out), script=str(script))
    assert done.returncode != 0
    assert "one of them is gone" in done.stderr, done.stderr
    assert load_decoder(out / "decoder.safetensors").vocabulary.sessions == ("day0", "day1")
    assert len(metrics(out)) == 1
    done = run(1, *files, *OPTIONS.split(), "--out", str(out))
    assert done.returncode == 0, done.stderr
    whole = tmp_path / "whole"
    assert run(1, *files, *OPTIONS.split(), "--out", str(whole)).returncode == 0
    assert metrics(out)[-1]["train_loss"] == pytest.approx(metrics(whole)[-1]["train_loss"], abs=1e-5)


def test_a_fault_of_ones_own_is_not_blamed_on_another(monkeypatch):
    """Such as memory that does not suffice; what is known of another process is."""
    for name, value in {"RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend: None)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    with pytest.raises(RuntimeError, match="shapes do not fit"), joined("cpu"):
        raise RuntimeError("shapes do not fit")
    closed = RuntimeError("[/third_party/gloo/transport/tcp/pair.cc:547] Connection closed by peer")
    for error in (closed, torch.distributed.DistBackendError("NCCL")):
        with pytest.raises(PossmError, match="one of them is gone"), joined("cpu"):
            raise error


def test_what_is_fitted_in_one_go_is_so_by_one_process(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    config = PRESETS["wiener"](TrainConfig(behavior=("vel",)))
    with pytest.raises(ConfigError, match="one process"):
        train([toys.recording(seconds=30)], config, tmp_path)
    assert not list(tmp_path.iterdir())


def test_parts_of_a_batch_make_the_batch_and_shares_make_its_loss():
    """Also where there are fewer windows than processes: those without one add nothing."""
    made = toys.recording(seconds=30)
    maker = SampleMaker(
        recordings=[made],
        vocabulary=Vocabulary.of([made]),
        scaling={"vel": Scaling.fit([made], "vel")},
        chunk_ms=50,
        lead_ms=50,
    )
    whole = TrainingSet(maker=maker, window_s=1.0, batch_size=3)
    parts = [replace(whole, part=(rank, 5)) for rank in range(5)]
    for number in range(whole.num_batches):
        batches = [part.batch(0, number) for part in parts]
        together = whole.batch(0, number)
        weight = sum(batch.targets["vel"].weights.sum() for batch in batches)
        assert weight == together.targets["vel"].weights.sum()
        losses = [loss_of(batch, scale=5 * batch.targets["vel"].weights.sum() / weight) for batch in batches]
        assert np.mean(losses) == pytest.approx(loss_of(together), rel=1e-6)


def loss_of(batch: Batch, scale: float = 1.0) -> float:
    """Of answers that are all 0."""
    batch = batch.to(torch.from_numpy)
    answers = {"vel": torch.zeros_like(batch.targets["vel"].values)}
    assert loss_weights(batch)["vel"] == batch.targets["vel"].weights.sum()
    shares = {"vel": torch.tensor(scale)}
    kinds = {"vel": "continuous"}
    return float(total_loss(answers, batch, kinds=kinds, behavior_weights={}, shares=shares))
