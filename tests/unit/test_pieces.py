"""Cutting by size: nothing is lost, nothing is too large that could be smaller."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frys_node.base.pieces import pieces


@given(st.lists(st.integers(0, 12)), st.integers(1, 10))
def test_pieces_hold_every_item_in_order_and_are_as_full_as_their_bound_lets_them(sizes: list[int], limit: int) -> None:
    """Over the bound is only an item alone, and the first item of a piece did not fit into the one before."""
    cut = list(pieces(sizes, lambda size: size, limit))
    assert [size for piece in cut for size in piece] == sizes
    assert all(piece and (len(piece) == 1 or sum(piece) <= limit) for piece in cut)
    assert all(sum(piece) + following[0] > limit for piece, following in pairwise(cut))


def test_an_item_that_is_refused_ends_the_cutting() -> None:
    """What came before it was yielded; the piece that would hold it is not."""

    def size_of(item: int) -> int:
        if item == 5:
            raise OverflowError
        return 4

    cut = pieces([1, 2, 3, 5], size_of, 8)
    assert next(cut) == [1, 2]
    with pytest.raises(OverflowError):
        next(cut)
