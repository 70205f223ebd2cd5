"""The table of commands: names, how many words they take, where their keys are, and who makes steps of them.

Sans-I/O. ``COMMAND`` answers from it, in the form that clients build their routing on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from frys_node.base.access import Level, Resource
from frys_node.plugins.cache.resp import client, encode, hashes, strings, transaction
from frys_node.plugins.cache.resp.reader import Command
from frys_node.plugins.cache.resp.session import CommandError, Session

Handler = Callable[[Session, Command], None]


class Spec(NamedTuple):
    """One command. `arity` counts the name too; negative: at least so many. Keys are words `first` to `last`."""

    name: str
    handler: Handler
    arity: int
    flags: frozenset[str]
    first: int = 0
    last: int = 0
    step: int = 0

    def takes(self, words: int) -> bool:
        """True if the command may have so many words."""
        return words == self.arity if self.arity > 0 else words >= -self.arity

    def keys_of(self, command: Command) -> list[bytes]:
        """The keys among the command's words."""
        if not self.first:
            return []
        end = self.last + 1 if self.last > 0 else len(command)
        return command[self.first : end : self.step]

    def need_of(self, command: Command) -> tuple[Level, Resource]:
        """The least role for it, and what it touches."""
        if self.name == "client" and command[1].upper() == b"LIST":
            return Level.READ, Resource.CLUSTER
        found = NEEDS.get(self.name)
        if found is not None:
            return found
        return (Level.WRITE if WRITE in self.flags else Level.READ), Resource.NAMESPACE


def _spec(name: str, handler: Handler, arity: int, flags: str = "", keys: tuple[int, int, int] = (0, 0, 0)) -> Spec:
    return Spec(name, handler, arity, frozenset(flags.split()), *keys)


ONE_KEY = (1, 1, 1)
ALL_KEYS = (1, -1, 1)
READ, WRITE = "readonly", "write"
OPEN = "loading stale fast no_auth"
SUBSCRIBES = "pubsub noscript loading stale pubsub_ok no_multi"
TRANSACTS = "noscript loading stale fast no_queue"


def _command(session: Session, command: Command) -> None:
    """COMMAND, COMMAND COUNT, INFO, DOCS, LIST, GETKEYS."""
    if len(command) == 1:
        session.say(encode.array([_details(spec, session.protocol) for spec in COMMANDS.values()]))
        return
    verb, names = command[1].upper(), command[2:]
    if verb == b"COUNT" and not names:
        session.say(encode.integer(len(COMMANDS)))
    elif verb == b"INFO":
        wanted = [COMMANDS.get(name.upper()) for name in names] if names else [*COMMANDS.values()]
        null = encode.null(session.protocol)
        session.say(encode.array([null if spec is None else _details(spec, session.protocol) for spec in wanted]))
    elif verb == b"LIST" and not names:
        session.say(encode.bulks([spec.name.encode() for spec in COMMANDS.values()]))
    elif verb == b"DOCS":
        # Known clients take an empty page for "use your own".
        session.say(encode.mapping([], session.protocol))
    elif verb == b"GETKEYS" and names:
        session.say(encode.bulks(_keys_of(names)))
    else:
        client.other_subcommand(session, command)


def _keys_of(command: Command) -> list[bytes]:
    spec = COMMANDS.get(command[0].upper())
    if spec is None:
        raise CommandError("ERR Invalid command specified")
    if not spec.takes(len(command)):
        raise CommandError("ERR Invalid number of arguments specified for command")
    if not spec.first:
        raise CommandError("ERR The command has no key arguments")
    return spec.keys_of(command)


def _details(spec: Spec, protocol: int) -> bytes:
    """Return one command as COMMAND lists it: flags are statuses, not strings."""
    flags = sorted(spec.flags - {"pubsub_ok", "no_queue"})
    return encode.array(
        [
            encode.bulk(spec.name.encode()),
            encode.integer(spec.arity),
            encode.statuses(flags, protocol),
            *(encode.integer(number) for number in (spec.first, spec.last, spec.step)),
            *[encode.statuses((), protocol)] * 4,
        ]
    )


