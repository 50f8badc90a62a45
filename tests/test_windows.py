import itertools

import pytest

from llmkit import InputError
from llmkit.windows import spans


@pytest.mark.parametrize(
    ("length", "size", "overlap", "expected"),
    [
        (0, 4, 0, [(0, 0)]),
        (4, 4, 3, [(0, 4)]),
        (5, 4, 0, [(0, 4), (4, 5)]),
        (5, 4, 3, [(0, 4), (1, 5)]),
        (10, 4, 2, [(0, 4), (2, 6), (4, 8), (6, 10)]),
        (3, 1, 0, [(0, 1), (1, 2), (2, 3)]),
    ],
)
def test_spans_reach_the_end_with_the_last(length, size, overlap, expected):
    assert list(spans(length, size, overlap)) == expected


def test_spans_hold_every_token_and_share_the_overlap():
    for length in range(40):
        for size in range(1, 12):
            for overlap in range(size):
                found = list(spans(length, size, overlap))
                assert sorted({i for start, end in found for i in range(start, end)}) == list(range(length))
                assert all(b[0] == a[1] - overlap for a, b in itertools.pairwise(found))
                assert all(end - start == size for start, end in found[:-1])
                assert all(end < length for _, end in found[:-1])


@pytest.mark.parametrize(("size", "overlap"), [(4, 4), (4, -1), (0, 0), (1000, 2000)])
def test_spans_refuse_an_overlap_that_does_not_move_on(size, overlap):
    with pytest.raises(InputError) as caught:
        list(spans(10, size, overlap))
    assert str(caught.value) == (
        f"windows of {size:,} tokens cannot share {overlap:,}; expected at least 0 and fewer than that"
    )
