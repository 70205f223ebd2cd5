"""Saved snapshots under fuzz: what stands in a place that others may write to is read by these decoders first."""

from __future__ import annotations

from pathlib import Path

import msgspec
from fuzz_machine import check

from frys_node.base.errors import SecurityError
from frys_node.secure.kem import load_kem
from frys_node.secure.recipient import (
    format_key,
    format_recipient,
    key_file,
    parse_key,
    parse_recipients,
    recipient_file,
)
from frys_node.secure.sealed import Opener
from frys_node.secure.sealed_header import read_head
from snapshots.archive import FRONT, ArchiveReader, Inventory
from snapshots.bundle import bundle_name, decode_bundle
from snapshots.errors import CorruptManifest, UnknownFormat
from snapshots.index import copies_of, decode_index
from snapshots.manifest import CHUNKS_MAX, PART_BYTES_MAX, Manifest, decode_manifest

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


class SavedHarness:
    """Manifests, bundles, indexes and exports: the first byte says which."""

    MANIFEST, BUNDLE, INDEX, EXPORT = range(4)

    def seeds(self) -> list[bytes]:
        """The golden files of every format."""
        places = (
            (self.MANIFEST, "snapshot-manifest-1.bin"),
            (self.MANIFEST, "snapshot-directory-1/before/manifests/*"),
            (self.BUNDLE, "snapshot-directory-2/_bundles/*"),
            (self.INDEX, "snapshot-directory-1/before/index.json"),
            (self.INDEX, "snapshot-directory-2/_snapshots/before.json"),
            (self.EXPORT, "snapshot-export-1.bin"),
        )
        return [bytes([kind]) + path.read_bytes() for kind, name in places for path in sorted(GOLDEN.glob(name))]

    def run(self, data: bytes) -> None:
        """Read one; a refusal is one of the two errors, and what is accepted keeps its bounds."""
        kind, body = (data[0] % 4 if data else 0), data[1:]
        try:
            if kind == self.INDEX:
                index = decode_index(body, "before")
                check(index.format in (1, 2), "an index of an unknown format is taken")
                check(all(copies_of(index).values()), "a unit without a copy")
                again = decode_index(msgspec.json.encode(index), "before")
                check(again == index, "what was read is not what is written")
            elif kind == self.BUNDLE:
                for manifest in decode_bundle(body, bundle_name(body)).manifests:
                    self._bounds(manifest)
            elif kind == self.EXPORT:
                self._export(body)
            else:
                manifest = decode_manifest(body)
                self._bounds(manifest)
                check(decode_manifest(manifest.encode()) == manifest, "what was read is not what is written")
        except (CorruptManifest, UnknownFormat):
            return

    def _export(self, body: bytes) -> None:
        """What is taken is exactly what was written; only that which names all its objects is complete."""
        reader, inventory = ArchiveReader(), Inventory()
        items = reader.push(body[:100]) + reader.push(body[100:])
        reader.finish()
        for item in items:
            inventory.take(item)
        inventory.finish()
        check(FRONT + b"".join(item.encode() for item in items) == body, "what was read is not what was written")

    def _bounds(self, manifest: Manifest) -> None:
        sizes = [chunk.size_bytes for chunk in manifest.chunks]
        check(len(sizes) <= CHUNKS_MAX, "a manifest of too many chunks")
        check(all(0 < size <= PART_BYTES_MAX for size in sizes), "a chunk outside its bounds")
        check(sum(sizes) == manifest.size_bytes, "chunks that do not add up")


class SealedHarness:
    """Heads of sealed files, whole files, recipients and keys as texts: the first byte says which."""

    HEAD, FILE, TEXT = range(3)

    def __init__(self) -> None:
        self._key = parse_key((GOLDEN / "sealed-1.key").read_text())
        self._kem = load_kem(self._key.provider)
        self._golden = (GOLDEN / "sealed-1.bin").read_bytes()

    def seeds(self) -> list[bytes]:
        """The head of the golden file, the small one, and both texts of their key."""
        texts = (key_file(self._key), recipient_file(self._key.recipient))
        return [
            bytes([self.HEAD]) + self._golden[:2_400],
            bytes([self.FILE]) + (GOLDEN / "sealed-small-1.bin").read_bytes(),
            *(bytes([self.TEXT]) + text.encode() for text in texts),
        ]

    def run(self, data: bytes) -> None:
        """Read one; what is accepted is written as it was read, and no changed file is opened."""
        kind, body = (data[0] % 3 if data else 0), data[1:]
        try:
            if kind == self.HEAD:
                head = read_head(body)
                check(head is None or body.startswith(head.body + head.tag), "a head that is not in the file")
            elif kind == self.FILE:
                opener = Opener(self._key, kem=self._kem)
                content = opener.push(body[:50]) + opener.push(body[50:]) + opener.finish()
                check(content == b"small", "a content that nobody sealed")
            else:
                text = body.decode(errors="replace")
                if "frysr1" in text:
                    for recipient in parse_recipients(text):
                        check(format_recipient(recipient) in text, "a recipient in another form")
                else:
                    check(format_key(parse_key(text)) in text, "a key in another form")
        except SecurityError:
            return
