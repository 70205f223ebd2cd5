"""The trio client. Flights of one operation run at the same time; so do operations of several tasks.

A cancelled operation closes the connections that it was using: what was sent may have been done.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import trio

from frys_node.base.errors import FrysError
from frys_node.base.ports import Network, Stream
from frys_node.base.types import Address
from frys_node.client import cache, vectors, workflows
from frys_node.client.bound import Awaited, Handle, Waiter
from frys_node.client.calls import Ask, Loss, Outcome, Plan, Result, Steps, raised, together
from frys_node.client.core import Core
from frys_node.client.memory import Memory
from frys_node.client.pipeline import Queue
from frys_node.client.pool import CONNECT_S, CONNECTIONS_MAX, Pool
from frys_node.client.run import Flight, Run
from frys_node.client.settings import DEFAULT_URL, TIMEOUT_S, addresses_of, find_token, find_trust
from frys_node.client.stream import Conversation
from frys_node.transport.blocking import is_quiet
from frys_node.transport.entropy import SystemEntropy
from frys_node.transport.network import SystemNetwork
from frys_node.transport.stream import SocketStream
from frys_node.wire.sessions import NEW

if TYPE_CHECKING:
    from OpenSSL import SSL

T = TypeVar("T")

INLINE_BYTES = 65_536
"""Larger requests are sent while their answers are read: a node stops reading while nobody takes its answers."""


class Cache(Handle[cache.Namespace, Waiter]):
    """A namespace of the cache."""

    get = Awaited(cache.get)
    lookup = Awaited(cache.lookup)
    put = Awaited(cache.put)
    cas = Awaited(cache.cas)
    delete = Awaited(cache.delete)
    incr = Awaited(cache.incr)
    mget = Awaited(cache.mget)
    mset = Awaited(cache.mset)
    mdelete = Awaited(cache.mdelete)


class Collection(Handle[vectors.Collection, Waiter]):
    """A vector collection."""

    create = Awaited(vectors.create)
    drop = Awaited(vectors.drop)
    exists = Awaited(vectors.exists)
    info = Awaited(vectors.info)
    upsert = Awaited(vectors.upsert)
    delete = Awaited(vectors.delete)
    get = Awaited(vectors.get)
    query = Awaited(vectors.query)
    query_many = Awaited(vectors.query_many)
    scroll = Awaited(vectors.scroll)
    count = Awaited(vectors.count)


class Workflows(Handle[workflows.Runs, Waiter]):
    """Workflows and their runs."""

    start = Awaited(workflows.start)
    show = Awaited(workflows.show)
    wait = Awaited(workflows.wait)
    result = Awaited(workflows.result)
    signal = Awaited(workflows.signal)
    cancel = Awaited(workflows.cancel)
    list = Awaited(workflows.listing)


class _Cluster(Handle[None, Waiter]):
    members = Awaited(workflows.members)
    status = Awaited(workflows.status)


class Engine:
    """Carries out plans in the calling task."""

    def __init__(
        self,
        core: Core,
        token: str,
        timeout_s: float,
        connections_max: int,
        network: Network | None = None,
        tls: SSL.Context | None = None,
    ) -> None:
        self.core = core
        self._token = token
        self._timeout_s = timeout_s
        self._connections_max = connections_max
        self._network = network or SystemNetwork()
        self._tls = tls
        self.memory: Memory | None = None
        self._pool: Pool[Stream] = Pool(_close, _is_quiet)
        self._turns: dict[Address, trio.CapacityLimiter] = {}

    def within(self, timeout_s: float) -> Engine:
        """Return an engine with another time limit, over the same connections."""
        other = Engine(self.core, self._token, timeout_s, self._connections_max, self._network, self._tls)
        other._pool, other._turns, other.memory = self._pool, self._turns, self.memory
        return other

    def remembering(self, memory: Memory) -> Engine:
        """Return an engine whose operations are those of a session, over the same connections."""
        other = self.within(self._timeout_s)
        other.memory = memory
        return other

    async def carry_out(self, plan: Plan[T]) -> T:
        """Carry out a plan; see `Waiter`."""
        began_s = trio.current_time()
        if self.core.is_stale(began_s):
            await self._perform(Run(self.core, [], began_s + self._timeout_s))
        steps = Steps(plan)
        ask = steps.begin()
        while ask is not None:
            ask = steps.go_on(ask, await self._results(ask, began_s))
        return steps.value

    async def _results(self, ask: Ask, began_s: float) -> list[Result]:
        limit_s = self._timeout_s if ask.timeout_s is None else ask.timeout_s
        not_before_s = trio.current_time() + ask.pause_s if ask.pause_s else 0.0
        return await self._perform(Run(self.core, ask.calls, began_s + limit_s, not_before_s, self.memory))

    async def _perform(self, run: Run) -> list[Result]:
        flights = run.begin(trio.current_time())
        while len(flights) == 1:
            outcomes = await self._fly(flights[0])
            flights = run.landed(flights[0], outcomes, trio.current_time())
        if flights:
            async with trio.open_nursery() as nursery:

                async def follow(flight: Flight) -> None:
                    outcomes = await self._fly(flight)
                    for following in run.landed(flight, outcomes, trio.current_time()):
                        nursery.start_soon(follow, following)

                for flight in flights:
                    nursery.start_soon(follow, flight)
        return run.results

    async def _fly(self, flight: Flight) -> list[Outcome]:
        conversation = Conversation(flight.calls, flight.address, self._token)
        turn = self._turns.setdefault(flight.address, trio.CapacityLimiter(self._connections_max))
        loss = Loss.CONNECT
        with trio.CancelScope(deadline=flight.deadline_s):
            if flight.not_before_s > trio.current_time():
                await trio.sleep_until(flight.not_before_s)
            async with turn:
                stream = await self._connected(flight.address, conversation)
                if stream is not None:
                    loss = Loss.LATE
                    await self._talk(stream, flight.address, conversation)
        if not conversation.is_done:
            conversation.fail(loss)
        return conversation.outcomes

    async def _connected(self, address: Address, conversation: Conversation) -> Stream | None:
        stream = self._pool.take(address, trio.current_time())
        if stream is not None:
            return stream
        transport: Stream | None = None
        with trio.move_on_after(CONNECT_S):
            try:
                transport = await self._network.connect(address)
                if self._tls is None:
                    return transport
                return await self._secured(transport, address, self._tls)
            except FrysError as error:
                conversation.fail(Loss.CONNECT, error.message)
                return None
        conversation.fail(Loss.CONNECT, f"not accepted within {CONNECT_S:g} s")
        return None

    @staticmethod
    async def _secured(transport: Stream, address: Address, tls: SSL.Context) -> Stream:
        """Shake hands; whatever interrupts that closes the connection."""
        from frys_node.client.secured import secured

        try:
            return await secured(transport, address, tls)
        except BaseException:
            _close(transport)
            raise

    async def _talk(self, stream: Stream, address: Address, conversation: Conversation) -> None:
        is_sent = False

        async def send() -> None:
            nonlocal is_sent
            # A node that refuses early closes without reading all of it: then what it answered counts.
            with suppress(trio.BrokenResourceError):
                await stream.send_all(conversation.to_send)
                is_sent = True

        async def receive() -> None:
            while not conversation.is_done:
                try:
                    conversation.receive(await stream.receive_some(262_144))
                except trio.BrokenResourceError as error:
                    conversation.fail(Loss.BROKEN, str(error))

        try:
            if len(conversation.to_send) <= INLINE_BYTES:
                await send()
                await receive()
            else:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(send)
                    await receive()
                    nursery.cancel_scope.cancel()
        finally:
            if conversation.can_go_on and is_sent:
                self._pool.give(address, stream, trio.current_time())
            else:
                _close(stream)

    def close(self) -> None:
        """Close what is idle."""
        self._pool.close()


def _socket_of(stream: Stream) -> Stream:
    """Return what a stream of TLS runs over, and any other as it is."""
    return getattr(stream, "transport", stream)


def _close(stream: Stream) -> None:
    transport = _socket_of(stream)
    if isinstance(transport, SocketStream):
        transport.close()


def _is_quiet(stream: Stream) -> bool:
    transport = _socket_of(stream)
    return not isinstance(transport, SocketStream) or is_quiet(transport.socket)


class Pipeline(Queue):
    """Operations that `run` carries out together."""

    def __init__(self, engine: Engine, runs: workflows.Runs) -> None:
        super().__init__(engine.core, runs)
        self._engine = engine

    async def run(self, *, raise_errors: bool = True) -> Sequence[Any]:
        """Carry out what was queued; see `SyncPipeline.run`."""
        results = await self._engine.carry_out(together(self.take()))
        return raised(results) if raise_errors else results


class Services:
    """What a cluster offers, within one time limit."""

    def __init__(self, engine: Engine) -> None:
        entropy = SystemEntropy()
        self._engine = engine
        self._runs = workflows.Runs(lambda: entropy.token_bytes(16).hex())
        cluster = _Cluster(None, engine)
        self.members = cluster.members
        self.status = cluster.status
        self.workflows = Workflows(self._runs, engine)

    def cache(self, namespace: str = "default") -> Cache:
        """Return a namespace of the cache."""
        return Cache(cache.Namespace(self._engine.core, namespace), self._engine)

    def collection(self, name: str) -> Collection:
        """Return a vector collection, whether or not it exists yet."""
        return Collection(vectors.Collection(self._engine.core, name), self._engine)

    def pipeline(self) -> Pipeline:
        """Return an empty pipeline."""
        return Pipeline(self._engine, self._runs)

    def within(self, timeout_s: float) -> Services:
        """Return the same services, over the same connections, with another limit on what an operation may take."""
        return Services(self._engine.within(timeout_s))

    def session(self, token: str = NEW, *, read_repair: str = "async") -> Services:
        """Return the same services for one session; see `SyncServices.session`."""
        return Services(self._engine.remembering(Memory(token, read_repair=read_repair)))

    @property
    def session_token(self) -> str | None:
        """What the session has seen; None outside of one."""
        return None if self._engine.memory is None else self._engine.memory.token


class Client(Services):
    """A cluster, by the URL of one of its nodes or of several; for the arguments see `SyncClient`.

    ``async with Client(...)`` closes its connections at the end. trio's cancel scopes bound an operation as well as
    `timeout_s` does.
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
        network: Network | None = None,
    ) -> None:
        core = Core(addresses_of(urls), straight=straight)
        tls = find_trust(urls, ca, data_dir)
        super().__init__(Engine(core, find_token(token, data_dir), timeout_s, connections_max, network, tls))

    async def aclose(self) -> None:
        """Close every connection."""
        self._engine.close()
        await trio.lowlevel.checkpoint()

    async def __aenter__(self) -> Self:
        await trio.lowlevel.checkpoint()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._engine.close()
        await trio.lowlevel.checkpoint_if_cancelled()
