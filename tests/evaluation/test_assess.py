"""A decoder beside the Wiener filter: the same samples, the same causality, JSON that is stable, a report."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

import toys
from possm.baselines.wiener import WienerConfig, fit_wiener
from possm.data.series import Spikes
from possm.errors import RecordingError
from possm.evaluation.assess import Assessment, assess, write_assessment
from possm.evaluation.metrics import r2

RECORDING = toys.recording(seconds=40)
DAY2 = toys.recording(seconds=40, session="day2", units=9, seed=5)
DECODER = toys.decoder_for(RECORDING, DAY2)


@pytest.fixture(scope="module")
def assessment() -> Assessment:
    return assess(DECODER, [RECORDING, DAY2])


@pytest.mark.parametrize("lead_ms", [0, 50])
def test_the_wiener_filter_keeps_the_decoders_causality(lead_ms):
    """And is scored on the very samples the decoder is scored on."""
    decoder = toys.decoder_for(RECORDING, lead_ms=lead_ms)
    (score,) = assess(decoder, [RECORDING]).scores
    filters = {strict: fit_wiener(RECORDING, "vel", WienerConfig(strict=strict)) for strict in (True, False)}
    signal = RECORDING.behavior("vel")
    r2s = {}
    for strict, fitted in filters.items():
        times_s, values = fitted.decode(RECORDING, RECORDING.split("test"))
        r2s[strict] = r2(signal.values[np.searchsorted(signal.times_s, times_s)], values)
    assert r2s[True] != r2s[False]
    assert score.r2_wiener == pytest.approx(r2s[lead_ms == 50], abs=1e-9)
    assert score.r2_wiener > 0.5


def test_rows_and_traces(assessment):
    assert [(s.session, s.behavior) for s in assessment.scores] == [("toy", "vel"), ("day2", "vel")]
    for score, trace in zip(assessment.scores, assessment.traces, strict=True):
        assert score.r2 == pytest.approx(r2(trace.target, trace.prediction))
        assert score.r2_wiener == pytest.approx(r2(trace.target, trace.wiener))
        assert trace.unit == "cm/s"
        assert len(trace.times_s) == len(trace.target) == 800
    assert not assessment.warnings


def test_table(assessment):
    lines = assessment.table().splitlines()
    mean, sd = (f([s.r2 for s in assessment.scores]) for f in (np.mean, np.std))
    assert len(lines) == 4
    assert f"{assessment.scores[0].r2_wiener:.3f}" in lines[1]
    assert lines[3].startswith("mean of 2")
    assert f"{mean:.3f}" in lines[3]
    assert f"SD over sessions {sd:.3f}" in lines[3]
    assert len(Assessment(assessment.scores[:1]).table().splitlines()) == 2


def test_scores_json(assessment, tmp_path):
    report = write_assessment(assessment, tmp_path / "new" / "score", decoder=DECODER, recording=RECORDING)
    assert report == tmp_path / "new" / "score" / "report.html"
    rows = json.loads((report.parent / "scores.json").read_text())
    assert [list(row) for row in rows] == [
        ["session", "behavior", "split", "r2", "r2_per_dimension", "seconds", "chunks", "r2_wiener"]
    ] * 2
    assert rows[0]["r2"] == assessment.scores[0].r2
    assert rows[0]["r2_per_dimension"] == assessment.scores[0].r2_per_dimension
    assert isinstance(rows[0]["chunks"], int)
    html = report.read_text()
    assert "Strictly causal" in html
    assert DECODER.hash in html


def test_the_report_says_which_convention(tmp_path):
    decoder = toys.decoder_for(RECORDING, lead_ms=0)
    report = write_assessment(assess(decoder, [RECORDING], wiener=False), tmp_path, decoder=decoder)
    assert "The paper&#x27;s convention" in report.read_text()
    assert json.loads((tmp_path / "scores.json").read_text())[0]["r2_wiener"] is None


def test_an_undefined_score_is_null(tmp_path):
    """JSON has no NaN; a behavior that stands still in the test split has no R2."""
    values = RECORDING.signals["vel"].values.copy()
    values[RECORDING.split("test").contains(RECORDING.signals["vel"].times_s), 1] = 2.0
    still = replace(RECORDING, signals={"vel": replace(RECORDING.signals["vel"], values=values)})
    result = assess(DECODER, [still])
    write_assessment(result, tmp_path, decoder=DECODER)

    def no_constants(text):
        raise AssertionError(f"{text} is not JSON")

    (row,) = json.loads((tmp_path / "scores.json").read_text(), parse_constant=no_constants)
    assert row["r2"] is None
    assert row["r2_per_dimension"][1] is None
    assert row["r2_per_dimension"][0] is not None
    assert row["r2_wiener"] is None
    assert "nan" in result.table()


def test_a_filter_that_cannot_be_fitted_is_a_warning():
    unsplit = {name: i for name, i in RECORDING.intervals.items() if name != "train_domain"}
    result = assess(DECODER, [replace(RECORDING, intervals=unsplit)])
    assert result.scores[0].r2_wiener is None
    assert any("no Wiener filter for toy, vel" in warning for warning in result.warnings)


def test_a_damaged_recording_is_not_scored():
    times_s = RECORDING.spikes.times_s.copy()
    times_s[[100, 5000]] = times_s[[5000, 100]]
    with pytest.raises(RecordingError, match="toy"):
        assess(DECODER, [replace(RECORDING, spikes=Spikes(times_s, RECORDING.spikes.unit))])


def test_other_physical_units_are_told():
    metres = {"vel": replace(RECORDING.signals["vel"], unit="m/s")}
    result = assess(DECODER, [replace(RECORDING, signals=metres)], wiener=False)
    assert any("vel is in m/s" in w and "cm/s" in w for w in result.warnings)
