"""What cache nodes say and store: bytes of the first version decode for ever, and are still written so (D14)."""

from __future__ import annotations

from typing import Any

import pytest

from frys_node.base.types import Consistency, NodeId, UnitId
from frys_node.plugins.cache.cache import CacheValue, decode_value, pack
from frys_node.plugins.cache.changer import CHANGE, ChangeReply, ChangeRequest
from frys_node.plugins.cache.changes import Change, Outcome
from frys_node.plugins.cache.keyspace import COUNT, PAGE, CountRequest, Page, PageRequest
from frys_node.plugins.cache.resp.hub import PUBLISHED, Published
from frys_node.wire.codec import Codec

UNIT = UnitId("cache/17")
CHANGES = [Change(b"default\0k", "set", [b"v", b"text/plain", 1_000, b"nx", 1]), Change(b"default\0n", "incr", [-5])]

FRAMES: list[tuple[Codec[Any], Any, str]] = [
    (
        CHANGE.request,
        ChangeRequest(CHANGES, Consistency.QUORUM, is_last=True, may_stop=True),
        (
            "949293c40964656661756c74006ba373657495c40176c40a746578742f706c61696ecd03e8c4026e780193c4096465666175"
            "6c74006ea4696e637291fba671756f72756dc3c3"
        ),
    ),
    (
        CHANGE.reply,
        ChangeReply([Outcome(1, "", "1.0.ab.2"), Outcome(None, "ERR no")], NodeId("b")),
        "92929301a0a8312e302e61622e3293c0a6455252206e6fa0a162",
    ),
    (COUNT.request, CountRequest([UNIT], b"default\0"), "9291a863616368652f3137c40864656661756c7400"),
    (
        PAGE.request,
        PageRequest(UNIT, b"default\0", 7, 10, "hash"),
        "95a863616368652f3137c40864656661756c7400070aa468617368",
    ),
    (PAGE.reply, Page([b"k", b"l"], 1 << 32), "9292c4016bc4016ccf0000000100000000"),
    (PUBLISHED, Published(b"news", b"hello"), "92c4046e657773c40568656c6c6f"),
]


@pytest.mark.parametrize(("codec", "message", "frame"), FRAMES, ids=lambda value: type(value).__name__)
def test_messages_of_the_first_version_are_read_and_written(codec: Codec[Any], message: Any, frame: str) -> None:
    """Field by field, in their order; new ones only come at the end."""
    data = bytes.fromhex(frame)
    assert codec.encode(message) == data
    assert codec.encode(codec.decode(data)) == data


def test_a_request_for_changes_of_the_first_version_wants_all_outcomes() -> None:
    """Its three fields decode, and who sent it gets every outcome in one reply."""
    old = bytes.fromhex("93" + FRAMES[0][2][2:-2])
    assert CHANGE.request.decode(old) == ChangeRequest(CHANGES, Consistency.QUORUM, is_last=True)


def test_stored_values_of_both_forms_are_read() -> None:
    """Three fields, as nodes without hashes pack them, and four."""
    assert decode_value(bytes.fromhex("93cd03e8aa746578742f706c61696ec40568656c6c6f")) == CacheValue(
        1_000, "text/plain", b"hello"
    )
    value = CacheValue(0, "application/octet-stream", b"", {b"f": b"1"})
    data = bytes.fromhex("9400b86170706c69636174696f6e2f6f637465742d73747265616dc40081c40166c40131")
    assert (decode_value(data), pack(value)) == (value, data)
