import math
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from possm.errors import ConfigError
from possm.streaming.watch import Watch


@pytest.mark.parametrize("percent", [0, 1, 50, 90, 99, 99.9, 100])
def test_percentiles_are_right_to_one_percent(percent):
    took_s = np.random.default_rng(0).lognormal(math.log(3e-4), 1.0, 20_000)
    watch = Watch()
    for value in took_s:
        watch.step(value)
    exact_ms = 1000 * np.quantile(took_s, percent / 100, method="inverted_cdf")
    assert exact_ms * (1 - 1e-9) <= watch.percentile_ms(percent) <= exact_ms * 1.0101
    assert watch.max_ms == pytest.approx(1000 * took_s.max())
    assert watch.mean_ms == pytest.approx(1000 * took_s.mean())
    assert watch.steps == len(took_s)


@settings(max_examples=50)
@given(st.lists(st.floats(0, 1e5), min_size=1, max_size=30), st.floats(0, 100))
def test_any_durations(took_s, percent):
    watch = Watch()
    for value in took_s:
        watch.step(value)
    exact_ms = 1000 * np.quantile(took_s, percent / 100, method="inverted_cdf")
    got = watch.percentile_ms(percent)
    assert got <= watch.max_ms
    assert got <= max(exact_ms * 1.011, 1.011e-3) and (exact_ms > 1e6 or got >= exact_ms * 0.999)


def test_misses_are_exact():
    watch = Watch(deadline_ms=5.0)
    for took_ms in (1, 4.999, 5.001, 7, 20):
        watch.step(took_ms / 1000)
    assert watch.missed == 3
    assert [watch.over(limit) for limit in (0.5, 2, 6, 10, 50)] == [5, 4, 2, 1, 0]


def test_before_the_first_step():
    watch = Watch()
    assert math.isnan(watch.percentile_ms(50)) and math.isnan(watch.mean_ms) and watch.max_ms == 0


def test_memory_does_not_grow():
    watch = Watch()
    before = sum(sys.getsizeof(value) for value in vars(watch).values())
    for _ in range(10_000):
        watch.step(1e-3)
    assert sum(sys.getsizeof(value) for value in vars(watch).values()) <= before + 100


@pytest.mark.parametrize("deadline_ms", [0.0, -1.0, math.nan])
def test_a_deadline_out_of_range(deadline_ms):
    with pytest.raises(ConfigError):
        Watch(deadline_ms=deadline_ms)
