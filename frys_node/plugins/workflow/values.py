"""Values in the journal: deterministic MessagePack, typed on the way back. Sans-I/O.

The workflow always gets the decoded journal value, live and in replay, so that both see equal types.
"""

from __future__ import annotations

import zlib
from typing import Any

import msgspec

from frys_node.plugins.workflow.errors import NotJournalable

VALUE_BYTES_MAX = 4 << 20
"""Largest argument list or step result."""
OUTPUT_BYTES_MAX = 768 << 10
"""Largest output of a workflow, input or signal value: it travels between nodes in one frame of 1 MiB."""


def _refuse(value: object) -> object:
    raise TypeError(type(value).__name__)


_ENCODER = msgspec.msgpack.Encoder(order="deterministic", enc_hook=_refuse)


def encode_value(value: object, what: str, limit_bytes: int = VALUE_BYTES_MAX) -> bytes:
    """Encode a value; equal values give equal bytes in every process.

    Raises:
        NotJournalable: It has no MessagePack form or is too large; the message names `what`.
    """
    try:
        data = _ENCODER.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise NotJournalable(
            f"{what} cannot be journaled ({error})",
            hint="pass plain data (numbers, text, lists, dicts, Structs), or an id, and open the thing in the step",
        ) from error
    if len(data) > limit_bytes:
        raise NotJournalable(
            f"{what} has {len(data)} bytes, over the limit of {limit_bytes}",
            hint="store large data elsewhere and pass its id",
        )
    return data


def decode_value(data: bytes, type_: Any = Any) -> Any:
    """Decode a value to a type.

    Raises:
        NotJournalable: The bytes do not fit the type (was an annotation changed?).
    """
    try:
        return msgspec.msgpack.decode(data, type=type_)
    except msgspec.MsgspecError as error:
        raise NotJournalable(f"a journaled value does not fit {type_}: {error}") from error


def arguments_crc(name: str, payload: bytes) -> int:
    """Return the check value of a call: it guards against mistakes, not against attackers."""
    return zlib.crc32(payload, zlib.crc32(name.encode()))
