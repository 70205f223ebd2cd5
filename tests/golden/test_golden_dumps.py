"""S2: the bytes of a saved state follow from the state alone, in every process and in every version that says format 2.

What is told here in digits was told by another process: a hash seed, a clock or the order of a set would change it, and
every snapshot after an upgrade would be written anew.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import aclosing

from frys_node.base.types import NodeId, UnitId
from frys_node.kernel.services.replication import Entry, Version
from frys_node.kernel.turns import Turns
from frys_node.replication.snapshot import CapturedEntries
from frys_node.storage.exchange import encode_partition, in_pieces
from frys_node.storage.ports import Chunk, RunRow
from frys_node.testing.clock import FakeClock
from snapshots.bundle import Bundler, bundle_name
from snapshots.chunking import PartChunker
from snapshots.manifest import FORMAT, PART_BYTES_MAX, ChunkRef, build_manifest, digest_of

ENTRIES = "19d9172e89b067b3ab679ed4542507c5f6ce3ae9669de135d733575265f8ff3b"
PARTITION = "46aeb23edd45fea93895a7d8869448fd0d41b1f0dd7fb72d30d1beaa0e5a4ab9"
BUNDLE = "dacac706b3de9b087390316cd87ba2f81172adc02a354cd450c813682b062d33"


def _entries() -> list[Entry]:
    rng = random.Random(11)
    nodes = [NodeId(letter * 32) for letter in "abc"]
    found = []
    for number in range(1_500):
        version = Version(10_000 + number, number % 3, nodes[number % 3], 1 + number % 2)
        value = None if number % 17 == 0 else rng.randbytes(rng.randrange(10, 2_000))
        found.append(Entry(b"key-%06d" % number, version, value))
    return found


def _runs() -> list[tuple[RunRow, list[Chunk]]]:
    rng = random.Random(12)
    return [
        (
            RunRow(
                id=f"run-{number:03}",
                partition=5,
                seq=2 * number,
                status="completed" if number % 2 else "running",
                live=number % 2 == 0,
                label="doubling",
                wake_at_s=1.5 if number % 2 == 0 else None,
                created_ns=1_000 + number,
                updated_ns=2_000 + number,
                meta=rng.randbytes(40),
                state=rng.randbytes(100),
            ),
            [Chunk(1 + 2 * count, 2, rng.randbytes(3_000)) for count in range(number)],
        )
        for number in range(30)
    ]


def _chunks(chunker: PartChunker, parts: list[bytes]) -> list[bytes]:
    return [chunk for part in parts for chunk in chunker.push(part)] + list(chunker.finish())


async def _parts(entries: list[Entry]) -> list[bytes]:
    found: AsyncIterator[bytes]
    async with aclosing(CapturedEntries(entries, Turns(FakeClock())).parts()) as found:
        return [part async for part in found]


async def test_equal_states_are_the_same_chunks_in_every_process() -> None:
    """Entries, in whatever order they are held, and runs with their journals: chunk for chunk, and the list of both."""
    bundler = Bundler()
    roots = []
    shuffled = _entries()
    random.Random(13).shuffle(shuffled)
    states = {"vector/c/1": await _parts(shuffled), "workflow/5": list(in_pieces(encode_partition(5, _runs())))}
    for unit, parts in states.items():
        chunks = _chunks(PartChunker(), parts)
        refs = [ChunkRef(digest_of(chunk), len(chunk)) for chunk in chunks]
        assert len(refs) > 4
        manifest = build_manifest(UnitId(unit), refs, PART_BYTES_MAX, FORMAT)
        bundler.add(manifest)
        roots.append(manifest.root.hex())
    assert roots == [ENTRIES, PARTITION]
    data = bundler.finish()
    assert data is not None
    assert bundle_name(data) == BUNDLE
