"""Commands on hashes. A hash is one value: a change of one field replaces the whole of it on every replica.

Sans-I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from frys_node.plugins.cache.cache import CacheValue
from frys_node.plugins.cache.changes import Change, Outcome
from frys_node.plugins.cache.resp import encode
from frys_node.plugins.cache.resp.reader import Command
from frys_node.plugins.cache.resp.session import CommandError, Session
from frys_node.plugins.cache.resp.strings import number_of, plain

Fields = dict[bytes, bytes]


def _look(session: Session, raw: bytes, reply: Callable[[Fields], bytes]) -> None:
    """Read a hash, empty if there is none."""

    def of_values(values: Sequence[CacheValue | None], _now: int) -> bytes:
        (value,) = values
        if value is None:
            return reply({})
        return encode.error(encode.WRONGTYPE) if value.fields is None else reply(value.fields)

    session.look([session.key(raw)], of_values)


def hset(session: Session, command: Command) -> None:
    """HSET key field value [field value ...], and HMSET, which answers OK."""
    verb = command[0].lower().decode()
    if len(command) % 2:
        raise CommandError(f"ERR wrong number of arguments for '{verb}' command")
    change = Change(session.key(command[1]), "hset", [*command[2:]])
    if verb == "hset":
        session.alter([change], plain(session))
        return

    def reply(outcomes: Sequence[Outcome]) -> bytes:
        return encode.error(outcomes[0].refusal) if outcomes[0].refusal else encode.OK

    session.alter([change], reply)


def hsetnx(session: Session, command: Command) -> None:
    """HSETNX key field value."""
    session.alter([Change(session.key(command[1]), "hsetnx", [*command[2:]])], plain(session))


def hget(session: Session, command: Command) -> None:
    """HGET key field."""
    protocol = session.protocol
    _look(session, command[1], lambda fields: encode.bulk_or_null(fields.get(command[2]), protocol))


def hmget(session: Session, command: Command) -> None:
    """HMGET key field [field ...]."""
    protocol = session.protocol
    _look(
        session,
        command[1],
        lambda fields: encode.array([encode.bulk_or_null(fields.get(name), protocol) for name in command[2:]]),
    )


def hgetall(session: Session, command: Command) -> None:
    """HGETALL key."""
    protocol = session.protocol
    _look(
        session,
        command[1],
        lambda fields: encode.mapping([encode.bulk(part) for pair in fields.items() for part in pair], protocol),
    )


def hkeys(session: Session, command: Command) -> None:
    """HKEYS key."""
    _look(session, command[1], encode.bulks)


def hvals(session: Session, command: Command) -> None:
    """HVALS key."""
    _look(session, command[1], lambda fields: encode.bulks(fields.values()))


def hlen(session: Session, command: Command) -> None:
    """HLEN key."""
    _look(session, command[1], lambda fields: encode.integer(len(fields)))


def hstrlen(session: Session, command: Command) -> None:
    """HSTRLEN key field."""
    _look(session, command[1], lambda fields: encode.integer(len(fields.get(command[2], b""))))


def hexists(session: Session, command: Command) -> None:
    """HEXISTS key field."""
    _look(session, command[1], lambda fields: encode.integer(command[2] in fields))


def hdel(session: Session, command: Command) -> None:
    """HDEL key field [field ...]."""
    session.alter([Change(session.key(command[1]), "hdel", [*command[2:]])], plain(session))


def hincrby(session: Session, command: Command) -> None:
    """HINCRBY key field number."""
    change = Change(session.key(command[1]), "hincr", [command[2], number_of(command[3])])
    session.alter([change], plain(session))
