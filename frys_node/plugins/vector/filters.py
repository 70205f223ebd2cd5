"""Qdrant's filters, evaluated on payloads.

Sans-I/O. A filter is parsed into typed Structs and compiled once per request into one function of (id, payload). A
field that holds a list matches when any of its elements does; paths are ``a.b`` and ``a[].b``, as in Qdrant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec

from frys_node.plugins.vector.collection import encode_id
from frys_node.plugins.vector.errors import InvalidVectorRequest, UnsupportedFeature

FILTER_DEPTH_MAX = 16
FILTER_CONDITIONS_MAX = 1_024
FILTER_BYTES_MAX = 262_144

Predicate = Callable[[bytes, dict[str, Any]], bool]
Test = Callable[[Any], bool]


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the parsed forms: an unknown word is refused, never skipped."""


class Match(_Strict, frozen=True, kw_only=True):
    """One of the ways to match a value."""

    value: str | int | bool | None = None
    text: str | None = None
    text_any: str | None = None
    phrase: str | None = None
    any: list[str | int] | None = None
    except_: list[str | int] | None = msgspec.field(default=None, name="except")


class Range(_Strict, frozen=True, kw_only=True):
    """Bounds of numbers, or of RFC 3339 times when they are strings."""

    lt: float | str | None = None
    gt: float | str | None = None
    lte: float | str | None = None
    gte: float | str | None = None


class PayloadField(_Strict, frozen=True, kw_only=True):
    """Names a field."""

    key: str


class Nested(_Strict, frozen=True, kw_only=True):
    """A filter on each element of a list of objects."""

    key: str
    filter: Filter


class MinShould(_Strict, frozen=True, kw_only=True):
    """At least `min_count` of the conditions."""

    conditions: list[Condition]
    min_count: int


class Condition(_Strict, frozen=True, kw_only=True):
    """Any condition: what is set says which. A condition may be a filter itself."""

    key: str | None = None
    match: Match | None = None
    range: Range | None = None
    values_count: Range | None = None
    is_empty: PayloadField | bool | None = None
    is_null: PayloadField | bool | None = None
    has_id: list[int | str] | None = None
    has_vector: str | None = None
    nested: Nested | None = None
    geo_bounding_box: msgspec.Raw = msgspec.Raw(b"")
    geo_radius: msgspec.Raw = msgspec.Raw(b"")
    geo_polygon: msgspec.Raw = msgspec.Raw(b"")
    must: list[Condition] | Condition | None = None
    should: list[Condition] | Condition | None = None
    must_not: list[Condition] | Condition | None = None
    min_should: MinShould | None = None


class Filter(_Strict, frozen=True, kw_only=True):
    """A filter: all of `must`, one of `should`, none of `must_not`, enough of `min_should`."""

    must: list[Condition] | Condition | None = None
    should: list[Condition] | Condition | None = None
    must_not: list[Condition] | Condition | None = None
    min_should: MinShould | None = None


_decoder = msgspec.json.Decoder(Filter)


def compile_filter(source: bytes) -> Predicate:
    """Return the function that a filter's JSON describes.

    Raises:
        InvalidVectorRequest: Not a filter, or over its limits.
        UnsupportedFeature: Geographic conditions.
    """
    if len(source) > FILTER_BYTES_MAX:
        raise InvalidVectorRequest(f"a filter of {len(source)} bytes is over the limit of {FILTER_BYTES_MAX}")
    try:
        parsed = _decoder.decode(source)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidVectorRequest(f"the filter is not valid: {error}") from error
    return _Compiler().clauses(parsed, 0)


class _Compiler:
    """Compiles one filter and counts its conditions."""

    def __init__(self) -> None:
        self._conditions = 0

    def clauses(self, parsed: Filter | Condition, depth: int) -> Predicate:
        """Compile must, should, must_not and min_should."""
        if depth > FILTER_DEPTH_MAX:
            raise InvalidVectorRequest(f"a filter is nested deeper than {FILTER_DEPTH_MAX} levels")
        must = self._all(parsed.must, depth)
        should = self._all(parsed.should, depth)
        must_not = self._all(parsed.must_not, depth)
        enough: list[Predicate] = []
        least = 0
        if parsed.min_should is not None:
            enough, least = self._all(parsed.min_should.conditions, depth), parsed.min_should.min_count

        def holds(key: bytes, payload: dict[str, Any]) -> bool:
            return (
                all(test(key, payload) for test in must)
                and (not should or any(test(key, payload) for test in should))
                and not any(test(key, payload) for test in must_not)
                and (least <= 0 or sum(test(key, payload) for test in enough) >= least)
            )

        return holds

    def _all(self, conditions: list[Condition] | Condition | None, depth: int) -> list[Predicate]:
        if conditions is None:
            return []
        several = conditions if isinstance(conditions, list) else [conditions]
        self._conditions += len(several)
        if self._conditions > FILTER_CONDITIONS_MAX:
            raise InvalidVectorRequest(f"a filter has more than {FILTER_CONDITIONS_MAX} conditions")
        return [self._condition(condition, depth + 1) for condition in several]

    def _condition(self, one: Condition, depth: int) -> Predicate:
        if any(map(bytes, (one.geo_bounding_box, one.geo_radius, one.geo_polygon))):
            raise UnsupportedFeature("geographic conditions are not supported", hint="filter by ranges of numbers")
        if one.has_id is not None:
            wanted = frozenset(encode_id(point) for point in one.has_id)
            return lambda key, _: key in wanted
        if one.has_vector is not None:
            is_there = not one.has_vector  # only the default vector, whose name is empty
            return lambda _key, _payload: is_there
        if one.nested is not None:
            return self._nested(one.nested, depth)
        if one.key is not None:
            return _key_condition(one.key, one)
        for condition, test in ((one.is_empty, _is_empty), (one.is_null, _is_null)):
            if isinstance(condition, PayloadField):
                return _whole(condition.key, test, expected=True)
        if all(part is None for part in (one.must, one.should, one.must_not, one.min_should)):
            raise InvalidVectorRequest("a condition says nothing: give it a 'key' with 'match' or 'range'")
        return self.clauses(one, depth)

    def _nested(self, nested: Nested, depth: int) -> Predicate:
        inner = self.clauses(nested.filter, depth)
        path = _path(nested.key)

        def holds(key: bytes, payload: dict[str, Any]) -> bool:
            return any(
                inner(key, element)
                for value in _values(payload, path)
                for element in (value if isinstance(value, list) else [value])
                if isinstance(element, dict)
            )

        return holds


