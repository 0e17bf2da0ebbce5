from dataclasses import replace

import numpy as np
import pytest

from possm.batch import KINDS
from possm.data.checks import check_recording
from possm.data.features import InputConfig, input_config, measured, normalized
from possm.data.formats.hdf5 import read_hdf5, write_hdf5
from possm.data.intervals import Intervals
from possm.data.loader import SampleMaker
from possm.data.normalize import CausalNormalizer, NormalizeConfig
from possm.data.recording import Binned, Recording
from possm.data.vocabulary import Vocabulary
from possm.data.windows import Window
from possm.errors import ConfigError, RecordingError

UNITS, RATE_HZ = 5, 100.0
BOTH = ("counts", "power")


def recording(*, bins=400, units=UNITS, seed=0, session="monday", **changes):
    rng = np.random.default_rng(seed)
    made = {
        "session_id": session,
        "unit_ids": tuple(f"c{i}" for i in range(units)),
        "binned": Binned(rng.poisson(1.5, (bins, units)).astype(float), 2.0, RATE_HZ),
        "features": {"power": Binned(rng.gamma(3.0, 20.0, (bins, units)).astype(np.float32), 2.0, RATE_HZ)},
        "domain": Intervals.of([(2.0, 2.0 + bins / RATE_HZ)]),
    }
    return Recording(**{**made, **changes})


def maker_of(*recordings, inputs=BOTH, chunk_ms=20, vocabulary=None):
    return SampleMaker(
        recordings=recordings,
        vocabulary=vocabulary or Vocabulary.of(recordings),
        scaling={},
        chunk_ms=chunk_ms,
        lead_ms=0,
        inputs=input_config(recordings, inputs, NormalizeConfig()),
    )


@pytest.mark.parametrize("lazy", [True, False])
def test_features_survive_the_native_file(tmp_path, lazy):
    made = recording()
    write_hdf5(made, tmp_path / "a.h5")
    with read_hdf5(tmp_path / "a.h5", lazy=lazy) as read:
        assert list(read.features) == ["power"] and not read.signals
        power = read.features["power"]
        assert power.clock == made.features["power"].clock
        np.testing.assert_array_equal(power.values[:], made.features["power"].values)
        part = read.slice(3.0, 3.5).features["power"]
        np.testing.assert_array_equal(part.values, made.features["power"].values[100:150])


def test_a_window_holds_the_normalized_values_of_its_bins():
    """Bin by bin, kind by kind, unit by unit; normalized from the first bin of the recording on."""
    made = recording()
    maker = maker_of(made)
    sample = maker.sample_at(Window(0, 3.0, 6.0), num_chunks=6, times_s={})
    values = sample.values
    normalize = CausalNormalizer(UNITS, rate_hz=RATE_HZ)
    wanted = np.stack(
        [normalize(made.binned.values)[0], normalize(made.features["power"].values)[0]], axis=1
    )  # (bins, kinds, units)
    np.testing.assert_array_equal(values.value, wanted[100:112].reshape(1, 6, 2 * 2 * UNITS))
    assert (values.size == 2 * 2 * UNITS).all() and not len(sample.tokens.unit)
    np.testing.assert_array_equal(values.unit, np.tile(maker.rows[0], 4)[None])
    kinds = np.tile(np.repeat([KINDS["counts"], KINDS["power"]], UNITS), 2)
    np.testing.assert_array_equal(values.kind, kinds[None])
    np.testing.assert_array_equal(
        values.time_s, np.repeat([0.005, 0.015], 2 * UNITS).astype(np.float32)[None]
    )


def test_past_the_limit_of_a_window_there_are_no_values():
    sample = maker_of(recording()).sample_at(Window(0, 3.0, 3.05), num_chunks=4, times_s={})
    np.testing.assert_array_equal(sample.values.size, [[20, 20, 10, 0]])
    assert not sample.values.value[0, 2, 10:].any() and not sample.values.value[0, 3].any()


def test_the_future_changes_no_bit_of_the_past():
    made = recording()
    values = made.features["power"].values.copy()
    values[200:] *= 7
    other = replace(made, features={"power": replace(made.features["power"], values=values)})
    one, two = (
        maker_of(r).sample_at(Window(0, 2.0, 6.0), num_chunks=200, times_s={}).values.value[0]
        for r in (made, other)
    )
    np.testing.assert_array_equal(one[:100], two[:100])
    assert (one[100:] != two[100:]).any()


