import json
from dataclasses import replace

import pytest
import torch

from possm.errors import ConfigError
from possm.model.decoder import BehaviorConfig, Possm, PossmConfig
from possm.training.loop import train
from possm.training.optim import OptimConfig
from possm.training.reconstruct import reconstruct
from possm.training.run import Run
from possm.training.start import fresh_start
from speech_toys import config_of, spoken
from toys import TINY


def run_of(tmp_path, **changes):
    return Run(fresh_start([spoken(sentences=30)], config_of(**changes)), tmp_path)


def told_after(tmp_path, steps):
    run = run_of(tmp_path / str(steps))
    optim = OptimConfig(learning_rate=2e-2)
    return run, reconstruct(run.model, run._batches_of, steps=steps, optim=optim)


def test_latents_come_to_tell_the_values(tmp_path):
    """Twenty channels say which of six things is the case; latents of 2 x 16 numbers can hold that."""
    _, before = told_after(tmp_path, 1)
    run, after = told_after(tmp_path, 60)
    assert before < 0.1 < 0.3 < after
    fresh = fresh_start([spoken(sentences=30)], config_of()).model.state_dict()
    moved = {name for name, tensor in run.model.state_dict().items() if not torch.equal(tensor, fresh[name])}
    assert moved and all(name.startswith(("token.", "encoder.")) for name in moved)
    assert {"token.unit.weight", "token.value.weight", "encoder.latent"} <= moved


def test_a_run_of_two_phases_begins_with_what_the_first_found(tmp_path):
    recording = spoken(sentences=12)
    one = train([recording], config_of(epochs=1, reconstruct_steps=3), tmp_path / "two")
    other = train([recording], config_of(epochs=1), tmp_path / "one")
    again = train([recording], config_of(epochs=1, reconstruct_steps=3), tmp_path / "again")
    name = "encoder.to_key_value.weight"
    weights = [result.decoder.model.state_dict()[name] for result in (one, other, again)]
    assert not torch.equal(weights[0], weights[1]) and torch.equal(weights[0], weights[2])
    assert json.loads((tmp_path / "two" / "config.json").read_text())["reconstruct_steps"] == 3


def test_what_reads_no_values_has_no_first_phase(tmp_path):
    config = PossmConfig(**TINY, behaviors={"vel": BehaviorConfig(num_dimensions=2)})
    model = Possm(config, num_units=3, num_sessions=1)
    with pytest.raises(ConfigError, match="reconstruct_steps"):
        reconstruct(model, lambda epoch: iter(()), steps=1, optim=OptimConfig())
    with pytest.raises(ConfigError, match="reconstruct_steps"):
        replace(config_of(), reconstruct_steps=-1)
