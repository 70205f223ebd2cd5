"""Cutting a sequence by size, for messages and records that have a largest size. Sans-I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def pieces(items: Iterable[T], size_of: Callable[[T], int], size_max: int) -> Iterator[list[T]]:
    """Yield the items in their order, in pieces of at most `size_max`, one item at least.

    `size_of` is asked once for each item, and may refuse one: nothing that holds it is yielded then.
    """
    piece: list[T] = []
    size = 0
    for item in items:
        item_size = size_of(item)
        if piece and size + item_size > size_max:
            yield piece
            piece, size = [], 0
        piece.append(item)
        size += item_size
    if piece:
        yield piece
