"""The blocking client: the same operations as `Client`, for programs without an event loop.

One thread drives all the connections of an operation with a selector. A `SyncClient` may be shared by threads; they
take turns, so give each its own where they should work at the same time.
"""

from __future__ import annotations

import copy
import math
import os
import threading
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from frys_node.base.types import Address
from frys_node.client import cache, vectors, workflows
from frys_node.client.bound import Blocked, Blocker, Handle
from frys_node.client.calls import Ask, Loss, Plan, Result, Steps, raised, together
from frys_node.client.core import Core
from frys_node.client.memory import Memory
from frys_node.client.pipeline import Queue
from frys_node.client.pool import CONNECT_S, CONNECTIONS_MAX, Pool
from frys_node.client.run import Flight, Run
from frys_node.client.settings import DEFAULT_URL, TIMEOUT_S, addresses_of, find_token, find_trust
from frys_node.client.stream import Conversation
from frys_node.transport.blocking import Poller, Wire, now_s
from frys_node.transport.entropy import SystemEntropy
from frys_node.wire.sessions import NEW

if TYPE_CHECKING:
    from OpenSSL import SSL

T = TypeVar("T")


class SyncCache(Handle[cache.Namespace, Blocker]):
    """A namespace of the cache."""

    get = Blocked(cache.get)
    lookup = Blocked(cache.lookup)
    put = Blocked(cache.put)
    cas = Blocked(cache.cas)
    delete = Blocked(cache.delete)
    incr = Blocked(cache.incr)
    mget = Blocked(cache.mget)
    mset = Blocked(cache.mset)
    mdelete = Blocked(cache.mdelete)


class SyncCollection(Handle[vectors.Collection, Blocker]):
    """A vector collection."""

    create = Blocked(vectors.create)
    drop = Blocked(vectors.drop)
    exists = Blocked(vectors.exists)
    info = Blocked(vectors.info)
    upsert = Blocked(vectors.upsert)
    delete = Blocked(vectors.delete)
    get = Blocked(vectors.get)
    query = Blocked(vectors.query)
    query_many = Blocked(vectors.query_many)
    scroll = Blocked(vectors.scroll)
    count = Blocked(vectors.count)


class SyncWorkflows(Handle[workflows.Runs, Blocker]):
    """Workflows and their runs."""

    start = Blocked(workflows.start)
    show = Blocked(workflows.show)
    wait = Blocked(workflows.wait)
    result = Blocked(workflows.result)
    signal = Blocked(workflows.signal)
    cancel = Blocked(workflows.cancel)
    list = Blocked(workflows.listing)


class _Cluster(Handle[None, Blocker]):
    members = Blocked(workflows.members)
    status = Blocked(workflows.status)


class _Talk:
    """A flight on its wire."""

    __slots__ = ("connect_by_s", "conversation", "flight", "rest", "wire")

    def __init__(self, flight: Flight, wire: Wire, conversation: Conversation, started_s: float) -> None:
        self.flight = flight
        self.wire = wire
        self.conversation = conversation
        self.rest = memoryview(conversation.to_send)
        self.connect_by_s = started_s + CONNECT_S

    @property
    def due_s(self) -> float:
        """When something has to have happened."""
        if self.wire.is_ready:
            return self.flight.deadline_s
        return min(self.connect_by_s, self.flight.deadline_s)


