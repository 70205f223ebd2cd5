"""Between a unit's bytes and the chunks of a store, both ways; and the registry of what can be captured."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TypeVar

import trio

from frys_node.base.errors import NotFound
from frys_node.base.types import UnitId
from frys_node.kernel.services.snapshots import Snapshottable
from snapshots.chunking import Chunker
from snapshots.errors import SnapshotError
from snapshots.manifest import Manifest
from snapshots.store import ChunkStore

T = TypeVar("T")

SHIELD_S = 5.0
"""How long clean-up may take after a cancel."""


@asynccontextmanager
async def closing(parts: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    """Close a generator of parts when its reader is done or has failed, instead of leaving it to the collector."""
    try:
        yield parts
    finally:
        close = getattr(parts, "aclose", None)
        if close is not None:
            with trio.move_on_after(SHIELD_S, shield=True):
                await close()


def kind_of(unit: UnitId) -> str:
    """Return the first part of a unit id."""
    return unit.split("/", 1)[0]


def provider_of(providers: Mapping[str, Snapshottable], unit: UnitId) -> Snapshottable:
    """Return what captures and restores the unit.

    Raises:
        NotFound: No kind of that name is registered on this node. Nothing was done.
    """
    kind = kind_of(unit)
    provider = providers.get(kind)
    if provider is None:
        known = ", ".join(sorted(providers)) or "none"
        raise NotFound(f"this node has no units of kind '{kind}'", hint=f"kinds here: {known}; is its plugin loaded?")
    return provider


async def capture(store: ChunkStore, provider: Snapshottable, unit: UnitId) -> Manifest:
    """Fix a unit's state and put its chunks into the store, pinned once each; the caller unpins."""
    captured = await provider.capture(unit)
    chunker = Chunker(unit)
    pinned: list[bytes] = []
    try:
        async with closing(captured.parts()) as parts:
            async for part in parts:
                for chunk, data in chunker.push(part):
                    store.pin((chunk.digest,))
                    pinned.append(chunk.digest)
                    await store.put(chunk, data)
        rest, manifest = chunker.finish()
        for chunk, data in rest:
            store.pin((chunk.digest,))
            pinned.append(chunk.digest)
            await store.put(chunk, data)
    except BaseException:
        store.unpin(pinned)
        raise
    return manifest


async def parts_of(store: ChunkStore, manifest: Manifest) -> AsyncIterator[bytes]:
    """Yield a manifest's chunks in order, each checked against its digest."""
    for chunk in manifest.chunks:
        yield await store.get(chunk)


async def verify_stored(store: ChunkStore, manifest: Manifest) -> None:
    """Read every chunk of a manifest; `CorruptChunk` if one is missing or wrong. No state is touched."""
    for chunk in dict.fromkeys(manifest.chunks):
        await store.get(chunk)


def check_unit(manifest: Manifest, unit: UnitId) -> None:
    """Refuse a manifest of another unit: a mix-up must never be merged."""
    if manifest.unit != unit:
        raise SnapshotError(f"a snapshot of '{manifest.unit}' was given for '{unit}'")
