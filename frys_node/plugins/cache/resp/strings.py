"""Commands on strings, counters and lifetimes.

Sans-I/O. Reads look at values; plain writes are blind; whatever depends on what is there is a change.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from frys_node.plugins.cache.cache import OCTETS, CacheValue, pack_plain
from frys_node.plugins.cache.changes import INTEGER_MAX, INTEGER_MIN, KEEP, TOO_LONG, Change, Outcome, parse_integer
from frys_node.plugins.cache.resp import encode
from frys_node.plugins.cache.resp.reader import Command
from frys_node.plugins.cache.resp.session import CommandError, Session
from frys_node.plugins.cache.resp.steps import FromOutcomes

Values = Sequence[CacheValue | None]

TYPE = OCTETS.encode()


def number_of(text: bytes) -> int:
    """Read a signed 64-bit number.

    Raises:
        CommandError: It is none.
    """
    number = parse_integer(text)
    if number is None:
        raise CommandError(encode.NOT_INTEGER)
    return number


def first(outcomes: Sequence[Outcome], protocol: int) -> bytes:
    """Reply with the outcome of a single change."""
    (outcome,) = outcomes
    return encode.error(outcome.refusal) if outcome.refusal else encode.encode(outcome.result, protocol)


def plain(session: Session) -> FromOutcomes:
    """Return what replies with the outcome of a single change in the session's protocol."""
    protocol = session.protocol
    return lambda outcomes: first(outcomes, protocol)


def total(outcomes: Sequence[Outcome]) -> bytes:
    """Reply with the sum of the outcomes."""
    for outcome in outcomes:
        if outcome.refusal:
            return encode.error(outcome.refusal)
    return encode.integer(sum(outcome.result for outcome in outcomes if isinstance(outcome.result, int)))


def expiry(session: Session, word: bytes, text: bytes, verb: str) -> int:
    """Return the end of a lifetime given by EX, PX, EXAT or PXAT, in Unix milliseconds."""
    number = number_of(text)
    invalid = CommandError(f"ERR invalid expire time in '{verb}' command")
    if number <= 0:
        raise invalid
    number = number * 1_000 if word in (b"EX", b"EXAT") else number
    if word in (b"EX", b"PX"):
        number += session.around.now_unix_ms()
    if number > INTEGER_MAX:
        raise invalid
    return number


ENDS = (b"EX", b"PX", b"EXAT", b"PXAT")


def _next(words: Iterator[bytes]) -> bytes:
    """Return the word after the one just read."""
    word = next(words, None)
    if word is None:
        raise CommandError(encode.SYNTAX)
    return word


def _body(session: Session, body: bytes) -> bytes:
    if len(body) > session.around.limits().value_bytes_max:
        raise CommandError(TOO_LONG)
    return body


def get(session: Session, command: Command) -> None:
    """GET key."""
    session.get(session.key(command[1]))


def mget(session: Session, command: Command) -> None:
    """MGET key [key ...]: what is no string is nothing."""
    protocol = session.protocol

    def reply(values: Values, _now: int) -> bytes:
        bodies = [None if value is None or value.fields is not None else value.body for value in values]
        return encode.array([encode.bulk_or_null(body, protocol) for body in bodies])

    session.look(session.keys(command[1:]), reply)


def strlen(session: Session, command: Command) -> None:
    """STRLEN key."""

    def reply(values: Values, _now: int) -> bytes:
        (value,) = values
        if value is None:
            return encode.integer(0)
        return encode.error(encode.WRONGTYPE) if value.fields is not None else encode.integer(len(value.body))

    session.look([session.key(command[1])], reply)


def exists(session: Session, command: Command) -> None:
    """EXISTS key [key ...]: a key that is named twice counts twice."""
    session.look(
        session.keys(command[1:]), lambda values, _now: encode.integer(sum(value is not None for value in values))
    )


def type_of(session: Session, command: Command) -> None:
    """TYPE key."""

    def reply(values: Values, _now: int) -> bytes:
        (value,) = values
        return encode.simple("none" if value is None else "string" if value.fields is None else "hash")

    session.look([session.key(command[1])], reply)


