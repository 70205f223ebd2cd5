"""What earlier versions said to one another about snapshots decodes for ever (D14)."""

from __future__ import annotations

from pathlib import Path

from frys_node.base.types import Epoch, NodeId, Term, UnitId
from snapshots.manifest import ChunkRef
from snapshots.messages import (
    CHUNK,
    OFFER,
    SHARE,
    SURVEY,
    TAKE,
    Chunk,
    Offer,
    ShareRequest,
    Surveyed,
    TakeRequest,
    Wish,
)

GOLDEN = Path(__file__).parent


def test_offers_and_chunks_of_sources_without_wishes_decode() -> None:
    """Version 1 knew no wishes: its answers ask for nothing."""
    offer, chunk = map(bytes.fromhex, (GOLDEN / "snapshot-messages-1.hex").read_text().split())
    ref = ChunkRef(bytes(range(32)), 5)
    assert OFFER.reply.decode(offer) == Offer(UnitId("cache/1"), 5, 262_144, 1, b"root", 1, (ref,), Wish())
    assert CHUNK.reply.decode(chunk) == Chunk(b"hello", Wish())


def test_saves_and_restores_of_nodes_before_kinds_decode() -> None:
    """Version 2 saved all kinds, replaced what it found, and had no unit that could not say what it has."""
    share, take, surveyed = map(bytes.fromhex, (GOLDEN / "snapshot-messages-2.hex").read_text().split())
    epoch = Epoch(Term(2, NodeId("a" * 32)), 7)
    assert SHARE.request.decode(share) == ShareRequest("/shared", "_locks/use.a.1.1", epoch, [])
    unit = UnitId("workflow/3")
    assert TAKE.request.decode(take) == TakeRequest(unit, 4, 0, True, b"hello", False, only_empty=False)
    assert SURVEY.reply.decode(surveyed) == Surveyed([unit], [])
