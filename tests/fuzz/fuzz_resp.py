"""What Redis clients send: the reader however the bytes are cut, and the session that plans what was read."""

from __future__ import annotations

import types

from fuzz_machine import check

from frys_node.base.access import ADMIN
from frys_node.plugins.cache.resp.reader import Command, ProtocolError, RequestReader
from frys_node.plugins.cache.resp.session import Limits, Session, Surroundings
from frys_node.plugins.cache.resp.steps import Do, Say, Step
from frys_node.plugins.cache.resp.table import COMMANDS

ARGUMENTS_MAX = 64
REQUEST_BYTES_MAX = 4_096
CUTS = (1, 2, 3, 7, 61)
PIECES_MAX = 25
"""An input is read in about so many pieces at most: by hand each costs the length of what has not ended."""

STREAM_BYTES_MAX = 512
"""As much of an input is read."""

LINES = (
    "SET k v|GET k|SET k w NX EX 10|MGET a b c|MSET a 1 b 2|INCR n|HSET h a 1 b 2|HGETALL h|SCAN 0 MATCH a* COUNT 5",
    "MULTI|SET t 1|GET t|EXEC|MULTI|DISCARD|WATCH t|UNWATCH|EXPIRE e 5 GT|GETEX e PERSIST|APPEND k x|DEL a b",
    "HELLO 3 AUTH default x SETNAME me|AUTH x|SELECT 3|CLIENT SETINFO LIB-NAME x|RESET|CONFIG GET max*|QUIT",
    "SUBSCRIBE a b|PING x|UNSUBSCRIBE|PUBLISH a m|PUBSUB NUMSUB a|CLUSTER SLOTS|COMMAND GETKEYS MSET a 1|ECHO",
)

Reading = tuple[list[Command], str, bool]
"""Commands, the complaint, and whether a part is left."""


def array(command: str) -> bytes:
    """A command as clients send it."""
    words = command.encode().split()
    return b"*%d\r\n%b" % (len(words), b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words))


def read(data: bytes, cut: int, *, is_trusted: bool) -> Reading:
    """Return the commands, the complaint, and whether a part is left, when the bytes come in pieces of `cut`."""
    reader = RequestReader(ARGUMENTS_MAX, REQUEST_BYTES_MAX)
    reader.is_trusted = is_trusted
    commands: list[Command] = []
    for start in range(0, len(data), cut):
        try:
            commands += reader.feed(data[start : start + cut])
        except ProtocolError as error:
            return commands + error.commands, str(error), False
    return commands, "", reader.is_partial


def agree(data: bytes, one: Reading, other: Reading) -> bool:
    """True if two readings are the same, but for when the reader notices.

    By hand a word that is no string is refused when it is seen, by hiredis when the whole request is there. And behind
    an array hiredis takes a line that begins with ``$`` for a string, and waits for it before it is read by hand. So
    one reading may wait, without a complaint, for what the other went on with; what it has read has to be the same.
    """
    if one == other:
        return True
    waits, goes_on = sorted((one, other), key=lambda reading: (not reading[2], len(reading[0])))
    return waits[2] and not waits[1] and b"$" in data and goes_on[0][: len(waits[0])] == waits[0]


class RespHarness:
    """`RequestReader` and `Session`: a client's bytes, whole and cut, of a friend and of a stranger."""

    def seeds(self) -> list[bytes]:
        """Conversations as arrays and as lines, pipelines of one shape, and what is wrong with arrays."""
        talks = [line.split("|") for line in LINES]
        arrays = [array(command) for talk in talks for command in talk]
        lines = ["\r\n".join(talk[:4]).encode() + b"\r\n" for talk in talks]
        transaction = b"".join(map(array, talks[1][:6]))
        uniform = [[array(f"{verb}:{n}") for n in range(10, 22)] for verb in ("GET key", "SET key val")]
        odd = b"*1\r\n$4\r\nPING\r\n*0\r\n*-1\r\n\r\n\"a\\x41\" 'b\\'c'\r\n*2\r\n$1\r\na\r\n:1\r\n"
        return [
            *arrays,
            *lines,
            transaction,
            *(b"".join(pipeline) for pipeline in uniform),
            odd,
            b"*99999\r\n$5\r\n",
            b"GET / HTTP/1.1\r\n",
        ]

    def run(self, data: bytes) -> None:
        """Read the input in two ways or three, which must agree, and plan it."""
        data = data[:STREAM_BYTES_MAX]
        kind = sum(data[:64])
        is_trusted = kind % 4 > 0
        cut = max(CUTS[kind % len(CUTS)], len(data) // PIECES_MAX)
        whole = read(data, max(1, len(data)), is_trusted=is_trusted)
        check(agree(data, read(data, cut, is_trusted=is_trusted), whole), f"read otherwise in pieces of {cut}")
        commands, complaint, is_partial = whole
        check(all(commands), "a command without words")
        uniform = RequestReader(ARGUMENTS_MAX, REQUEST_BYTES_MAX).uniform(data) if is_trusted else None
        if uniform is not None:
            name = data[8:11]
            rows = zip(uniform.keys, uniform.values or uniform.keys, strict=True)
            shape = [[name, key] if uniform.values is None else [name, key, value] for key, value in rows]
            check((shape, "", False) == (commands, complaint, is_partial), "the short cut reads something else")
        self._plan(commands, must_authenticate=not is_trusted)

    def _plan(self, commands: list[Command], *, must_authenticate: bool) -> None:
        around = Surroundings(
            commands=COMMANDS,
            limits=lambda: Limits(64, 512, ARGUMENTS_MAX, 8),
            now_unix_ms=lambda: 1_000_000,
            authenticate=lambda token: ADMIN if token == b"x" and not must_authenticate else None,
            is_valid=lambda _principal: True,
            redirect=lambda key: None,
            settings=lambda: types.MappingProxyType({"maxmemory": "1"}),
            describe=lambda session: "me",
        )
        session = Session(1, around, must_authenticate=must_authenticate)
        batch, seen = commands, list[Step]()
        while batch and not session.is_closing:
            steps, done = session.plan(batch)
            check(0 < done <= len(batch), "nothing of a batch was planned")
            seen += steps
            batch = batch[done:]
        check(all(step.count > 0 for step in seen), "a step answers nobody")
        if must_authenticate:
            check(
                all(isinstance(s, Say) or (isinstance(s, Do) and s.verb == "unsubscribe_all") for s in seen), "it acts"
            )