class _Flights:
    """The flights of one ask, until there are none."""

    def __init__(self, engine: SyncEngine, run: Run) -> None:
        self._engine = engine
        self._run = run
        self._poller = engine.poller
        self._talks: dict[Wire, _Talk] = {}
        self._queue: deque[Flight] = deque()

    def perform(self) -> list[Result]:
        """Perform all of them; returns the results of the run."""
        try:
            self._queue.extend(self._run.begin(now_s()))
            while self._queue or self._talks:
                self._turn()
        finally:
            for wire in self._talks:
                self._poller.forget(wire)
                wire.close()
        return self._run.results

    def _turn(self) -> None:
        at_s = now_s()
        for _ in range(len(self._queue)):
            flight = self._queue.popleft()
            if flight.not_before_s > at_s or self._open(flight.address) >= self._engine.connections_max:
                self._queue.append(flight)
            else:
                self._start(flight, at_s)
        due_s = min((talk.due_s for talk in self._talks.values()), default=math.inf)
        next_s = min((f.not_before_s for f in self._queue if f.not_before_s > at_s), default=math.inf)
        if self._talks or next_s < math.inf:
            for wire in self._poller.wait(min(due_s, next_s) - at_s):
                self._advance(self._talks[wire])
        at_s = now_s()
        for talk in list(self._talks.values()):
            if not talk.conversation.is_done and talk.due_s <= at_s:
                talk.conversation.fail(Loss.LATE if talk.wire.is_ready else Loss.CONNECT, "no answer")
            if talk.conversation.is_done:
                self._end(talk, at_s)

    def _open(self, address: Address) -> int:
        return sum(talk.flight.address == address for talk in self._talks.values())

    def _start(self, flight: Flight, at_s: float) -> None:
        conversation = Conversation(flight.calls, flight.address, self._engine.token)
        wire = self._engine.pool.take(flight.address, at_s)
        if wire is None:
            try:
                wire = self._engine.dial(flight.address)
            except OSError as error:
                conversation.fail(Loss.CONNECT, error.strerror or str(error))
                self._queue.extend(self._run.landed(flight, conversation.outcomes, at_s))
                return
        talk = self._talks[wire] = _Talk(flight, wire, conversation, at_s)
        if wire.is_connected:
            self._advance(talk)
        else:
            self._poller.watch(wire, writing=True)

    def _advance(self, talk: _Talk) -> None:
        wire, conversation = talk.wire, talk.conversation
        try:
            if not wire.is_connected:
                self._poller.forget(wire)
                if not wire.finish_connect():
                    self._poller.watch(wire, writing=True)
                    return
            _read(wire, conversation)
            if wire.wants_write(bool(talk.rest)) and not conversation.is_done:
                talk.rest = talk.rest[wire.send(talk.rest) :]
            if not conversation.is_done:
                self._poller.watch(wire, writing=wire.wants_write(bool(talk.rest)))
        except OSError as error:
            conversation.fail(Loss.BROKEN if wire.is_ready else Loss.CONNECT, error.strerror or str(error))

    def _end(self, talk: _Talk, at_s: float) -> None:
        self._poller.forget(talk.wire)
        del self._talks[talk.wire]
        if talk.conversation.can_go_on and not talk.wire.wants_write(bool(talk.rest)):
            self._engine.pool.give(talk.flight.address, talk.wire, at_s)
        else:
            talk.wire.close()
        self._queue.extend(self._run.landed(talk.flight, talk.conversation.outcomes, at_s))


def _read(wire: Wire, conversation: Conversation) -> None:
    while not conversation.is_done:
        data = wire.receive()
        if data is None:
            return
        conversation.receive(data)


class SyncEngine:
    """Carries out plans in the calling thread, one at a time."""

    def __init__(
        self, core: Core, token: str, timeout_s: float, connections_max: int, tls: SSL.Context | None = None
    ) -> None:
        self.core = core
        self._tls = tls
        self.token = token
        self.timeout_s = timeout_s
        self.connections_max = connections_max
        self.memory: Memory | None = None
        self.pool: Pool[Wire] = Pool(Wire.close, Wire.is_quiet)
        self.poller = Poller()
        self._lock = threading.Lock()

    def dial(self, address: Address) -> Wire:
        """Begin to connect to a node; see `Wire`."""
        if self._tls is None:
            return Wire(address)
        from frys_node.client.secured import SecureWire

        return SecureWire(address, self._tls)

    def within(self, timeout_s: float) -> SyncEngine:
        """Return an engine with another time limit, over the same connections."""
        other = copy.copy(self)
        other.timeout_s = timeout_s
        return other

    def remembering(self, memory: Memory) -> SyncEngine:
        """Return an engine whose operations are those of a session, over the same connections."""
        other = copy.copy(self)
        other.memory = memory
        return other

    def carry_out(self, plan: Plan[T]) -> T:
        """Carry out a plan; see `Blocker`."""
        with self._lock:
            began_s = now_s()
            if self.core.is_stale(began_s):
                _Flights(self, Run(self.core, [], began_s + self.timeout_s)).perform()
            steps = Steps(plan)
            ask = steps.begin()
            while ask is not None:
                ask = steps.go_on(ask, self._results(ask, began_s))
            return steps.value

    def _results(self, ask: Ask, began_s: float) -> list[Result]:
        limit_s = self.timeout_s if ask.timeout_s is None else ask.timeout_s
        run = Run(self.core, ask.calls, began_s + limit_s, now_s() + ask.pause_s, self.memory)
        return _Flights(self, run).perform()

    def close(self) -> None:
        """Close what is idle; what is done afterwards begins anew."""
        with self._lock:
            self.pool.close()
            self.poller.close()


