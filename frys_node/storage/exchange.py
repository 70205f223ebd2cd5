"""The file form of a partition: how its runs and journals travel between stores. Sans-I/O.

A header, then for each run (ordered by id) its row and its chunks, then an end mark with counts: a cut-off copy is
refused instead of installed. Versioned from the first byte; equal state gives equal bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from frys_node.base.errors import CorruptData, WireError
from frys_node.storage.ports import APPEND_BYTES_MAX, Chunk, RunRow
from frys_node.wire.frame import FrameReader, encode_frame

EXPORT_VERSION = 1
PIECE_BYTES_MAX = 256 << 10
"""Size of the pieces that exports are handed out in."""

_MAGIC = b"frys-partition"
_FRAME_BYTES_MAX = 3 * APPEND_BYTES_MAX
_HEADER, _RUN, _CHUNK, _END = 1, 2, 3, 4


class _Row(msgspec.Struct, frozen=True, array_like=True):
    id: str
    seq: int
    status: str
    live: bool
    label: str
    wake_at_s: float | None
    created_ns: int
    updated_ns: int
    meta: bytes
    state: bytes


class _Chunk(msgspec.Struct, frozen=True, array_like=True):
    seq: int
    count: int
    data: bytes


class PartitionContent(NamedTuple):
    """Every run of a partition with its journal."""

    runs: list[tuple[RunRow, list[Chunk]]]


def encode_partition(partition: int, runs: Iterable[tuple[RunRow, list[Chunk]]]) -> Iterator[bytes]:
    """Yield the frames of a partition; `runs` must be ordered by id."""
    encode = msgspec.msgpack.encode
    yield encode_frame(_HEADER, encode([_MAGIC, EXPORT_VERSION, partition]))
    run_count = chunk_count = 0
    for row, chunks in runs:
        run_count += 1
        body = _Row(
            row.id,
            row.seq,
            row.status,
            row.live,
            row.label,
            row.wake_at_s,
            row.created_ns,
            row.updated_ns,
            row.meta,
            row.state,
        )
        yield encode_frame(_RUN, encode(body), _FRAME_BYTES_MAX)
        for chunk in chunks:
            chunk_count += 1
            yield encode_frame(_CHUNK, encode(_Chunk(chunk.seq, chunk.count, chunk.data)), _FRAME_BYTES_MAX)
    yield encode_frame(_END, encode([run_count, chunk_count]))


def in_pieces(frames: Iterable[bytes]) -> Iterator[bytes]:
    """Regroup bytes into pieces of `PIECE_BYTES_MAX` (the last one may be shorter)."""
    buffer = bytearray()
    for frame in frames:
        buffer += frame
        while len(buffer) >= PIECE_BYTES_MAX:
            yield bytes(buffer[:PIECE_BYTES_MAX])
            del buffer[:PIECE_BYTES_MAX]
    if buffer:
        yield bytes(buffer)


def decode_partition(partition: int, pieces: Iterable[bytes]) -> PartitionContent:
    """Read exported bytes back.

    Raises:
        CorruptData: Damaged, cut off, of another partition or of a newer version. Nothing was used.
    """
    reader = FrameReader(_FRAME_BYTES_MAX)
    frames = []
    try:
        for piece in pieces:
            frames += reader.receive_data(piece)
        if reader.buffered_bytes or len(frames) < 2:
            raise CorruptData(f"the copy of workflow partition {partition} is cut off: copy it again")
        magic, version, number = msgspec.msgpack.decode(frames[0].body, type=tuple[bytes, int, int])
        if frames[0].kind != _HEADER or magic != _MAGIC or number != partition:
            raise CorruptData(f"these bytes are not a copy of workflow partition {partition}")
        if version > EXPORT_VERSION:
            raise CorruptData(f"the copy has format {version}, this node reads up to {EXPORT_VERSION}: upgrade it")
        runs: list[tuple[RunRow, list[Chunk]]] = []
        for kind, body in frames[1:-1]:
            if kind == _RUN:
                row = msgspec.msgpack.decode(body, type=_Row)
                runs.append((RunRow(partition=partition, **msgspec.structs.asdict(row)), []))
            elif kind == _CHUNK and runs:
                chunk = msgspec.msgpack.decode(body, type=_Chunk)
                runs[-1][1].append(Chunk(chunk.seq, chunk.count, chunk.data))
            else:
                raise CorruptData(f"the copy of workflow partition {partition} holds an unknown record {kind}")
        counts = msgspec.msgpack.decode(frames[-1].body, type=tuple[int, int])
    except (WireError, msgspec.DecodeError, msgspec.ValidationError) as error:
        raise CorruptData(f"the copy of workflow partition {partition} is damaged: {error}") from error
    if frames[-1].kind != _END or counts != (len(runs), sum(len(chunks) for _, chunks in runs)):
        raise CorruptData(f"the copy of workflow partition {partition} is cut off: copy it again")
    for row_, chunks in runs:
        if sum(chunk.count for chunk in chunks) != row_.seq:
            raise CorruptData(f"the journal of run {row_.id} in the copy has a gap")
    return PartitionContent(runs)
