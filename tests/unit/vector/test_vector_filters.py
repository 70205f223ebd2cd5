"""Qdrant's filter semantics on payloads."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from frys_node.base.errors import UsageError
from frys_node.plugins.vector.collection import encode_id
from frys_node.plugins.vector.errors import UnsupportedFeature
from frys_node.plugins.vector.filters import compile_filter

PAYLOAD = {
    "city": "Rome",
    "year": 2020,
    "price": 9.5,
    "on": True,
    "tags": ["red", "green"],
    "none": None,
    "empty": [],
    "at": "2026-11-24T10:00:00Z",
    "maker": {"name": "Acme", "sites": [{"country": "IT", "size": 3}, {"country": "FR", "size": 9}]},
}


def holds(condition: dict[str, Any], *, clause: str = "must") -> bool:
    """Whether one condition holds for the payload of point 7."""
    return compile_filter(msgspec.json.encode({clause: [condition]}))(encode_id(7), PAYLOAD)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({"key": "city", "match": {"value": "Rome"}}, True),
        ({"key": "city", "match": {"value": "rome"}}, False),
        ({"key": "year", "match": {"value": 2020}}, True),
        ({"key": "on", "match": {"value": 1}}, False),
        ({"key": "on", "match": {"value": True}}, True),
        ({"key": "tags", "match": {"value": "green"}}, True),
        ({"key": "tags", "match": {"any": ["blue", "red"]}}, True),
        ({"key": "city", "match": {"except": ["Rome", "Oslo"]}}, False),
        ({"key": "tags", "match": {"except": ["red"]}}, True),
        ({"key": "city", "match": {"text": "om"}}, True),
        ({"key": "city", "match": {"text_any": "zz me"}}, True),
        ({"key": "missing", "match": {"except": ["x"]}}, False),
        ({"key": "year", "range": {"gte": 2020, "lt": 2021}}, True),
        ({"key": "year", "range": {"gt": 2020}}, False),
        ({"key": "on", "range": {"gte": 0}}, False),
        ({"key": "price", "range": {"lte": 9.5}}, True),
        ({"key": "city", "range": {"gt": 0}}, False),
        ({"key": "at", "range": {"gt": "2026-11-24T11:00:00+02:00"}}, True),
        ({"key": "at", "range": {"gt": "2026-11-24T10:00:00"}}, False),
        ({"key": "tags", "values_count": {"gte": 2}}, True),
        ({"key": "city", "values_count": {"gt": 1}}, False),
        ({"is_empty": {"key": "empty"}}, True),
        ({"is_empty": {"key": "missing"}}, True),
        ({"is_empty": {"key": "city"}}, False),
        ({"is_null": {"key": "none"}}, True),
        ({"is_null": {"key": "missing"}}, False),
        ({"key": "city", "is_empty": False}, True),
        ({"key": "none", "is_null": True}, True),
        ({"has_id": [7, 9]}, True),
        ({"has_id": [9]}, False),
        ({"has_vector": ""}, True),
        ({"has_vector": "image"}, False),
        ({"key": "maker.name", "match": {"value": "Acme"}}, True),
        ({"key": "maker.sites[].country", "match": {"value": "FR"}}, True),
        ({"nested": {"key": "maker.sites", "filter": {"must": [
            {"key": "country", "match": {"value": "IT"}}, {"key": "size", "range": {"gt": 5}}]}}}, False),
        ({"nested": {"key": "maker.sites", "filter": {"must": [
            {"key": "country", "match": {"value": "FR"}}, {"key": "size", "range": {"gt": 5}}]}}}, True),
        ({"should": [{"key": "year", "match": {"value": 1}}, {"key": "year", "match": {"value": 2020}}]}, True),
        ({"min_should": {"min_count": 2, "conditions": [
            {"key": "on", "match": {"value": True}}, {"key": "year", "match": {"value": 1}}]}}, False),
    ],
)  # fmt: skip
def test_a_condition_means_what_it_means_in_qdrant(condition: dict[str, Any], expected: bool) -> None:
    """Types are strict, lists match by any element, and must_not is the opposite of must."""
    assert holds(condition) is expected
    assert holds(condition, clause="must_not") is not expected
    assert holds(condition, clause="should") is expected


def test_an_empty_filter_lets_everything_through() -> None:
    """Nothing demanded, nothing refused."""
    assert compile_filter(b"{}")(b"", {})


@pytest.mark.parametrize(
    "source",
    [
        b"{",
        b"[]",
        b'{"must": [{"key": "a"}]}',
        b'{"must": [{"key": "a", "match": {}}]}',
        b'{"must": [{"key": "a", "match": {"value": 1, "text": "x"}}]}',
        b'{"must": [{"key": "a", "match": {"value": 1}, "range": {"gt": 1}}]}',
        b'{"must": [{"key": "a", "range": {"gt": "yesterday"}}]}',
        b'{"must": [{"has_id": [-1]}]}',
        b'{"must": ' + b'[{"must": ' * 40 + b"[]" + b"}]" * 40 + b"}",
        b'{"must": ' + b'[{"must": ' * 20_000,
        b'{"must": [' + b'{"has_id": []},' * 1_024 + b'{"has_id": []}]}',
        b" " * 300_000 + b"{}",
    ],
)
def test_what_is_no_filter_is_refused(source: bytes) -> None:
    """Malformed, ambiguous, too deep, too many, too large."""
    with pytest.raises(UsageError) as caught:
        compile_filter(source)
    assert caught.value.code.startswith("vector.")


def test_geographic_conditions_are_refused_by_name() -> None:
    """Not here yet, and not silently ignored."""
    with pytest.raises(UnsupportedFeature, match="geographic"):
        compile_filter(b'{"must": [{"key": "a", "geo_radius": {"center": {"lon": 1, "lat": 1}, "radius": 5}}]}')
