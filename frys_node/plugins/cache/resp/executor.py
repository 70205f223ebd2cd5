"""Carries out the steps of a pipeline against the cache and the cluster.

Each step is answered before the next begins, so a client sees its own writes in its own order. What fails fails with a
reply to each command of the step. Replies are handed over in pieces of about `FLUSH_BYTES`, and the next ones are made
when the client has taken those: a pipeline of big reads is never in memory as a whole.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container, Sequence

from frys_node.base.errors import DeadlineExceeded, FrysError, NoReplica, NotReady, RoutingError
from frys_node.base.types import Consistency, UnitId
from frys_node.base.units import slot_of
from frys_node.plugins.cache.cache import decode_value
from frys_node.plugins.cache.changer import Changer
from frys_node.plugins.cache.changes import is_lookup
from frys_node.plugins.cache.config import CacheConfig, ScanScope
from frys_node.plugins.cache.driver import CacheService
from frys_node.plugins.cache.keyspace import Keyspace
from frys_node.plugins.cache.resp import encode, slots
from frys_node.plugins.cache.resp.cluster import ClusterView
from frys_node.plugins.cache.resp.glob import matches
from frys_node.plugins.cache.resp.hub import Hub, Listener
from frys_node.plugins.cache.resp.session import Session
from frys_node.plugins.cache.resp.steps import Alter, Choice, Do, Gets, Look, Say, Step, Store

FLUSH_BYTES = 1 << 20
"""Replies beyond this are sent before more are made."""

BIG_READS = 64
"""Strings that are read together when they do not have their answers ready."""

SCAN_COUNT_MAX = 1_000
"""Keys in one page of SCAN, whatever the client asks for."""

Flush = Callable[[bytes], Awaitable[None]]


class Executor:
    """Does what sessions have planned."""

    def __init__(
        self,
        *,
        service: CacheService,
        changer: Changer,
        keyspace: Keyspace,
        hub: Hub,
        view: ClusterView,
        texts: Callable[[str, Session, Sequence[bytes]], str],
    ) -> None:
        self._service = service
        self._memory = service.memory
        self._changer = changer
        self._keyspace = keyspace
        self._hub = hub
        self._view = view
        self._texts = texts
        """Makes the texts of INFO and CLIENT LIST."""

    @property
    def _config(self) -> CacheConfig:
        return self._service.config

    async def run(self, listener: Listener, steps: Sequence[Step], flush: Flush) -> bytes:
        """Carry out steps; returns the replies that `flush` has not been given."""
        if len(steps) == 1:
            return await self._step(listener, steps[0], flush)
        parts: list[bytes] = []
        size_bytes = 0
        for step in steps:
            data = await self._step(listener, step, flush)
            parts.append(data)
            size_bytes += len(data)
            if size_bytes > FLUSH_BYTES:
                await flush(b"".join(parts))
                parts, size_bytes = [], 0
        return b"".join(parts)

    async def _step(self, listener: Listener, step: Step, flush: Flush) -> bytes:
        try:
            match step:
                case Gets():
                    return await self._gets(step, flush)
                case Store():
                    await self._service.put(step.items, self._config.resp_write, step.choice.prefix)
                    return b"".join(step.replies)
                case Say():
                    return step.data
                case Look():
                    return await self._look(step)
                case Alter():
                    return await self._alter(step)
                case Do():
                    return await self._do(listener, step)
        except FrysError as error:
            return reply_to(error) * step.count

    # ------------------------------------------------------------------ data

    async def _gets(self, step: Gets, flush: Flush) -> bytes:
        keys = step.keys
        consistency = self._config.resp_read
        if consistency is Consistency.ONE and self._service.is_all_here():
            self._memory.expire_due()
            replies = list(map(self._memory.replies.get, keys))
            if None not in replies:
                self._memory.hit(keys)
                self._service.count_hits(step.choice.prefix, len(keys), len(keys))
                return b"".join(replies)  # type: ignore[arg-type] # none is None
            return await self._gets_here(step.choice, keys, replies, flush)
        parts: list[bytes] = []
        for start in range(0, len(keys), BIG_READS):
            for stored in await self._service.get(keys[start : start + BIG_READS], consistency):
                value = None if stored is None else stored.value
                if value is not None and value.fields is not None:
                    parts.append(encode.error(encode.WRONGTYPE))
                else:
                    parts.append(encode.bulk_or_null(None if value is None else value.body, step.choice.protocol))
            parts = await _flush_big(parts, flush)
        return b"".join(parts)

    async def _gets_here(
        self, choice: Choice, keys: Sequence[bytes], replies: list[bytes | None], flush: Flush
    ) -> bytes:
        """Answer the rest from memory: what is not there, no short string, or no string."""
        null = encode.null(choice.protocol)
        homes = self._memory.homes
        known = [
            null if reply is None and key not in homes else reply for key, reply in zip(keys, replies, strict=True)
        ]
        if None not in known:
            hits = [key for key, reply in zip(keys, replies, strict=True) if reply is not None]
            self._memory.hit(hits)
            self._service.count_hits(choice.prefix, len(keys), len(hits))
            return b"".join(known)  # type: ignore[arg-type] # none is None
        hits = [key for key, reply in zip(keys, replies, strict=True) if reply is not None]
        parts: list[bytes] = []
        size_bytes = 0
        for key, ready in zip(keys, replies, strict=True):
            reply = ready
            if reply is None:
                entry = self._memory.peek(key)
                reply = null
                if entry is not None and entry.value is not None:
                    hits.append(key)
                    value = decode_value(entry.value)
                    reply = encode.error(encode.WRONGTYPE) if value.fields is not None else encode.bulk(value.body)
            parts.append(reply)
            size_bytes += len(reply)
            if size_bytes > FLUSH_BYTES:
                await flush(b"".join(parts))
                parts, size_bytes = [], 0
        # What a flush waited for may have evicted some of them.
        self._memory.hit([key for key in hits if key in self._memory.homes])
        self._service.count_hits(choice.prefix, len(keys), len(hits))
        return b"".join(parts)

    async def _look(self, step: Look) -> bytes:
        stored = await self._service.get(step.keys, self._config.resp_read)
        values = [None if found is None else found.value for found in stored]
        now_unix_ms = self._service.now_unix_ms()
        parts: list[bytes] = []
        at = 0
        for count, reply in step.parts:
            parts.append(reply(values[at : at + count], now_unix_ms))
            at += count
        data = b"".join(parts)
        if len(data) > self._config.resp_limits.output_bytes:
            return encode.error("ERR the reply is over [plugins.cache.resp_limits] output_bytes") * step.count
        return data

    async def _alter(self, step: Alter) -> bytes:
        outcomes = await self._changer.run(step.changes, self._config.resp_write)
        for change, outcome in zip(step.changes, outcomes, strict=True):
            if is_lookup(change):
                # A value of another type was found as well, and refused.
                self._service.count_reads([change.key], [outcome.result is not None or bool(outcome.refusal)])
        parts: list[bytes] = []
        at = 0
        for count, reply in step.parts:
            parts.append(reply(outcomes[at : at + count]))
            at += count
        return b"".join(parts)

    # ------------------------------------------------------------------ everything else

    async def _do(self, listener: Listener, step: Do) -> bytes:
        session, choice, args = listener.session, step.choice, step.args
        match step.verb:
            case "scan":
                return await self._scan(choice, args)
            case "dbsize":
                return encode.integer(await self._keyspace.count(choice.prefix, self._scanned()))
            case "flushdb":
                await self._keyspace.flush(choice.prefix, self._config.resp_write)
                return encode.OK
            case "publish":
                if len(args[0]) + len(args[1]) > self._config.value_bytes_max:
                    return encode.error("ERR the message is over [plugins.cache] value_bytes_max")
                return encode.integer(self._hub.publish(args[0], args[1]))
            case "subscribe" | "unsubscribe" | "psubscribe" | "punsubscribe":
                return self._hub.change(listener, step.verb, args, self._config.resp_limits.subscriptions)
            case "unsubscribe_all":
                self._hub.leave(listener)
                return b"+RESET\r\n"
            case "end_subscriptions":
                self._hub.leave(listener)
                return b""
            case "pubsub":
                return self._pubsub(args)
            case "cluster":
                return self._cluster(choice, args)
            case _:
                return encode.text(self._texts(step.verb, session, args), choice.protocol)

    def _scanned(self) -> Container[UnitId] | None:
        """Return the units that SCAN and DBSIZE are about, None for all."""
        return self._view.own() if self._config.resp_scan is ScanScope.OWN else None

    async def _scan(self, choice: Choice, args: Sequence[bytes]) -> bytes:
        cursor, pattern, count, kind = args
        limit = min(int(count), SCAN_COUNT_MAX)
        kind_text = kind.decode(errors="replace")
        found = await self._keyspace.scan(choice.prefix, int(cursor), limit, kind_text, self._scanned())
        keys = [key for key in found.keys if matches(pattern, key)] if pattern else found.keys
        return encode.array([encode.bulk(b"%d" % found.cursor), encode.bulks(keys)])

    def _pubsub(self, args: Sequence[bytes]) -> bytes:
        verb = args[0].upper()
        if verb == b"NUMPAT":
            return encode.integer(len(self._hub.patterns))
        if verb == b"NUMSUB":
            counts = [(encode.bulk(name), encode.integer(len(self._hub.channels.get(name, ())))) for name in args[1:]]
            return encode.array([part for pair in counts for part in pair])
        return encode.bulks(name for name in self._hub.channels if len(args) == 1 or matches(args[1], name))

    def _cluster(self, choice: Choice, args: Sequence[bytes]) -> bytes:
        verb = args[0]
        if verb == b"KEYSLOT":
            return encode.integer(slot_of(args[1]))
        if verb == b"MYID":
            return encode.bulk(self._view.myself.id.encode())
        found = self._view.ranges()
        match verb:
            case b"SLOTS":
                if self._config.resp_scan is ScanScope.OWN:
                    found = slots.firsts(found)
                return slots.slots(found, choice.protocol)
            case b"SHARDS":
                return slots.shards(found, choice.protocol)
            case b"NODES":
                text = slots.nodes(found, self._view.myself.node, self._view.servers())
            case _:
                text = slots.info(found, self._view.epoch, len(self._view.servers()))
        return encode.text(text, choice.protocol)


async def _flush_big(parts: list[bytes], flush: Flush) -> list[bytes]:
    if sum(map(len, parts)) <= FLUSH_BYTES:
        return parts
    await flush(b"".join(parts))
    return []


_WORDS = (
    (NotReady, "LOADING"),
    (NoReplica, "CLUSTERDOWN"),
    (DeadlineExceeded, "ERR"),
    (RoutingError, "TRYAGAIN"),
)
"""Words of Redis that make clients do the right thing: wait, look for another node, retry."""


def reply_to(error: FrysError) -> bytes:
    """Return the reply to a command that met an error."""
    word = next((word for kind, word in _WORDS if isinstance(error, kind)), "ERR")
    return encode.error(f"{word} {error.message}")
