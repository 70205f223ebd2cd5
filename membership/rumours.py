"""Rumours: whatever spreads by gossip beside the claims about members, and the queue that they wait in.

Sans-I/O. A rumour is encoded by itself into `Gossip.rumours`, so that a node passes over a kind that it does not know
and reads the rest of the packet. `Rumours` is a switchboard: whoever cares for a kind registers for it, decides whether
a rumour is news, and queues what is worth passing on. The queue holds the newest rumour per (kind, key), sends the
least-sent first, each `limit` times, and is bounded in count and bytes.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec.structs import replace

from frys_node.base.errors import MalformedFrame
from frys_node.base.types import NodeId
from frys_node.wire.codec import Codec, Message
from membership.edges import Edge
from membership.effects import Tallies
from membership.errors import GossipTooLarge
from membership.messages import SIGNATURE_BYTES_MAX
from membership.testimony import CrashReport, Vouch
from membership.voices import Signing

RUMOURS_MAX = 512
"""Rumours waiting at one node; beyond it the most-sent and oldest one goes."""

RUMOURS_BYTES_MAX = 128 * 1024
"""Bytes of the rumours waiting at one node."""

EVENT_NAME_MAX = 64
EVENT_PAYLOAD_BYTES_MAX = 512
QUERY_PAYLOAD_BYTES_MAX = 1_024
REPLY_PAYLOAD_BYTES_MAX = 16 * 1024
"""A query's answer; over a packet's room it takes the channel."""

INTRODUCTIONS_FIRST_MAX = 2
"""Up to so many newcomers at once are introduced before other news; of more, where there is room."""

INTRODUCTION_BYTES_MAX = 768
"""A statement that is spread by gossip; one with Ed25519 keys has about 480 bytes."""

_Id = Annotated[NodeId, msgspec.Meta(min_length=1, max_length=64)]
_Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=EVENT_NAME_MAX)]
_Word = Annotated[bytes, msgspec.Meta(max_length=SIGNATURE_BYTES_MAX)]
_Filter = tuple[Annotated[str, msgspec.Meta(max_length=128)], Annotated[str, msgspec.Meta(max_length=512)]]


class Introduction(Message, frozen=True, array_like=True, gc=False, tag=4):
    """Whose voice a newcomer's is: spread with its first claim, so that not everybody has to ask for it."""

    node: _Id
    statement: Annotated[bytes, msgspec.Meta(max_length=INTRODUCTION_BYTES_MAX)]
    """Proves itself (`membership.voices`). Larger ones are only told to those who ask."""

    @property
    def key(self) -> str:
        """Whose it is."""
        return self.node


class UserEvent(Message, frozen=True, array_like=True, gc=False, tag=10):
    """Something that a user tells the whole cluster: delivered once at each node."""

    origin: _Id
    boot: _Count
    sequence: Annotated[int, msgspec.Meta(ge=1, lt=1 << 62)]
    """Counts the events of this boot of the origin, from 1 and without gaps."""
    lamport: _Count
    unix_ns: _Count
    """The origin's clock, for the latency metric and for people; never for order."""
    name: _Name
    payload: Annotated[bytes, msgspec.Meta(max_length=EVENT_PAYLOAD_BYTES_MAX)] = b""
    word: _Word = b""
    """The origin's signature."""

    @property
    def author(self) -> NodeId:
        """Whose signature it needs."""
        return self.origin

    @property
    def key(self) -> str:
        """Tells it from every other event."""
        return f"{self.origin}/{self.boot}/{self.sequence}"


class Query(Message, frozen=True, array_like=True, gc=False, tag=11):
    """A question to all members that the filters name; they answer the origin directly."""

    origin: _Id
    boot: _Count
    sequence: Annotated[int, msgspec.Meta(ge=1, lt=1 << 62)]
    lamport: _Count
    timeout_ms: Annotated[int, msgspec.Meta(ge=1, le=600_000)]
    """After this nobody waits for an answer."""
    name: _Name
    payload: Annotated[bytes, msgspec.Meta(max_length=QUERY_PAYLOAD_BYTES_MAX)] = b""
    nodes: Annotated[tuple[Annotated[str, msgspec.Meta(max_length=64)], ...], msgspec.Meta(max_length=64)] = ()
    """Names or ids; empty for all."""
    tags: Annotated[tuple[_Filter, ...], msgspec.Meta(max_length=64)] = ()
    """Tags that a member must have, all of them."""
    is_spread: bool = False
    """True if the members are to pass it on; else the origin asks each of them itself."""
    word: _Word = b""
    """The origin's signature."""

    @property
    def author(self) -> NodeId:
        """Whose signature it needs."""
        return self.origin

    @property
    def key(self) -> str:
        """Tells it from every other query."""
        return f"{self.origin}/{self.boot}/{self.sequence}"


