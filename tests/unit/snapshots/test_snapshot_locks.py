"""Locks of saved snapshots: what lies there and is no lock counts for nothing."""

from __future__ import annotations

import pytest

from frys_node.base.types import NodeId
from frys_node.testing.saved import MemoryObjects
from frys_node.transport.clock import SystemClock
from snapshots.locks import LOCKS, Locks


@pytest.mark.parametrize("junk", [b'{"kind":"\xff"}', b"no json", b'{"zzz":' * 20_000], ids=["bytes", "text", "deep"])
async def test_what_is_no_lock_holds_nobody_up_and_is_cleared_away(junk: bytes) -> None:
    """Others may write where snapshots lie: it was a traceback when it was not UTF-8."""
    objects = MemoryObjects()
    await objects.create(f"{LOCKS}/use.junk.1.1", junk)
    locks = Locks(objects, SystemClock(), NodeId("a" * 32), "p")
    async with locks.collecting("prune") as (_, other):
        assert other is None
    assert not await objects.list(LOCKS)
