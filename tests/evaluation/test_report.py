"""The report: one file that holds everything, whatever is missing and whatever a session is called."""

import re
from base64 import b64decode
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from possm.errors import ConfigError
from possm.evaluation import figures, report
from possm.evaluation.report import Raster, ReportData, Trace, write_report

EVIL = "<script>alert('x')</script> & $\\frac{$ 神経"


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Drawing is most of the time these tests take."""
    monkeypatch.setattr(figures, "DPI", 30)


class Page(HTMLParser):
    """Tags with their attributes, text, and whether every tag is closed."""

    VOID = ("meta", "img")

    def __init__(self, source):
        super().__init__()
        self.tags, self.text, self.open = [], "", []
        self.feed(source)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    @property
    def images(self):
        return [attrs for tag, attrs in self.tags if tag == "img"]


def trace(session="day 1", dimensions=2, samples=400, wiener=True, rate_hz=20.0):
    rng = np.random.default_rng(0)
    target = np.cumsum(rng.normal(size=(samples, dimensions)), axis=0)
    return Trace(
        session=session,
        behavior="cursor.pos",
        times_s=100 + np.arange(samples) / rate_hz,
        target=target,
        prediction=target + rng.normal(size=target.shape),
        wiener=target + 2 * rng.normal(size=target.shape) if wiener else None,
        unit="cm",
    )


def row(session="day 1", **changes):
    plain = {
        "session": session,
        "behavior": "cursor.pos",
        "split": "test",
        "r2": 0.8125,
        "r2_per_dimension": [0.75, 0.875],
        "r2_wiener": 0.5625,
        "seconds": 1234.0,
        "chunks": 24680,
    }
    return {**plain, **changes}


def raster(session="day 1"):
    rng = np.random.default_rng(1)
    times_s = np.sort(rng.uniform(105, 110, 300))
    return Raster(
        session=session,
        times_s=times_s,
        unit=rng.integers(0, 30, 300),
        num_units=30,
        start_s=105.0,
        end_s=110.0,
    )


TRAINING = [{"epoch": e, "train_loss": 1 / (e + 1), "valid_r2": 1 - 1 / (e + 1)} for e in range(10)]


def written(data, tmp_path):
    path = write_report(tmp_path / "deep" / "report.html", data)
    assert path == tmp_path / "deep" / "report.html"
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    source = path.read_text(encoding="utf-8")
    return source, Page(source)


def full(**changes):
    data = ReportData(
        rows=[row()],
        traces=[trace()],
        raster=raster(),
        training=TRAINING,
        latency={"step_p50_ms": 1.25},
        provenance={"decoder": "abc", "config": {"chunk_ms": 50}, "seeds": [0, 1]},
    )
    return replace(data, **changes)


def test_holds_every_figure_and_fetches_nothing(tmp_path):
    source, page = written(full(), tmp_path)
    assert [image["alt"] for image in page.images] == [
        "R2 by session",
        "Decoded against true",
        "Residuals",
        "Spikes and decoded movement",
        "Learning curves",
    ]
    for image in page.images:
        kind, data = image["src"].split(",", 1)
        assert kind == "data:image/png;base64"
        assert b64decode(data).startswith(b"\x89PNG")
    assert "http" not in source.replace("http-equiv", "")
    assert not {"script", "link", "iframe", "a"} & {tag for tag, _ in page.tags}
    assert "url(" not in source and "@import" not in source


def test_the_first_number_is_the_score_and_says_what_it_means(tmp_path):
    source, page = written(full(), tmp_path)
    headline = re.search(r'<section class="headline">.*?</section>', source, re.S).group()
    for piece in ("0.812", "0.562", "0.250 above", "cursor.pos", "test split", "1,234 s", "spikes before t"):
        assert piece in headline
    assert "x 0.750 · y 0.875" in page.text and "24,680" in page.text and "+0.250" in page.text
    assert "step_p50_ms" in page.text and '"chunk_ms": 50' in page.text


def test_says_which_convention_it_is(tmp_path):
    strict, _ = written(full(), tmp_path)
    paper, _ = written(full(convention="paper"), tmp_path)
    assert "strictly causal" in strict and "the paper's convention" not in strict.lower()
    assert (
        "the paper's convention" in paper.lower().replace("&#x27;", "'") and "strictly" not in paper.lower()
    )
    with pytest.raises(ConfigError, match="convention"):
        full(convention="acausal")


def test_mean_and_spread_over_sessions_by_behavior_and_split(tmp_path):
    rows = [row("a", r2=0.5), row("b", r2=0.7), row("a", behavior="cursor.vel", r2=0.25, r2_wiener=None)]
    source, _ = written(full(rows=rows, traces=()), tmp_path)
    first, second = re.findall(r'<section class="headline">.*?</section>', source, re.S)
    assert "0.600" in first and "0.100" in first and "over 2 sessions" in first
    assert "0.250" in second and "cursor.vel" in second and "No Wiener filter" in second


def test_session_names_are_text(tmp_path):
    data = full(rows=[row(EVIL)], traces=[trace(EVIL)], raster=raster(EVIL), title=EVIL)
    data = replace(data, provenance={EVIL: EVIL, "nested": {EVIL: [EVIL]}})
    source, page = written(data, tmp_path)
    assert "<script" not in source
    assert page.text.count(EVIL) >= 6
    assert len(page.images) == 5


def test_a_name_that_is_not_unicode_does_not_cost_the_report(tmp_path):
    written(full(title="broken \udcff name"), tmp_path)


def test_only_the_rows_are_needed(tmp_path):
    _, page = written(ReportData(rows=[row(r2_wiener=None)]), tmp_path)
    assert [image["alt"] for image in page.images] == ["R2 by session"]
    assert "No Wiener filter was fitted" in page.text


def test_undefined_scores_are_said_not_drawn(tmp_path):
    rows = [
        row("a"),
        row("b", r2=float("nan"), r2_per_dimension=[float("nan"), 0.5], r2_wiener=None),
        row("c", r2=None, r2_per_dimension=None, r2_wiener=-40.0, seconds=None, chunks=None),
    ]
    _, page = written(full(rows=rows, training=()), tmp_path)
    assert "2 without a defined score left out" in page.text
    assert page.text.count("not defined") >= 3 and "nan" not in page.text
    _, page = written(ReportData(rows=[rows[1]]), tmp_path)
    assert "No session has a defined score" in page.text


@pytest.mark.parametrize("dimensions", [1, 2, 3, 9])
@pytest.mark.parametrize("wiener", [True, False])
def test_any_number_of_dimensions(dimensions, wiener, tmp_path):
    rows = [row(r2_per_dimension=[0.5] * dimensions)]
    _, page = written(full(rows=rows, traces=[trace(dimensions=dimensions, wiener=wiener)]), tmp_path)
    assert len(page.images) == 5
    assert ("3 further dimensions are not drawn" in page.text) == (dimensions == 9)


def test_gaps_missing_targets_and_short_traces(tmp_path):
    holes = trace()
    target = holes.target.copy()
    target[50:80] = np.nan
    broken = replace(holes, target=target, times_s=holes.times_s + 30 * (np.arange(400) > 200))
    short = replace(trace("day 2", samples=1), wiener=None)
    empty = trace("day 3", samples=0)
    still = replace(trace("day 4"), target=np.zeros((400, 2)), prediction=np.zeros((400, 2)))
    _, page = written(full(traces=[broken, short, empty, still]), tmp_path)
    assert [image["alt"] for image in page.images].count("Residuals") == 3


def test_learning_curves_without_validation(tmp_path):
    training = [{"step": 10, "train_loss": 2.0}, {"step": 20, "train_loss": float("nan"), "valid_r2": None}]
    _, page = written(full(training=training), tmp_path)
    assert "Learning curves" in [image["alt"] for image in page.images]


def test_many_sessions_are_drawn_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "MAX_BARS", 3)
    monkeypatch.setattr(report, "MAX_TRACES", 2)
    rows = [row(f"day {k}") for k in range(7)]
    shown = [trace(f"day {k}", samples=30) for k in range(3)]
    _, page = written(ReportData(rows=rows, traces=shown), tmp_path)
    assert [image["alt"] for image in page.images].count("R2 by session") == 3
    assert [image["alt"] for image in page.images].count("Residuals") == 2
    assert "The first 2 of 3 are drawn" in page.text and "day 6" in page.text


def test_lines_are_what_they_are_called():
    """The figure draws the arrays it is given, truth, Wiener filter and decoder each under its own name."""
    given = trace(samples=100)
    with figures.style():
        figure = figures.traces_figure(given, 100.0, 102.5)
    for dimension, axes in enumerate(figure.axes[:2]):
        lines = {line.get_label(): line.get_ydata() for line in axes.get_lines()}
        np.testing.assert_array_equal(lines["true"], given.target[:50, dimension])
        np.testing.assert_array_equal(lines["decoded"], given.prediction[:50, dimension])
        np.testing.assert_array_equal(lines["Wiener filter"], given.wiener[:50, dimension])


def test_no_line_is_drawn_across_a_gap():
    given = trace(samples=100)
    gapped = replace(given, times_s=given.times_s + 2.0 * (np.arange(100) >= 40))
    with figures.style():
        figure = figures.traces_figure(gapped, 0.0, 1000.0)
    drawn = figure.axes[0].get_lines()[0].get_ydata()
    assert np.flatnonzero(np.isnan(drawn)).tolist() == [40] and len(drawn) == 101


def test_bars_show_the_scores_and_the_worst_is_cut_off():
    rows = [row("good", r2=0.75, r2_wiener=0.5), row("bad", r2=-7.5, r2_wiener=None)]
    with figures.style():
        axes = figures.bars_figure(rows).axes[0]
    widths = [patch.get_width() for patch in axes.patches]
    assert widths == [0.75, -1.0, 0.5, 0.0]
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["0.750", "-7.500 (bar cut off)", "0.500", "none"]


def test_the_style_stays_inside_the_report(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    written(full(), tmp_path)
    assert dict(matplotlib.rcParams) == before


def test_importing_the_report_does_not_import_matplotlib():
    import subprocess
    import sys

    code = "import sys, possm.evaluation.report; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_arrays_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="do not fit"):
        replace(trace(), prediction=np.zeros((400, 3)))
    with pytest.raises(ConfigError, match="do not fit"):
        replace(trace(), times_s=np.zeros(3))
    with pytest.raises(ConfigError, match="name per dimension"):
        replace(trace(), dimensions=("x",))
    with pytest.raises(ConfigError, match="stretch of time"):
        replace(raster(), end_s=105.0)