class QueryReply(Message, frozen=True, array_like=True, gc=False, tag=12):
    """What a member has to say to a query. Goes to the asker alone and is never passed on."""

    boot: _Count
    sequence: _Count
    """Boot and number of the query."""
    kind: Annotated[int, msgspec.Meta(ge=0, le=255)]
    """A `membership.queries.ReplyKind`."""
    payload: Annotated[bytes, msgspec.Meta(max_length=REPLY_PAYLOAD_BYTES_MAX)] = b""
    word: _Word = b""
    """The answering member's signature: that of whoever the packet came from."""

    @property
    def key(self) -> str:
        """Tells it from replies to other queries."""
        return f"{self.boot}/{self.sequence}"


class StateEntry(Message, frozen=True, array_like=True, gc=False):
    """One key of a member's state."""

    key: _Name
    value: Annotated[bytes, msgspec.Meta(max_length=1_024)]
    version: Annotated[int, msgspec.Meta(ge=1, lt=1 << 62)]
    is_deleted: bool = False
    """A tombstone: the key is gone, and this is what tells those who still have it."""


class StateDelta(Message, frozen=True, array_like=True, gc=False, tag=13):
    """What has changed in a member's key/value state after version `since`."""

    node: _Id
    boot: _Count
    since: _Count
    """The receiver must have everything up to here. 0: this is the whole state, whatever was there before goes."""
    floor: _Count
    """Tombstones up to this version have been dropped."""
    version: _Count
    entries: Annotated[tuple[StateEntry, ...], msgspec.Meta(max_length=256)] = ()
    word: _Word = b""
    """The owner's signature over the whole state as of this version (`membership.state`), however little is here."""

    @property
    def key(self) -> str:
        """Whose state it is: a newer delta replaces an older one."""
        return self.node


Rumour = Edge | Vouch | CrashReport | Introduction | UserEvent | Query | QueryReply | StateDelta
"""Everything that rides in `Gossip.rumours`. Tags 1 to 9 are for what the failure detector spreads."""

KINDS: dict[type, str] = {
    Edge: "edge",
    Vouch: "vouch",
    CrashReport: "crash_report",
    Introduction: "introduction",
    UserEvent: "event",
    Query: "query",
    QueryReply: "query_reply",
    StateDelta: "state",
}
"""Names of the kinds in metrics."""

RUMOURS: Codec[Rumour] = Codec(Rumour)
"""Codec of one rumour."""

Worded = Edge | Vouch | UserEvent | Query | QueryReply
"""Rumours that are signed as they are. A report of a crash is an accusation, and a state is signed as a whole."""

R = TypeVar("R")
W = TypeVar("W", bound=Worded)

_ANY = msgspec.msgpack.Decoder(Any)


class _Entry:
    """A queued rumour; `order` sorts by fewest transmits, then newest."""

    __slots__ = ("data", "key", "kind", "order")

    def __init__(self, key: tuple[type, str], data: bytes, sequence: int) -> None:
        self.key = key
        self.kind = KINDS[key[0]]
        self.data = data
        self.order = (0, -sequence)

    def __lt__(self, other: _Entry) -> bool:
        return self.order < other.order


class RumourQueue:
    """Rumours waiting to be passed on, at most one per (kind, key)."""

    __slots__ = ("_by_key", "_introductions", "_queue", "_sequence", "_size_bytes_max", "_tallies", "bytes")

    def __init__(self, size_bytes_max: int, tallies: Tallies) -> None:
        """Take the room that a packet has for one rumour, and where to count what is sent and dropped."""
        self._by_key: dict[tuple[type, str], _Entry] = {}
        self._queue: list[_Entry] = []
        self._sequence = 0
        self._size_bytes_max = size_bytes_max
        self._tallies = tallies
        self._introductions = 0
        self.bytes = 0
        """Bytes waiting."""

    def __len__(self) -> int:
        return len(self._by_key)

    def check_fits(self, rumour: Rumour) -> None:
        """Refuse what no packet can hold.

        Raises:
            GossipTooLarge: It cannot. Nothing was queued.
        """
        size_bytes = len(RUMOURS.encode(rumour))
        if size_bytes > self._size_bytes_max:
            raise GossipTooLarge(
                f"this takes {size_bytes} bytes of a packet, the room is {self._size_bytes_max}",
                hint="shorten it, or raise plugins.membership.packet_bytes_max on every node",
            )

    def put(self, rumour: Rumour) -> bool:
        """Queue a rumour in place of any older one of its key; False if it fits into no packet."""
        key = (type(rumour), rumour.key)
        self.drop(*key)
        data = RUMOURS.encode(rumour)
        if len(data) > self._size_bytes_max:
            self._drop("oversized", KINDS[key[0]])
            return False
        self._sequence += 1
        entry = _Entry(key, data, self._sequence)
        self._by_key[key] = entry
        self._introductions += entry.kind == "introduction"
        self.bytes += len(data)
        insort(self._queue, entry)
        while len(self._queue) > RUMOURS_MAX or self.bytes > RUMOURS_BYTES_MAX:
            self._drop("crowded_out", self._queue[-1].kind)
            self.drop(*self._queue[-1].key)
        return True

    def drop(self, kind: type, key: str) -> None:
        """Forget what is queued under a key."""
        old = self._by_key.pop((kind, key), None)
        if old is not None:
            self._introductions -= old.kind == "introduction"
            self.bytes -= len(old.data)
            self._queue.remove(old)

    def clear(self) -> None:
        """Forget everything."""
        self._by_key.clear()
        self._queue.clear()
        self._introductions = self.bytes = 0

    @property
    def is_introducing(self) -> bool:
        """True while a newcomer's voice goes before claims, which are worth nothing without it.

        Of many newcomers the claims are what fills the packets, and whose voices they have is quicker asked.
        """
        return 0 < self._introductions <= INTRODUCTIONS_FIRST_MAX

    def take(self, budget_bytes: int, limit: int, count_max: int, kind: str = "") -> tuple[bytes, ...]:
        """Return the rumours for one packet, of one kind if wanted, and count them as sent; each goes `limit` times."""
        taken: list[_Entry] = []
        for entry in self._queue:
            if len(taken) >= count_max:
                break
            if kind and entry.kind != kind:
                continue
            size_bytes = len(entry.data) + BYTES_HEADER
            if size_bytes <= budget_bytes:
                budget_bytes -= size_bytes
                taken.append(entry)
        for entry in taken:
            self._queue.remove(entry)
            self._tallies.add(self._tallies.rumours, "sent", entry.kind)
            entry.order = (entry.order[0] + 1, entry.order[1])
            if entry.order[0] >= limit:
                del self._by_key[entry.key]
                self.bytes -= len(entry.data)
                self._introductions -= entry.kind == "introduction"
            else:
                insort(self._queue, entry)
        return tuple(entry.data for entry in taken)

    def _drop(self, reason: str, kind: str) -> None:
        self._tallies.add(self._tallies.rumours_dropped, reason, kind)


