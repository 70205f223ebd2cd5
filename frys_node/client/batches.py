"""How batches are split: by the node to ask for each item, each part small enough for one request.

Sans-I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar
from urllib.parse import urlencode

from frys_node.base.types import Address
from frys_node.client.calls import Place
from frys_node.client.core import Core

K = TypeVar("K")


def split(
    core: Core,
    items: Iterable[K],
    place_of: Callable[[K], Place],
    count_max: int,
    bytes_max: int = 0,
    size_of: Mapping[K, int] | None = None,
) -> list[list[K]]:
    """Return items in groups by the node to ask for them, each within a count and a size, in their order."""
    groups: list[list[K]] = []
    open_: dict[Address | None, tuple[list[K], int]] = {}
    picked: dict[Place, Address | None] = {}
    for item in items:
        place = place_of(item)
        if place not in picked:
            picked[place] = core.owner(place)
        node = picked[place]
        size = 0 if size_of is None else size_of[item]
        group, used = open_.get(node, ([], 0))
        if not group or len(group) >= count_max or (bytes_max and used + size > bytes_max):
            group, used = [], 0
            groups.append(group)
        group.append(item)
        open_[node] = group, used + size
    return groups


def query_of(fields: Mapping[str, str | None]) -> str:
    """Return a query with its question mark, empty without fields."""
    given = {name: value for name, value in fields.items() if value is not None}
    return f"?{urlencode(given)}" if given else ""