_ALL = (
    _spec("append", strings.append, 3, WRITE, ONE_KEY),
    _spec("auth", client.auth, -2, OPEN),
    _spec("client", client.client, -2, OPEN.replace(" no_auth", "")),
    _spec("cluster", client.cluster, -2, "stale"),
    _spec("command", _command, -1, "loading stale"),
    _spec("config", client.config, -2, "admin loading stale"),
    _spec("dbsize", client.dbsize, 1, READ),
    _spec("decr", strings.increment, 2, WRITE, ONE_KEY),
    _spec("decrby", strings.increment, 3, WRITE, ONE_KEY),
    _spec("del", strings.delete, -2, WRITE, ALL_KEYS),
    _spec("discard", transaction.discard, 1, TRANSACTS),
    _spec("echo", client.echo, 2, "fast"),
    _spec("exec", transaction.exec_, 1, TRANSACTS),
    _spec("exists", strings.exists, -2, READ, ALL_KEYS),
    _spec("expire", strings.expire, -3, WRITE, ONE_KEY),
    _spec("expireat", strings.expire, -3, WRITE, ONE_KEY),
    _spec("expiretime", strings.ttl, 2, READ, ONE_KEY),
    _spec("flushdb", client.flushdb, -1, WRITE),
    _spec("get", strings.get, 2, READ, ONE_KEY),
    _spec("getdel", strings.getdel, 2, WRITE, ONE_KEY),
    _spec("getex", strings.getex, -2, WRITE, ONE_KEY),
    _spec("getset", strings.getset, 3, WRITE, ONE_KEY),
    _spec("hdel", hashes.hdel, -3, WRITE, ONE_KEY),
    _spec("hello", client.hello, -1, OPEN),
    _spec("hexists", hashes.hexists, 3, READ, ONE_KEY),
    _spec("hget", hashes.hget, 3, READ, ONE_KEY),
    _spec("hgetall", hashes.hgetall, 2, READ, ONE_KEY),
    _spec("hincrby", hashes.hincrby, 4, WRITE, ONE_KEY),
    _spec("hkeys", hashes.hkeys, 2, READ, ONE_KEY),
    _spec("hlen", hashes.hlen, 2, READ, ONE_KEY),
    _spec("hmget", hashes.hmget, -3, READ, ONE_KEY),
    _spec("hmset", hashes.hset, -4, WRITE, ONE_KEY),
    _spec("hset", hashes.hset, -4, WRITE, ONE_KEY),
    _spec("hsetnx", hashes.hsetnx, 4, WRITE, ONE_KEY),
    _spec("hstrlen", hashes.hstrlen, 3, READ, ONE_KEY),
    _spec("hvals", hashes.hvals, 2, READ, ONE_KEY),
    _spec("incr", strings.increment, 2, WRITE, ONE_KEY),
    _spec("incrby", strings.increment, 3, WRITE, ONE_KEY),
    _spec("info", client.info, -1, "loading stale"),
    _spec("mget", strings.mget, -2, READ, ALL_KEYS),
    _spec("mset", strings.mset, -3, WRITE, (1, -1, 2)),
    _spec("multi", transaction.multi, 1, TRANSACTS),
    _spec("persist", strings.persist, 2, WRITE, ONE_KEY),
    _spec("pexpire", strings.expire, -3, WRITE, ONE_KEY),
    _spec("pexpireat", strings.expire, -3, WRITE, ONE_KEY),
    _spec("pexpiretime", strings.ttl, 2, READ, ONE_KEY),
    _spec("ping", client.ping, -1, "fast pubsub_ok"),
    _spec("psetex", strings.setex, 4, WRITE, ONE_KEY),
    _spec("psubscribe", client.subscribe, -2, SUBSCRIBES),
    _spec("pttl", strings.ttl, 2, READ, ONE_KEY),
    _spec("publish", client.publish, 3, "pubsub fast"),
    _spec("pubsub", client.pubsub, -2, "pubsub"),
    _spec("punsubscribe", client.subscribe, -1, SUBSCRIBES),
    _spec("quit", client.quit_, -1, OPEN + " pubsub_ok no_queue"),
    _spec("readonly", client.readonly, 1, "fast"),
    _spec("readwrite", client.readwrite, 1, "fast"),
    _spec("reset", client.reset, 1, OPEN + " pubsub_ok no_queue"),
    _spec("scan", client.scan, -2, READ),
    _spec("select", client.select, 2, "fast"),
    _spec("set", strings.set_, -3, WRITE, ONE_KEY),
    _spec("setex", strings.setex, 4, WRITE, ONE_KEY),
    _spec("setnx", strings.setnx, 3, WRITE, ONE_KEY),
    _spec("strlen", strings.strlen, 2, READ, ONE_KEY),
    _spec("subscribe", client.subscribe, -2, SUBSCRIBES),
    _spec("ttl", strings.ttl, 2, READ, ONE_KEY),
    _spec("type", strings.type_of, 2, READ, ONE_KEY),
    _spec("unlink", strings.delete, -2, WRITE, ALL_KEYS),
    _spec("unsubscribe", client.subscribe, -1, SUBSCRIBES),
    _spec("unwatch", transaction.unwatch, 1, "noscript loading stale fast"),
    _spec("watch", transaction.watch, -2, TRANSACTS, ALL_KEYS),
)

_OPEN, _ANY = (Level.OPEN, Resource.SHARED), (Level.READ, Resource.SHARED)
_LISTENS, _SPEAKS = (Level.READ, Resource.CLUSTER), (Level.WRITE, Resource.CLUSTER)

NEEDS: dict[str, tuple[Level, Resource]] = {
    **dict.fromkeys(("auth", "hello", "quit", "reset"), _OPEN),
    **dict.fromkeys(("client", "cluster", "command", "echo", "info", "ping", "readonly", "readwrite", "select"), _ANY),
    **dict.fromkeys(("discard", "exec", "multi", "unwatch", "watch", "unsubscribe", "punsubscribe"), _ANY),
    **dict.fromkeys(("config", "psubscribe", "pubsub", "subscribe"), _LISTENS),
    "publish": _SPEAKS,
}
"""What commands need that do not work on keys. Those that do need the role to read or write in their namespace.

Channels are those of the whole cluster, so a token with scopes has none.
"""

_UNDECLARED = [s.name for s in _ALL if s.name not in NEEDS and not s.flags & {READ, WRITE}]
assert not _UNDECLARED, f"NEEDS does not say who may: {_UNDECLARED}"

COMMANDS: dict[bytes, Spec] = {spec.name.upper().encode(): spec for spec in _ALL}
"""Every command by its name in capitals."""