BYTES_HEADER = 3
"""What MessagePack puts in front of a byte string of a rumour's length, at most."""

Handler = Callable[[Any, NodeId, float], object]


class Rumours:
    """The switchboard of one node: what waits to be sent, who signed it, and who takes what arrives."""

    __slots__ = ("_handlers", "_signing", "_tallies", "ask", "queue")

    def __init__(self, size_bytes_max: int, tallies: Tallies, signing: Signing) -> None:
        self.queue = RumourQueue(size_bytes_max, tallies)
        self._tallies = tallies
        self._signing = signing
        self.ask: Callable[[NodeId, NodeId, float], object] = _ask_nobody
        """Hears of a voice that is not known, who spoke of it, and when."""
        self._handlers: dict[type, Handler] = {}

    def handle(self, kind: type[R], handler: Callable[[R, NodeId, float], object]) -> None:
        """Have the rumours of one kind taken: `handler(rumour, source, now_s)`. It queues what it wants passed on."""
        self._handlers[kind] = handler

    def signed(self, rumour: W) -> W:
        """Return a rumour of this node with its signature."""
        return replace(rumour, word=self._signing.word(_unsigned(rumour)))

    def is_signed(self, rumour: Worded, author: NodeId, source: NodeId, now_s: float) -> bool:
        """True if its author signed the rumour. Forged ones are counted; a voice that is not known is asked for."""
        verdict = self._signing.is_word(author, _unsigned(rumour), rumour.word)
        return self.judged(verdict, type(rumour), author, source, now_s)

    def judged(self, verdict: bool | None, kind: type, author: NodeId, source: NodeId, now_s: float) -> bool:
        """Count a rumour that is not to be believed, and ask for the voice that is not known."""
        if verdict:
            return True
        if verdict is None:
            self.ask(author, source, now_s)
        self._tallies.add(self._tallies.rumours_dropped, "forged" if verdict is False else "voice_unknown", KINDS[kind])
        return False

    def take(self, data: bytes, source: NodeId, now_s: float) -> None:
        """Take one rumour out of a packet. What is unknown or malformed is counted and costs nothing else."""
        try:
            rumour = RUMOURS.decode(data)
        except MalformedFrame:
            reason = "unknown" if _has_unknown_tag(data) else "malformed"
            self._tallies.add(self._tallies.rumours_dropped, reason, "")
            return
        kind = type(rumour)
        self._tallies.add(self._tallies.rumours, "received", KINDS[kind])
        handler = self._handlers.get(kind)
        if handler is None:
            return
        if isinstance(rumour, Worded):
            author = source if isinstance(rumour, QueryReply) else rumour.author
            if not self.is_signed(rumour, author, source, now_s):
                return
        handler(rumour, source, now_s)


def _unsigned(rumour: Worded) -> bytes:
    return RUMOURS.encode(replace(rumour, word=b""))


def _ask_nobody(_voice: NodeId, _source: NodeId, _now_s: float) -> None:
    """Where nobody is there to be asked, what is not known is dropped."""


_TAGS = frozenset(kind.__struct_config__.tag for kind in KINDS)  # type: ignore[attr-defined]


def _has_unknown_tag(data: bytes) -> bool:
    """Return True if the bytes are a rumour of a later version."""
    try:
        value = _ANY.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return False
    return isinstance(value, list) and bool(value) and isinstance(value[0], int) and value[0] not in _TAGS