def ttl(session: Session, command: Command) -> None:
    """TTL, PTTL, EXPIRETIME and PEXPIRETIME key: -2 without a value, -1 without an end."""
    verb = command[0].upper()

    def reply(values: Values, now_unix_ms: int) -> bytes:
        (value,) = values
        if value is None:
            return encode.integer(-2)
        if not value.expires_unix_ms:
            return encode.integer(-1)
        at_ms = value.expires_unix_ms
        left_ms = max(0, at_ms - now_unix_ms)
        return encode.integer(
            {b"TTL": (left_ms + 500) // 1_000, b"PTTL": left_ms, b"EXPIRETIME": (at_ms + 500) // 1_000}.get(verb, at_ms)
        )

    session.look([session.key(command[1])], reply)


def set_(session: Session, command: Command) -> None:
    """SET key value [NX | XX] [GET] [EX s | PX ms | EXAT s | PXAT ms | KEEPTTL]."""
    key, body = session.key(command[1]), _body(session, command[2])
    when, wants_old = b"", False
    end, text = b"", b""
    words = iter(command[3:])
    for raw in words:
        word = raw.upper()
        # As in Redis a word may come twice, and of two numbers the later counts.
        if word in (b"NX", b"XX") and when in (b"", word.lower()):
            when = word.lower()
        elif word == b"GET":
            wants_old = True
        elif word in (b"KEEPTTL", *ENDS) and end in (b"", word):
            end, text = word, b"" if word == b"KEEPTTL" else _next(words)
        else:
            raise CommandError(encode.SYNTAX)
    expires_unix_ms = KEEP if end == b"KEEPTTL" else expiry(session, end, text, "set") if end else 0
    if not when and not wants_old and expires_unix_ms != KEEP:
        session.store({key: pack_plain(body, expires_unix_ms)}, encode.OK)
        return
    protocol = session.protocol

    def reply(outcomes: Sequence[Outcome]) -> bytes:
        (outcome,) = outcomes
        if wants_old or outcome.refusal:
            return first(outcomes, protocol)
        return encode.OK if outcome.result else encode.null(protocol)

    session.alter([Change(key, "set", [body, TYPE, expires_unix_ms, when, int(wants_old)])], reply)


def setnx(session: Session, command: Command) -> None:
    """SETNX key value."""
    key = session.key(command[1])
    session.alter([Change(key, "set", [_body(session, command[2]), TYPE, 0, b"nx", 0])], plain(session))


def setex(session: Session, command: Command) -> None:
    """SETEX key seconds value, PSETEX key milliseconds value."""
    verb = command[0].lower().decode()
    key = session.key(command[1])
    end = expiry(session, b"EX" if verb == "setex" else b"PX", command[2], verb)
    session.store({key: pack_plain(_body(session, command[3]), end)}, encode.OK)


def getset(session: Session, command: Command) -> None:
    """GETSET key value."""
    key = session.key(command[1])
    session.alter([Change(key, "set", [_body(session, command[2]), TYPE, 0, b"", 1])], plain(session))


def mset(session: Session, command: Command) -> None:
    """MSET key value [key value ...]: each key by itself."""
    if len(command) % 2 == 0:
        raise CommandError("ERR wrong number of arguments for 'mset' command")
    keys = session.keys(command[1::2])
    values = [pack_plain(_body(session, body)) for body in command[2::2]]
    session.store(dict(zip(keys, values, strict=True)), encode.OK)


def delete(session: Session, command: Command) -> None:
    """DEL and UNLINK key [key ...]."""
    session.alter([Change(key, "del") for key in session.keys(command[1:])], total)


def getdel(session: Session, command: Command) -> None:
    """GETDEL key."""
    session.alter([Change(session.key(command[1]), "getdel")], plain(session))


def getex(session: Session, command: Command) -> None:
    """GETEX key [EX s | PX ms | EXAT s | PXAT ms | PERSIST]."""
    key = session.key(command[1])
    end, text = b"", b""
    words = iter(command[2:])
    for raw in words:
        word = raw.upper()
        if word not in (b"PERSIST", *ENDS) or end not in (b"", word):
            raise CommandError(encode.SYNTAX)
        end, text = word, b"" if word == b"PERSIST" else _next(words)
    if not end:
        session.get(key)
        return
    expires_unix_ms = 0 if end == b"PERSIST" else expiry(session, end, text, "getex")
    session.alter([Change(key, "getex", [expires_unix_ms])], plain(session))


def expire(session: Session, command: Command) -> None:
    """EXPIRE, PEXPIRE, EXPIREAT and PEXPIREAT key time [NX | XX | GT | LT]."""
    verb = command[0].lower().decode()
    key = session.key(command[1])
    conditions = {raw.lower(): raw for raw in command[3:]}
    for word, raw in conditions.items():
        if word not in (b"nx", b"xx", b"gt", b"lt"):
            raise CommandError(f"ERR Unsupported option {raw.decode(errors='replace')}")
    if b"nx" in conditions and len(conditions) > 1:
        raise CommandError("ERR NX and XX, GT or LT options at the same time are not compatible")
    if b"gt" in conditions and b"lt" in conditions:
        raise CommandError("ERR GT and LT options at the same time are not compatible")
    number = number_of(command[2])
    at_ms = number if verb.startswith("p") else number * 1_000
    is_outside = not INTEGER_MIN <= at_ms <= INTEGER_MAX
    if not verb.endswith("at"):
        at_ms += session.around.now_unix_ms()
    if is_outside or at_ms > INTEGER_MAX:
        raise CommandError(f"ERR invalid expire time in '{verb}' command")
    session.alter([Change(key, "expire", [at_ms, *(conditions or [b""])])], plain(session))


def persist(session: Session, command: Command) -> None:
    """PERSIST key."""
    session.alter([Change(session.key(command[1]), "persist")], plain(session))


def increment(session: Session, command: Command) -> None:
    """INCR and DECR key, INCRBY and DECRBY key number."""
    verb = command[0].upper()
    key = session.key(command[1])
    by = number_of(command[2]) if len(command) > 2 else 1
    if verb in (b"DECR", b"DECRBY"):
        if by == -(1 << 63):
            raise CommandError("ERR decrement would overflow")
        by = -by
    session.alter([Change(key, "incr", [by])], plain(session))


def append(session: Session, command: Command) -> None:
    """APPEND key value."""
    session.alter([Change(session.key(command[1]), "append", [command[2]])], plain(session))