def test_unknown_units_are_left_out():
    made = recording()
    known = Vocabulary(("", "monday/c1", "monday/c3"), ("monday",))
    values = maker_of(made, vocabulary=known).sample_at(Window(0, 2.0, 6.0), num_chunks=3, times_s={}).values
    np.testing.assert_array_equal(values.unit, [[1, 2] * 4])
    full = maker_of(made).sample_at(Window(0, 2.0, 6.0), num_chunks=3, times_s={}).values
    np.testing.assert_array_equal(values.value, full.value[..., full.unit[0] % 2 == 0])


def test_spikes_and_values_together():
    made = recording()
    sample = maker_of(made, inputs=("spikes", "power")).sample_at(
        Window(0, 2.0, 6.0), num_chunks=3, times_s={}
    )
    assert len(sample.tokens.unit) and (sample.values.kind == KINDS["power"]).all()


def test_bins_of_zeros():
    """No counts at all is silence; no power at all is a lost packet, and answered with the mean."""
    zeros = np.zeros((3, UNITS))
    assert not measured("counts", zeros).any()
    assert np.isnan(measured("power", zeros)).all()
    made = recording()
    made.features["power"].values[50:60] = 0
    made.binned.values[50:60] = 0
    table = normalized(made, InputConfig(inputs=BOTH, rate_hz=RATE_HZ)).values
    assert not table[50:60, UNITS:].any() and (table[50:60, :UNITS] < 0).all()
    assert "power: 10 of 400 bins are 0 on all channels, taken as missing" in check_recording(made)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": {}}, "no power in bins"),
        ({"features": {"lfp": Binned(np.ones((400, UNITS)), 2.0, RATE_HZ)}}, "got: counts, lfp"),
    ],
)
def test_missing_power_is_named(changes, message):
    with pytest.raises(RecordingError, match=message):
        maker_of(recording(**changes))


@pytest.mark.parametrize(
    ("power", "message"),
    [
        (Binned(np.ones((400, UNITS + 1)), 2.0, RATE_HZ), "'power' does not fit the units"),
        (Binned(np.ones((400, UNITS)), 2.0, RATE_HZ / 2), "another clock"),
        (Binned(np.ones((399, UNITS)), 2.0, RATE_HZ), "another clock"),
    ],
)
def test_a_feature_that_does_not_fit_is_refused(power, message):
    with pytest.raises(RecordingError, match=message):
        recording(features={"power": power})


def test_bins_of_another_length_are_refused():
    made = recording()
    slow = Recording(
        session_id="tuesday",
        unit_ids=made.unit_ids,
        domain=made.domain,
        binned=Binned(np.ones((100, UNITS)), 2.0, 50.0),
    )
    with pytest.raises(ConfigError, match="differ in the length of their bins"):
        input_config([made, slow], ("counts",), NormalizeConfig())
    with pytest.raises(ConfigError, match="another length"):
        normalized(slow, InputConfig(inputs=("counts",), rate_hz=RATE_HZ))
    with pytest.raises(ConfigError, match="whole number of bins"):
        InputConfig(inputs=BOTH, rate_hz=RATE_HZ).bins_in(15)


def test_a_feature_without_a_value_is_an_error():
    with pytest.raises(RecordingError, match="not measured at all"):
        check_recording(recording(features={"power": Binned(np.zeros((400, UNITS)), 2.0, RATE_HZ)}))


def test_what_looks_wrong_is_counted():
    made = recording()
    made.features["power"].values[:, 2] = 4
    made.features["power"].values[7, 1] = np.nan
    found = check_recording(made)
    assert "power: 1 of 400 bins of the domain hold NaN" in found
    assert "power: 1 of 5 channels never change" in found


def test_sequences_of_fewer_channels_are_filled_up():
    from possm.data.chunks import collate

    one, two = recording(), recording(units=3, session="tuesday", seed=1)
    maker = maker_of(one, two)
    samples = [maker.sample_at(Window(i, 2.0, 6.0), num_chunks=2, times_s={}) for i in range(2)]
    values = collate(samples).values
    assert values.value.shape == (2, 2, 20) and (values.size == [[20, 20], [12, 12]]).all()
    assert not values.unit[1, 12:].any() and values.unit[1, :12].all()
    np.testing.assert_array_equal(values.value[1, :, :12], samples[1].values.value[0])
