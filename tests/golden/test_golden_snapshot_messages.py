"""What earlier versions said to one another about snapshots decodes for ever (D14)."""

from __future__ import annotations

from pathlib import Path

from frys_node.base.types import UnitId
from snapshots.manifest import ChunkRef
from snapshots.messages import CHUNK, OFFER, Chunk, Offer, Wish

GOLDEN = Path(__file__).parent


def test_offers_and_chunks_of_sources_without_wishes_decode() -> None:
    """Version 1 knew no wishes: its answers ask for nothing."""
    offer, chunk = map(bytes.fromhex, (GOLDEN / "snapshot-messages-1.hex").read_text().split())
    ref = ChunkRef(bytes(range(32)), 5)
    assert OFFER.reply.decode(offer) == Offer(UnitId("cache/1"), 5, 262_144, 1, b"root", 1, (ref,), Wish())
    assert CHUNK.reply.decode(chunk) == Chunk(b"hello", Wish())
