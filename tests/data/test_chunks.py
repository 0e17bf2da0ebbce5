"""THE binning: every token in the chunk that contains it, whoever asks, and ragged batches of the result."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from possm.batch import Queries, Targets
from possm.data.chunks import Sample, chunk_edges_s, chunk_tokens, collate, query_chunks

ORIGINS = st.floats(-1e3, 1e6)


def sorted_into(times_s, edges_s):
    """Unit i is token i, so that it can be found again; count is 1 + i."""
    times_s = np.asarray(times_s, np.float64)
    number = np.arange(len(times_s))
    return chunk_tokens(times_s, number, (number + 1).astype(np.float32), edges_s)


@given(
    origin_s=ORIGINS,
    first=st.integers(0, 10**7),
    chunk_ms=st.integers(1, 200),
    inside=st.lists(st.tuples(st.integers(-1, 8), st.floats(0, 1)), max_size=40),
)
def test_every_token_is_in_the_chunk_that_contains_it(origin_s, first, chunk_ms, inside):
    edges_s = chunk_edges_s(origin_s, first=first, count=8, chunk_ms=chunk_ms)
    times_s = np.array([edges_s[0] + (chunk + part) * chunk_ms / 1000 for chunk, part in inside])
    tokens = sorted_into(times_s, edges_s)
    assert tokens.offsets[0] == 0
    assert tokens.offsets[-1] == len(tokens.unit)
    kept = set(np.flatnonzero((times_s >= edges_s[0]) & (times_s < edges_s[-1])).tolist())
    assert sorted(tokens.unit.tolist()) == sorted(kept)
    for chunk in range(8):
        rows = slice(tokens.offsets[chunk], tokens.offsets[chunk + 1])
        original = times_s[tokens.unit[rows]]
        assert (original >= edges_s[chunk]).all()
        assert (original < edges_s[chunk + 1]).all()
        assert (np.diff(original) >= 0).all()  # in time order, also where they came unsorted
        np.testing.assert_array_equal(tokens.count[rows], tokens.unit[rows] + 1)
        np.testing.assert_array_equal(tokens.time_s[rows], (original - edges_s[chunk]).astype(np.float32))
    assert tokens.unit.dtype == tokens.offsets.dtype == np.int64
    assert tokens.time_s.dtype == tokens.count.dtype == np.float32


@given(origin_s=ORIGINS, first=st.integers(0, 10**6), split=st.integers(1, 9), chunk_ms=st.integers(1, 200))
def test_edges_are_the_same_whoever_asks(origin_s, first, split, chunk_ms):
    """Ten chunks at once, or the same ten in two calls: bitwise."""
    whole = chunk_edges_s(origin_s, first=first, count=10, chunk_ms=chunk_ms)
    left = chunk_edges_s(origin_s, first=first, count=split, chunk_ms=chunk_ms)
    right = chunk_edges_s(origin_s, first=first + split, count=10 - split, chunk_ms=chunk_ms)
    np.testing.assert_array_equal(np.concatenate([left, right[1:]]), whole)
    assert left[-1] == right[0]
    one_by_one = [chunk_edges_s(origin_s, first=first + i, count=1, chunk_ms=chunk_ms) for i in range(10)]
    assert [e[0] for e in one_by_one] == whole[:-1].tolist()
    assert [e[1] for e in one_by_one] == whole[1:].tolist()


def test_edges_do_not_drift():
    """Hours of 50 ms chunks are where a multiplication puts them, not a sum of 50 ms."""
    edges_s = chunk_edges_s(0.0, first=0, count=20 * 3600, chunk_ms=50)
    assert edges_s[-1] == 3600.0
    np.testing.assert_array_equal(edges_s[::20], np.arange(3601.0))


def test_a_spike_on_an_edge_belongs_to_the_later_chunk():
    edges_s = chunk_edges_s(2.0, first=3, count=4, chunk_ms=50)
    tokens = sorted_into(edges_s, edges_s)
    np.testing.assert_array_equal(tokens.unit, [0, 1, 2, 3])  # the one on the last edge is not ours
    np.testing.assert_array_equal(tokens.offsets, [0, 1, 2, 3, 4])
    assert (tokens.time_s == 0).all()
    before = sorted_into(np.nextafter(edges_s, -np.inf), edges_s)
    np.testing.assert_array_equal(before.unit, [1, 2, 3, 4])


def one_by_one(times_s, unit, count, edges_s):
    """Each token looked up by itself: what `chunk_tokens` does at once."""
    chunk = np.searchsorted(edges_s, times_s, side="right") - 1
    order = np.lexsort((times_s, chunk))
    order = order[(chunk[order] >= 0) & (chunk[order] < len(edges_s) - 1)]
    within = (times_s[order] - edges_s[chunk[order]]).astype(np.float32)
    offsets = [int((chunk[order] < number).sum()) for number in range(len(edges_s))]
    return unit[order], within, count[order], offsets


@given(
    origin_s=ORIGINS,
    first=st.integers(0, 10**7),
    num_chunks=st.sampled_from([1, 2, 7]),
    ticks=st.lists(st.integers(-5, 40), max_size=60),
    chunk_ms=st.sampled_from([1, 20, 50]),
)
def test_at_once_or_one_by_one_to_the_bit(origin_s, first, num_chunks, ticks, chunk_ms):
    """In any order, at equal times, on edges, and outside; the one chunk of a live step among them."""
    edges_s = chunk_edges_s(origin_s, first=first, count=num_chunks, chunk_ms=chunk_ms)
    times_s = edges_s[0] + np.array(ticks, np.float64) * chunk_ms / 4000
    on_edge = np.arange(len(ticks)) % 3 == 0
    times_s[on_edge] = edges_s[np.arange(len(ticks))[on_edge] % len(edges_s)]
    unit = np.arange(len(ticks))
    count = (unit % 5 + 1).astype(np.float32)
    got = chunk_tokens(times_s, unit, count, edges_s)
    for made, wanted in zip(
        (got.unit, got.time_s, got.count, got.offsets),
        one_by_one(times_s, unit, count, edges_s),
        strict=True,
    ):
        np.testing.assert_array_equal(made, wanted)


@given(st.permutations(range(12)))
def test_unsorted_input(order):
    edges_s = chunk_edges_s(0.0, first=0, count=4, chunk_ms=50)
    times_s = np.linspace(-0.02, 0.21, 12)
    straight, mixed = sorted_into(times_s, edges_s), sorted_into(times_s[list(order)], edges_s)
    np.testing.assert_array_equal(np.asarray(order)[mixed.unit], straight.unit)
    np.testing.assert_array_equal(mixed.time_s, straight.time_s)
    np.testing.assert_array_equal(mixed.offsets, straight.offsets)


def test_no_tokens():
    tokens = sorted_into([], chunk_edges_s(0.0, first=0, count=3, chunk_ms=50))
    np.testing.assert_array_equal(tokens.offsets, [0, 0, 0, 0])
    assert tokens.unit.shape == tokens.time_s.shape == tokens.count.shape == (0,)


@pytest.mark.parametrize("lead_ms", [0, 50, 70])
@pytest.mark.parametrize("origin_s", [0.0, 0.1, 7.3, 1234.56])
def test_queries_at_exact_multiples(lead_ms, origin_s):
    """Samples every 10 ms on the chunk clock: five a chunk, none to either side by rounding."""
    edges_s = chunk_edges_s(origin_s, first=0, count=40, chunk_ms=50)
    times_s = origin_s + np.arange(250) * 0.01
    chunk, relative_s = query_chunks(times_s, edges_s, lead_s=lead_ms / 1000)
    wanted = np.floor_divide(np.arange(250) * 10 - lead_ms, 50)
    np.testing.assert_array_equal(np.clip(chunk, -1, 40), np.clip(wanted, -1, 40))
    inside = (wanted >= 0) & (wanted < 40)
    exact_s = (np.arange(250) * 10 - (wanted + 1) * 50) / 1000
    np.testing.assert_allclose(relative_s[inside], exact_s[inside], atol=2e-8)


@given(origin_s=ORIGINS, lead_ms=st.sampled_from([0, 20, 50, 70, 200]), t=st.floats(0, 2))
def test_the_chunk_that_answers(origin_s, lead_ms, t):
    """Chunk [a, b) answers for [a + lead, b + lead), up to a nanosecond."""
    edges_s = chunk_edges_s(origin_s, first=0, count=40, chunk_ms=50)
    time_s = origin_s + t
    chunk, relative_s = query_chunks(np.array([time_s]), edges_s, lead_s=lead_ms / 1000)
    assume(0 <= chunk[0] < 40)
    assert edges_s[chunk[0]] + lead_ms / 1000 <= time_s + 2e-9
    assert time_s < edges_s[chunk[0] + 1] + lead_ms / 1000
    assert relative_s[0] == np.float32(time_s - edges_s[chunk[0] + 1])
    if lead_ms >= 50:
        assert edges_s[chunk[0] + 1] <= time_s + 2e-9  # strictly causal


def test_beyond_both_ends():
    edges_s = chunk_edges_s(1.0, first=0, count=2, chunk_ms=50)
    chunk, _ = query_chunks(np.array([0.9, 1.04, 1.1, 1.149, 1.15, 9.0]), edges_s, lead_s=0.05)
    np.testing.assert_array_equal(chunk < 0, [True, True, False, False, False, False])
    np.testing.assert_array_equal(chunk[2:4], [1, 1])
    assert (chunk[4:] >= 2).all()


def sample_of(sizes, session, queries=2, targets=True):
    total = sum(sizes)
    edges_s = chunk_edges_s(0.0, first=0, count=len(sizes), chunk_ms=50)
    times_s = np.repeat(edges_s[:-1], sizes) + 0.01
    tokens = chunk_tokens(times_s, np.arange(total) + 100 * session, np.ones(total), edges_s)
    asked = {"a": Queries(np.arange(queries) % len(sizes), np.full(queries, -0.01 * session, np.float32))}
    wanted = {"a": Targets(np.full((queries, 2), session, np.float32), np.ones(queries, np.float32))}
    return Sample(tokens, session, asked, wanted if targets else {})


@given(
    table=st.integers(1, 4).flatmap(
        lambda chunks: st.lists(
            st.lists(st.integers(0, 5), min_size=chunks, max_size=chunks), min_size=1, max_size=5
        )
    )
)
def test_collate_ragged_samples(table):
    samples = [sample_of(sizes, session, queries=session + 1) for session, sizes in enumerate(table)]
    batch = collate(samples)
    num_chunks = len(table[0])
    assert batch.num_chunks == num_chunks
    np.testing.assert_array_equal(batch.session, np.arange(len(table)))
    np.testing.assert_array_equal(np.diff(batch.tokens.offsets), np.concatenate(table))
    np.testing.assert_array_equal(batch.tokens.unit, np.concatenate([s.tokens.unit for s in samples]))
    assert batch.tokens.offsets.dtype == np.int64
    owner = np.repeat(np.arange(len(table)), np.arange(len(table)) + 1)
    np.testing.assert_array_equal(batch.queries["a"].chunk // num_chunks, owner)
    np.testing.assert_array_equal(
        batch.queries["a"].chunk % num_chunks, np.concatenate([s.queries["a"].chunk for s in samples])
    )
    np.testing.assert_array_equal(batch.targets["a"].values[:, 0], owner)
    assert len(batch.targets["a"].weights) == len(owner)


def test_collate_without_targets():
    assert collate([sample_of([1, 0], 0, targets=False)]).targets == {}