class SyncPipeline(Queue):
    """Operations that `run` carries out together."""

    def __init__(self, engine: SyncEngine, runs: workflows.Runs) -> None:
        super().__init__(engine.core, runs)
        self._engine = engine

    def run(self, *, raise_errors: bool = True) -> Sequence[Any]:
        """Carry out what was queued; returns the results in the order of the calls.

        Raises:
            FrysError: The first that failed, after all have been tried; without `raise_errors` it is among the results.
        """
        results = self._engine.carry_out(together(self.take()))
        return raised(results) if raise_errors else results


class SyncServices:
    """What a cluster offers, within one time limit."""

    def __init__(self, engine: SyncEngine) -> None:
        entropy = SystemEntropy()
        self._engine = engine
        self._runs = workflows.Runs(lambda: entropy.token_bytes(16).hex())
        cluster = _Cluster(None, engine)
        self.members = cluster.members
        self.status = cluster.status
        self.workflows = SyncWorkflows(self._runs, engine)

    def cache(self, namespace: str = "default") -> SyncCache:
        """Return a namespace of the cache."""
        return SyncCache(cache.Namespace(self._engine.core, namespace), self._engine)

    def collection(self, name: str) -> SyncCollection:
        """Return a vector collection, whether or not it exists yet."""
        return SyncCollection(vectors.Collection(self._engine.core, name), self._engine)

    def pipeline(self) -> SyncPipeline:
        """Return an empty pipeline."""
        return SyncPipeline(self._engine, self._runs)

    def within(self, timeout_s: float) -> SyncServices:
        """Return the same services, over the same connections, with another limit on what an operation may take."""
        return SyncServices(self._engine.within(timeout_s))

    def session(self, token: str = NEW, *, read_repair: str = "async") -> SyncServices:
        """Return the same services for one session: reads at ``one`` show its own writes and go never back.

        With ``read_repair="wait"`` reads at ``quorum`` return only what a quorum holds. `session_token` of what is
        returned, kept and given here, goes on with a session elsewhere.

        Raises:
            InvalidSession: Not a token.
        """
        return SyncServices(self._engine.remembering(Memory(token, read_repair=read_repair)))

    @property
    def session_token(self) -> str | None:
        """What the session has seen; None outside of one."""
        return None if self._engine.memory is None else self._engine.memory.token


class SyncClient(SyncServices):
    """A cluster, by the URL of one of its nodes or of several.

    Args:
        urls: Where to begin: ``http://host:port``, or ``https://`` where the cluster's HTTP speaks TLS. The other
            nodes are learnt from these.
        token: An API token or the admin token; without it `data_dir`, ``FRYS_ADMIN_TOKEN`` and ``FRYS_DATA_DIR`` are
            looked at.
        data_dir: A data directory that holds the admin token.
        ca: With https: a PEM file of the authority to trust, such as the cluster's ``ca.pem``. Without it that of
            `data_dir`, then those of the system.
        timeout_s: What one operation may take, retries included.
        straight: False: send everything to `urls`, such as a load balancer in front of nodes that cannot be reached.
        connections_max: Connections to one node at a time.
    """

    def __init__(
        self,
        urls: str | Sequence[str] = DEFAULT_URL,
        *,
        token: str | None = None,
        data_dir: str | os.PathLike[str] | None = None,
        ca: str | os.PathLike[str] | None = None,
        timeout_s: float = TIMEOUT_S,
        straight: bool = True,
        connections_max: int = CONNECTIONS_MAX,
    ) -> None:
        core = Core(addresses_of(urls), straight=straight)
        tls = find_trust(urls, ca, data_dir)
        super().__init__(SyncEngine(core, find_token(token, data_dir), timeout_s, connections_max, tls))

    def close(self) -> None:
        """Close every connection."""
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