def _path(key: str) -> list[str]:
    return key.replace("[]", "").split(".")


def _values(payload: Any, path: list[str]) -> Iterator[Any]:
    """Yield what stands at a path; lists on the way are entered, the last one is yielded whole."""
    if not path:
        yield payload
    elif isinstance(payload, dict):
        if path[0] in payload:
            yield from _values(payload[path[0]], path[1:])
    elif isinstance(payload, list):
        for element in payload:
            yield from _values(element, path)


def _whole(key: str, test: Callable[[list[Any]], bool], *, expected: bool) -> Predicate:
    path = _path(key)
    return lambda _, payload: test(list(_values(payload, path))) is expected


def _element(key: str, test: Test) -> Predicate:
    path = _path(key)

    def holds(_: bytes, payload: dict[str, Any]) -> bool:
        for value in _values(payload, path):
            if any(map(test, value)) if isinstance(value, list) else test(value):
                return True
        return False

    return holds


def _is_empty(values: list[Any]) -> bool:
    return all(value is None or value == [] for value in values)


def _is_null(values: list[Any]) -> bool:
    return any(value is None or (isinstance(value, list) and None in value) for value in values)


def _key_condition(key: str, one: Condition) -> Predicate:
    tests: list[Predicate] = []
    if one.match is not None:
        tests.append(_element(key, _match(one.match)))
    if one.range is not None:
        tests.append(_element(key, _range(one.range)))
    if one.values_count is not None:
        within = _range(one.values_count)
        tests.append(_whole(key, lambda values: any(within(_count(value)) for value in values), expected=True))
    for flag, test in ((one.is_empty, _is_empty), (one.is_null, _is_null)):
        if isinstance(flag, bool):
            tests.append(_whole(key, test, expected=flag))
    if len(tests) != 1:
        raise InvalidVectorRequest(f"the condition on '{key[:64]}' needs exactly one of match, range, values_count")
    return tests[0]


def _count(value: Any) -> int:
    if isinstance(value, list):
        return len(value)
    return 0 if value is None else 1


def _match(match: Match) -> Test:
    forms = (match.value, match.text, match.text_any, match.phrase, match.any, match.except_)
    if sum(form is not None for form in forms) != 1:
        raise InvalidVectorRequest("a match needs exactly one of value, text, text_any, phrase, any, except")
    if match.value is not None:
        wanted, kind = match.value, type(match.value)
        return lambda value: type(value) is kind and value == wanted
    if match.any is not None:
        some = frozenset(match.any)
        return lambda value: type(value) in {int, str} and value in some
    if match.except_ is not None:
        none = frozenset(match.except_)
        return lambda value: value is not None and not (type(value) in {int, str} and value in none)
    words = match.text_any.split() if match.text_any is not None else [match.text or match.phrase or ""]
    return lambda value: isinstance(value, str) and any(word in value for word in words)


def _range(bounds: Range) -> Test:
    given = [bound for bound in (bounds.lt, bounds.gt, bounds.lte, bounds.gte) if bound is not None]
    if any(isinstance(bound, str) for bound in given):
        return _time_range(bounds)
    lt, gt, lte, gte = bounds.lt, bounds.gt, bounds.lte, bounds.gte

    def holds(value: Any) -> bool:
        return (
            type(value) in {int, float}
            and (lt is None or value < lt)
            and (gt is None or value > gt)
            and (lte is None or value <= lte)
            and (gte is None or value >= gte)
        )

    return holds


def _time_range(bounds: Range) -> Test:
    lt, gt, lte, gte = (_bound(bound) for bound in (bounds.lt, bounds.gt, bounds.lte, bounds.gte))

    def holds(value: Any) -> bool:
        at = _time(value)
        return (
            at is not None
            and (lt is None or at < lt)
            and (gt is None or at > gt)
            and (lte is None or at <= lte)
            and (gte is None or at >= gte)
        )

    return holds


def _bound(bound: float | str | None) -> datetime | None:
    at = _time(bound)
    if at is None and bound is not None:
        raise InvalidVectorRequest(f"'{str(bound)[:40]}' is not a time", hint="write RFC 3339: 2026-11-24T10:00:00Z")
    return at


def _time(value: Any) -> datetime | None:
    if not isinstance(value, str):
        return None
    try:
        at = datetime.fromisoformat(value)
    except ValueError:
        return None
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
