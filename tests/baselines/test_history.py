"""Ragged history, with answers that can be counted on fingers."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from possm.baselines.history import chunk_numbers, join, newest, no_tokens, pick, with_blanks
from possm.batch import Tokens


def chunks_of(*units):
    """Chunks that hold these units; time and count follow the unit."""
    rows = torch.tensor([unit for chunk in units for unit in chunk], dtype=torch.int64)
    sizes = torch.tensor([0, *(len(chunk) for chunk in units)])
    return Tokens(rows, rows / 1000, rows + 1.0, sizes.cumsum(0))


def units_of(tokens):
    edges = tokens.offsets.tolist()
    rows = tokens.unit.tolist()
    return [rows[a:b] for a, b in zip(edges[:-1], edges[1:], strict=True)]


def test_a_blank_opens_every_chunk():
    got = with_blanks(chunks_of([3, 1], [], [2]))
    assert units_of(got) == [[0, 3, 1], [0], [0, 2]]
    torch.testing.assert_close(got.time_s, torch.tensor([0, 0.003, 0.001, 0, 0, 0.002]))
    assert got.count.tolist() == [1, 4, 2, 1, 1, 3]


def test_sequences_keep_to_themselves():
    past, present = chunks_of([1], [2], [5], []), chunks_of([3], [4, 4], [], [6], [], [7])
    joined = join(past, present, 2)
    assert units_of(joined) == [[1], [2], [3], [4, 4], [], [5], [], [6], [], [7]]
    assert units_of(newest(joined, 2, 2)) == [[4, 4], [], [], [7]]
    assert chunk_numbers(joined, 5).tolist() == [0, 1, 2, 3, 3, 0, 2, 4]
    assert joined.count.tolist() == (joined.unit + 1).tolist()


def test_nothing_is_known_at_first():
    joined = join(no_tokens(2, torch.zeros(1)), chunks_of([3], [4]), 1)
    assert units_of(joined) == [[], [], [3], [4]]
    assert units_of(newest(joined, 1, 0)) == []


@given(st.lists(st.lists(st.integers(1, 9), max_size=4), min_size=1, max_size=6), st.randoms())
def test_picked_chunks(chunks, random):
    order = random.sample(range(len(chunks)), random.randint(1, len(chunks)))
    got = pick(chunks_of(*chunks), torch.tensor(order))
    assert units_of(got) == [chunks[i] for i in order]
    assert got.time_s.tolist() == (got.unit / 1000).tolist()
