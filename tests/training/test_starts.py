"""Where the rows of a new session start: the same electrode, days before, and what there is instead."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import toys
from possm.baselines.speech_gru import SpeechGru, SpeechGruConfig
from possm.data.components import component_loadings
from possm.data.recording import Binned
from possm.data.vocabulary import Vocabulary
from possm.errors import ConfigError
from possm.training.config import TrainConfig
from possm.training.finetune import FinetuneConfig, adapted_start
from possm.training.loop import train
from possm.training.neighbours import earlier_sessions, find_neighbours
from possm.training.presets import PRESETS
from possm.training.start import begin_by_components, fresh_start

IDS = ("a1", "a2", "b1", "c1")
DATE = "session.recording_date"


def session_of(day, *, electrodes=(1, 1, 2, 3), ids=IDS, subject="M", units=4):
    """A short recording on an array; `day` None has no date."""
    made = toys.recording(session=f"{subject}{day}", seconds=20, units=units, seed=hash(str(day)) % 1000)
    columns = {} if electrodes is None else {"electrode": np.array(electrodes)}
    attributes = {} if day is None else {DATE: day}
    return replace(made, subject_id=subject, unit_ids=ids, unit_columns=columns, attributes=attributes)


def rows(decoder, recording):
    return decoder.vocabulary.unit_rows(recording).tolist()


def found(decoder, recording):
    near = find_neighbours(recording, decoder.vocabulary)
    return near.session, [row.tolist() for row in near.units], near.by_electrode


def test_the_nearest_day_before():
    """Whatever the order of the vocabulary and the form of the date; later days and other animals are out."""
    known = [
        session_of("2012-08-02"),
        session_of("20120710"),
        session_of("2012-09-05 09:30:00"),
        session_of("2012-08-19", subject="J"),
        session_of("2012-08-17T10:00:00"),
    ]
    vocabulary = toys.decoder_for(*known).vocabulary
    today = session_of("2012-08-20")
    assert earlier_sessions(today, vocabulary) == ["M2012-08-17T10:00:00", "M2012-08-02", "M20120710"]
    assert earlier_sessions(replace(today, subject_id=None), vocabulary) == []
    undated = replace(today, attributes={})
    assert earlier_sessions(undated, vocabulary)[0] == "M2012-08-17T10:00:00"  # the last known
    assert len(earlier_sessions(undated, vocabulary)) == 4


def test_units_of_an_electrode():
    """One of the same name, else the mean of all on the electrode; a name elsewhere says nothing."""
    known = session_of("2012-08-01")
    decoder = toys.decoder_for(known)
    a1, a2, b1, c1 = rows(decoder, known)
    today = session_of("2012-08-02", electrodes=(1, 1, 3, 9), ids=("a1", "new", "b1", "c1"))
    assert found(decoder, today) == (known.session_id, [[a1], [a1, a2], [c1], []], 3)


def test_an_electrode_that_was_silent_yesterday():
    """Its unit of the day before counts, the others are of yesterday."""
    older, yesterday = session_of("2012-08-01"), session_of("2012-08-02", electrodes=(1, 1, 2, 7))
    decoder = toys.decoder_for(older, yesterday)
    a1, a2, b1, _ = rows(decoder, yesterday)
    old_c1 = rows(decoder, older)[3]
    assert found(decoder, session_of("2012-08-03"))[1] == [[a1], [a2], [b1], [old_c1]]


def test_without_electrodes_the_unit_id():
    known = session_of("2012-08-01", electrodes=None)
    decoder = toys.decoder_for(known)
    a1, _, b1, _ = rows(decoder, known)
    today = session_of("2012-08-02", ids=("b1", "x", "a1", "y"))
    assert found(decoder, today) == (known.session_id, [[b1], [], [a1], []], 0)


def test_rows_begin_where_they_should():
    known, other = session_of("2012-08-01"), session_of("2012-08-01", subject="J")
    decoder = toys.decoder_for(known, other)
    today = session_of("2012-08-02", electrodes=(2, 1, 3, 9), ids=("b1", "new", "c1", "d1"))
    start = adapted_start(decoder, [today], FinetuneConfig(start="electrode", window_s=1.0))
    old, new = decoder.model.state_dict(), start.model.state_dict()
    a1, a2, b1, c1 = rows(decoder, known)
    unit, before = new["token.unit.weight"][-4:], old["token.unit.weight"]
    assert torch.equal(unit[0], before[b1])
    torch.testing.assert_close(unit[1], (before[a1] + before[a2]) / 2)
    assert torch.equal(unit[2], before[c1])
    assert unit[3].abs().max() < 0.1  # N(0, 0.02^2), the others are N(0, 0.2^2)
    assert torch.equal(new["session.weight"][-1], old["session.weight"][0])
    counts = {name: n for name, n in start.summary.items() if name.startswith("units_from")}
    assert counts == {"units_from_electrode": 3, "units_from_id": 0, "units_from_random": 1}
    assert start.provenance["started_from"] == {today.session_id: known.session_id}


def test_days_that_are_trained_together_begin_alike_by_electrode():
    """Not those of another animal, nor what was on no electrode before."""
    first, other = session_of("2012-08-01"), session_of("2012-08-01", subject="J")
    second = session_of("2012-08-02", electrodes=(2, 1, 3, 9), ids=("b1", "new", "c1", "d1"))
    third = session_of("2012-08-03", electrodes=(9, 3, 2, 1), ids=("d1", "c1", "b1", "a2"))
    config = TrainConfig(behavior=("vel",), decoder=toys.tiny_config())
    start = fresh_start([first, other, second, third], config)
    table = start.model.token.unit.weight
    a1, a2, b1, c1 = table[1:5]
    assert torch.equal(table[9:12], torch.stack([b1, a1, c1]))  # "new" is on the electrode of a1 and a2
    assert torch.equal(table[13:17], torch.stack([table[12], c1, b1, a1]))
    assert len({tuple(row.tolist()) for row in table[1:9]} | {tuple(table[12].tolist())}) == 9
    assert not torch.equal(a1, a2)


def test_a_new_animal_begins_at_random_and_its_session_at_the_mean():
    decoder = toys.decoder_for(session_of("2012-08-01"), session_of("2012-08-02"))
    today = session_of("2012-08-03", subject="J")
    start = adapted_start(decoder, [today], FinetuneConfig(start="electrode", window_s=1.0))
    new = start.model.state_dict()
    torch.testing.assert_close(new["session.weight"][2], new["session.weight"][:2].mean(dim=0))
    assert start.summary["units_from_random"] == 4
    paper = adapted_start(decoder, [today], FinetuneConfig(start="random", window_s=1.0)).model.state_dict()
    assert paper["session.weight"][2].abs().max() < 0.1
    assert torch.equal(paper["token.unit.weight"][-4:], new["token.unit.weight"][-4:])


def test_a_checkpoint_remembers_electrodes_and_dates(tmp_path):
    from possm.checkpoint import load_decoder, save_decoder

    known = session_of("2012-08-01")
    path = save_decoder(toys.decoder_for(known), tmp_path / "d.safetensors")
    vocabulary = load_decoder(path).vocabulary
    assert vocabulary.electrodes == ("", "1", "1", "2", "3")
    assert vocabulary.dates == {known.session_id: "2012-08-01"}


@pytest.mark.parametrize("keep", [True, False])
def test_units_that_go_together_begin_alike(keep):
    """Two groups of units, each with a signal of its own; the rows that are known lie in a plane."""
    decoder = toys.decoder_for(session_of("2012-08-01", units=4), toys.recording(session="b", units=20))
    known = decoder.model.get_parameter("token.unit.weight")
    width = known.shape[1]
    axes = torch.linalg.qr(torch.randn(width, 2, generator=torch.Generator().manual_seed(0)))[0].T
    far = torch.randn(len(known) - 1, 2, generator=torch.Generator().manual_seed(1))
    far = torch.linalg.qr(far - far.mean(dim=0))[0] * len(far) ** 0.5  # deviation 1, then 3 and 1
    with torch.no_grad():
        known[1:] = 0.5 + (far * torch.tensor([3.0, 1.0])) @ axes
    today = in_two_groups()
    start = adapted_start(decoder, [today], FinetuneConfig(start="components", window_s=1.0, keep=keep))
    new = start.model.state_dict()
    rows = new["token.unit.weight"][-8:].detach() - 0.5
    spread = rows @ axes.T
    torch.testing.assert_close(spread @ axes, rows, atol=1e-4, rtol=0)  # in the plane of the known ones
    fast, slow = spread[::2], spread[1::2]
    assert (fast.std(dim=0) < 0.8).all() and (slow.std(dim=0) < 0.8).all()
    assert (fast.mean(dim=0) - slow.mean(dim=0)).norm() > 3
    torch.testing.assert_close(spread.square().mean(dim=0), torch.tensor([9.0, 1.0]), atol=1e-3, rtol=0)
    torch.testing.assert_close(
        new["session.weight"][-1], decoder.model.get_parameter("session.weight").mean(dim=0).detach()
    )
    assert start.summary["units_from_components"] == 8


def in_two_groups(seconds=60.0):
    """Even units fire with one slow signal, odd ones with another, half as strong."""
    rng = np.random.default_rng(0)
    made = toys.recording(session="today", seconds=seconds, units=8)
    rate = 4 * np.exp(toys.smooth(rng, round(seconds * 20), rate_hz=20.0) * [0.8, 0.4])
    counts = rng.poisson(rate[:, [0, 1] * 4]).astype(np.float32)
    return replace(made, spikes=None, binned=Binned(counts, 0.0, 20.0))


@pytest.mark.parametrize("name", ["possm-gru", "gru", "mlp", "ndt2", "poyo"])
def test_from_scratch_units_that_go_together_begin_alike(name):
    """Directions at right angles, times loadings, and a tenth of what was random."""
    today = replace(toys.recording(units=8), subject_id="J")
    config = PRESETS[name](TrainConfig(behavior=("vel",), window_s=1.0))
    random = dict(fresh_start([today], config).model.named_parameters())
    begun = dict(fresh_start([today], replace(config, unit_start="components")).model.named_parameters())
    changed = [name for name, rows in begun.items() if not torch.equal(rows, random[name])]
    assert changed
    loadings = torch.from_numpy(component_loadings(today, chunk_ms=50)).float()
    for table in changed:
        made = (begun[table] - 0.1 * random[table]).detach()[1:].flatten(1)
        size = float(2 * random[table].detach().std())
        wanted = size**2 * made.shape[1] / loadings.shape[1] * loadings @ loadings.T
        torch.testing.assert_close(made @ made.T, wanted, atol=1e-4 * float(wanted.max()), rtol=1e-3)
        assert torch.equal(begun[table][0], random[table][0])  # the blank unit


def test_days_of_an_array_begin_alike_by_components_too():
    days = [
        replace(in_two_groups(), session_id=name, attributes={DATE: name})
        for name in ("2012-08-01", "2012-08-02")
    ]
    config = TrainConfig(behavior=("vel",), decoder=toys.tiny_config(), window_s=1.0, unit_start="components")
    rows = fresh_start(days, config).model.state_dict()["token.unit.weight"]
    assert torch.equal(rows[1:9], rows[9:17])


def test_rows_must_be_there_to_begin(tmp_path):
    with pytest.raises(ConfigError, match="unit-start random"):
        begin_by_components(SpeechGru(SpeechGruConfig(), num_units=4, num_sessions=1), Vocabulary(), [])
    with pytest.raises(ConfigError, match="unit_start"):
        TrainConfig(behavior=("vel",), unit_start="electrode")
    closed = PRESETS["wiener"](TrainConfig(behavior=("vel",), unit_start="components"))
    with pytest.raises(ConfigError, match="in one go"):
        train([toys.recording()], closed, tmp_path)
