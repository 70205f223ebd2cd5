"""Both drivers over real sockets, against the real HTTP front with made-up handlers, and against servers that fail."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from http_fixtures import TOKEN, serving

from frys_node.base.errors import DeadlineExceeded, FrysError, NodeUnreachable, NoReplica
from frys_node.base.types import Address, Epoch, NodeId, Term, UnitId
from frys_node.client import Client, Entry, SyncClient
from frys_node.client.pool import CONNECTIONS_MAX
from frys_node.kernel.kernel import Kernel
from frys_node.kernel.services.http import Http, HttpRequest, HttpResponse
from frys_node.kernel.services.sessions import SESSION, InvalidSession, in_session
from frys_node.kernel.services.topology import TOPOLOGY
from frys_node.testing.services import ServiceCluster
from frys_node.transport.network import SystemNetwork
from frys_node.transport.stream import SocketListener, SocketStream

Operation = Callable[[Any], Any]


class Both:
    """Runs the same operation through the trio client and through the blocking one, in a thread."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    async def run(self, urls: list[str], work: Callable[[Any, Callable[..., Any]], Awaitable[Any]], **args: Any) -> Any:
        """Call ``work(client, do)``, where ``do`` awaits or calls in a thread."""
        if self.kind == "trio":

            async def await_it(method: Callable[..., Awaitable[Any]], *given: Any, **named: Any) -> Any:
                return await method(*given, **named)

            async with Client(urls, **args) as client:
                return await work(client, await_it)

        async def in_thread(method: Callable[..., Any], *given: Any, **named: Any) -> Any:
            return await trio.to_thread.run_sync(partial(method, *given, **named))

        with SyncClient(urls, **args) as client:
            return await work(client, in_thread)


@pytest.fixture(params=["trio", "blocking"])
def both(request: pytest.FixtureRequest) -> Both:
    """Each test runs with either client."""
    return Both(request.param)


class Shelf:
    """The cache's routes over a dict, and a count of what was asked."""

    def __init__(self, http: Http) -> None:
        self.stored: dict[str, bytes] = {}
        self.asked: Counter[str] = Counter()
        http.route("GET", "/v1/cache/{ns}/{key...}", self.get, scope="read")
        http.route("PUT", "/v1/cache/{ns}/{key...}", self.put, scope="write")

    async def get(self, request: HttpRequest) -> HttpResponse:
        """Answer what is there."""
        await trio.lowlevel.checkpoint()
        self.asked["get"] += 1
        value = self.stored.get(request.params["key"])
        if value is None:
            return HttpResponse(status=404, body=b'{"error":{"code":"cache.miss","message":"","hint":""}}')
        return HttpResponse(body=value, headers={"ETag": '"1"'})

    async def put(self, request: HttpRequest) -> HttpResponse:
        """Store."""
        await trio.lowlevel.checkpoint()
        self.stored[request.params["key"]] = request.body
        return HttpResponse(body=b"{}", headers={"ETag": '"1"'})


def provide_ring(kernel: Kernel) -> ServiceCluster:
    """Give the node a topology of which it is the only member."""
    cluster = ServiceCluster([NodeId("a" * 32)], replication_factor=1)
    kernel.services.provide(TOPOLOGY, cluster.topology[NodeId("a" * 32)])
    return cluster


async def test_operations_of_many_tasks_and_pipelines_come_back_whole(both: Both, tmp_path: Path) -> None:
    """Values of any bytes and keys of any text, one by one and a thousand in a pipeline, over a bounded pool."""
    async with serving(tmp_path) as (kernel, http):
        provide_ring(kernel)
        shelf = Shelf(http)

        async def work(client: Any, do: Any) -> None:
            space = client.cache("ns")
            for key in ("plain", "with/slash", "with space?&#", "ü{tag}", "..", "%2F"):
                await do(space.put, key, key.encode() + b"\x00\xff")
                found = await do(space.get, key)
                assert isinstance(found, Entry)
                assert found.value == key.encode() + b"\x00\xff"
            pipeline = client.pipeline()
            queued = pipeline.cache("ns")
            places = [queued.get("plain" if number % 3 else "nothing") for number in range(1_000)]
            results = await do(pipeline.run)
            assert [results[place] is None for place in places] == [number % 3 == 0 for number in range(1_000)]

        await both.run([f"http://{http.address}"], work)
        assert shelf.asked["get"] == 1_006


async def test_a_pipeline_of_large_values_does_not_block_itself(both: Both, tmp_path: Path) -> None:
    """Requests and answers of many megabytes pass one another, though neither fits into the sockets' buffers."""
    big = bytes(range(256)) * 2_048  # 512 KiB
    async with serving(tmp_path) as (kernel, http):
        provide_ring(kernel)
        shelf = Shelf(http)
        shelf.stored["big"] = big

        async def work(client: Any, do: Any) -> None:
            pipeline = client.pipeline()
            queued = pipeline.cache("ns")
            for number in range(12):
                queued.put(f"k{number}", big)
                queued.get("big")
            results = await do(pipeline.run)
            assert [entry.value == big for entry in results[1::2]] == [True] * 12

        await both.run([f"http://{http.address}"], work)
        assert all(shelf.stored[f"k{number}"] == big for number in range(12))


async def test_errors_have_their_classes_and_the_token_is_sent(both: Both, tmp_path: Path) -> None:
    """A node that wants the token names what is wrong without it, and answers with it."""
    async with serving(tmp_path, token=True, http="0.0.0.0:0") as (kernel, http):
        provide_ring(kernel)
        Shelf(http)
        url = f"http://127.0.0.1:{Address.parse(http.address).port}"

        async def refused(client: Any, do: Any) -> None:
            with pytest.raises(FrysError) as caught:
                await do(client.cache().get, "k")
            assert caught.value.code == "http.unauthorised"

        async def taken(client: Any, do: Any) -> None:
            assert await do(client.cache().get, "k") is None

        await both.run([url], refused)
        await both.run([url], taken, token=TOKEN)


async def test_a_session_takes_its_token_along_and_others_have_none(both: Both, tmp_path: Path) -> None:
    """Through real answers, errors among them; kept, the token goes on with the session in another client."""
    seen: list[tuple[bool, int | None]] = []
    unit = UnitId("cache/1")

    async def get(request: HttpRequest) -> HttpResponse:
        await trio.lowlevel.checkpoint()
        session = SESSION.get()
        if session is None:
            seen.append((False, None))
            return HttpResponse(body=b"v", headers={"ETag": '"1"'})
        place = (session.places(unit) or {}).get(NodeId("n"))
        seen.append((session.waits_repair, place))
        session.note(unit, {NodeId("n"): 1 if place is None else place + 1})
        if request.params["key"] == "lost":
            raise NoReplica("nobody")
        return HttpResponse(body=b"v", headers={"ETag": '"1"'})

    async with serving(tmp_path) as (kernel, http):
        provide_ring(kernel)
        http.route("GET", "/v1/cache/{ns}/{key...}", partial(in_session, answer=get), scope="read")

        async def work(client: Any, do: Any) -> None:
            session = client.session()
            assert client.session_token is None
            await do(session.cache().get, "k")
            with pytest.raises(NoReplica):
                await do(session.within(5.0).cache().get, "lost")
            await do(client.cache().get, "k")
            again = client.session(session.session_token, read_repair="wait")
            await do(again.cache().get, "k")
            with pytest.raises(InvalidSession):
                client.session("junk!")

        await both.run([f"http://{http.address}"], work)
    # The call that failed was sent twice.
    assert seen == [(False, None), (False, 1), (False, 2), (False, None), (True, 3)]


async def test_the_placement_names_the_record_and_every_answer_its_epoch(both: Both, tmp_path: Path) -> None:
    """When the record changes, the answer after the change makes the client learn the new table."""
    async with serving(tmp_path) as (kernel, http):
        cluster = provide_ring(kernel)
        Shelf(http)

        async def work(client: Any, do: Any) -> None:
            core = client._engine.core
            await do(client.cache().get, "k")
            assert core.table.epoch == (1, cluster.seq)
            cluster.seq += 1
            await do(client.cache().get, "k")  # hears of it
            core.doubt()  # without the pause between two looks
            await do(client.cache().get, "k")
            assert core.table.epoch == (1, cluster.seq)

        await both.run([f"http://{http.address}"], work)
        assert str(Epoch(Term(1, NodeId("a")), cluster.seq)) == f"1.{cluster.seq}"


# ---------------------------------------------------------------------- servers that fail


Serve = Callable[[SocketStream, int], Awaitable[None]]


@asynccontextmanager
async def failing(serve: Serve) -> AsyncIterator[tuple[str, list[SocketStream]]]:
    """A server that hands each connection, with its number, to a function, and closes it afterwards."""
    listener: SocketListener = await SystemNetwork().listen(Address("127.0.0.1", 0))
    streams: list[SocketStream] = []

    async def accept(nursery: trio.Nursery) -> None:
        while True:
            stream, _ = await listener.accept()
            streams.append(stream)
            nursery.start_soon(one, stream, len(streams))

    async def one(stream: SocketStream, number: int) -> None:
        try:
            await serve(stream, number)
        except trio.BrokenResourceError:
            return
        finally:
            stream.close()

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept, nursery)
            yield f"http://{listener.address}", streams
            nursery.cancel_scope.cancel()
    await listener.aclose()


def reply(body: bytes = b"{}", status: str = "200 OK") -> bytes:
    """Return an answer as bytes."""
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status.encode(), len(body), body)


async def requests_of(stream: SocketStream, count: int = 1) -> bytes:
    """Read until that many requests without bodies are there."""
    data = b""
    while data.count(b"\r\n\r\n") < count:
        piece = await stream.receive_some()
        if not piece:
            return data
        data += piece
    return data


async def test_a_lost_connection_is_retried_once_for_what_may_be_repeated(both: Both) -> None:
    """A read is asked for again and answered; a counter is not, and its error says that nobody knows."""

    async def serve(stream: SocketStream, number: int) -> None:
        await requests_of(stream)
        if number == 2:
            await stream.send_all(reply(b"value"))

    async with failing(serve) as (url, streams):

        async def read(client: Any, do: Any) -> None:
            assert (await do(client.cache().get, "k")).value == b"value"

        await both.run([url], read, straight=False)
        assert len(streams) == 2

        async def count(client: Any, do: Any) -> None:
            with pytest.raises(NodeUnreachable, match="unknown"):
                await do(client.cache().incr, "k")

        await both.run([url], count, straight=False)
        assert len(streams) == 3


async def test_an_idle_connection_that_the_node_closed_is_not_used_even_for_a_counter(both: Both) -> None:
    """The client looks before it sends: what may not be repeated does not fail for a connection that was gone."""

    async def serve(stream: SocketStream, number: int) -> None:
        del number
        await requests_of(stream)
        await stream.send_all(reply(b'{"value": 7}'))

    async with failing(serve) as (url, streams):

        async def work(client: Any, do: Any) -> None:
            for _ in range(3):
                assert await do(client.cache().incr, "k") == 7
                while not await trio.to_thread.run_sync(partial(_has_ended, client)):
                    await trio.lowlevel.checkpoint()

        await both.run([url], work, straight=False)
        assert len(streams) == 3


def _has_ended(client: Any) -> bool:
    """True when the node's end of the idle connection has arrived."""
    engine = client._engine
    pool = engine.pool if hasattr(engine, "pool") else engine._pool
    return all(not pool._is_quiet(wire) for kept in pool._idle.values() for wire, _ in kept)


async def test_a_node_that_never_answers_costs_half_of_the_time(both: Both) -> None:
    """The first sending gives up half-way, and the second node answers within the limit."""
    silent = trio.Event()

    async def never(stream: SocketStream, number: int) -> None:
        del number
        await requests_of(stream)
        await silent.wait()

    async def answers(stream: SocketStream, number: int) -> None:
        del number
        while await requests_of(stream):
            await stream.send_all(reply(b"value"))

    async with failing(never) as (first, asked), failing(answers) as (second, _):

        async def work(client: Any, do: Any) -> None:
            client._engine.core._turn = 1  # the run adds one: the silent node is asked first
            assert (await do(client.cache().get, "k")).value == b"value"

        await both.run([first, second], work, straight=False, timeout_s=1.0)
        assert len(asked) == 1

        async def nobody(client: Any, do: Any) -> None:
            with pytest.raises(DeadlineExceeded):
                await do(client.cache().get, "k")

        await both.run([first], nobody, straight=False, timeout_s=0.4)


async def test_nobody_there_is_an_error_that_names_who_was_tried(both: Both) -> None:
    """All seeds refuse: the error is `NodeUnreachable`, the exit code of it is 3, and nothing was sent."""
    listener = await SystemNetwork().listen(Address("127.0.0.1", 0))
    url = f"http://{listener.address}"
    await listener.aclose()

    async def work(client: Any, do: Any) -> None:
        with pytest.raises(NodeUnreachable, match="nothing was sent"):
            await do(client.cache().incr, "k")

    await both.run([url], work)


async def test_connections_to_one_node_are_bounded(both: Both) -> None:
    """More flights than connections wait their turn."""
    peak = open_now = 0

    async def serve(stream: SocketStream, number: int) -> None:
        nonlocal peak, open_now
        del number
        open_now += 1
        peak = max(peak, open_now)
        try:
            while data := await requests_of(stream):
                await trio.lowlevel.checkpoint()
                await stream.send_all(reply(b"v") * data.count(b"\r\n\r\n"))
        finally:
            open_now -= 1

    async with failing(serve) as (url, _):

        async def work(client: Any, do: Any) -> None:
            pipeline = client.pipeline()
            queued = pipeline.cache()
            for number in range(3_000):
                queued.get(f"k{number}")
            assert len(await do(pipeline.run)) == 3_000

        await both.run([url], work, straight=False)
    assert 1 < peak <= CONNECTIONS_MAX


async def test_a_cancelled_operation_leaves_the_client_usable() -> None:
    """The connection that was in use is closed; the next operation makes a new one and gets its own answer."""
    hold = trio.Event()

    async def serve(stream: SocketStream, number: int) -> None:
        await requests_of(stream)
        if number == 1:
            await hold.wait()
        await stream.send_all(reply(b"%d" % number))

    async with failing(serve) as (url, streams), Client([url], straight=False) as client:
        with trio.move_on_after(0.2) as scope:
            await client.cache().get("k")
        assert scope.cancelled_caught
        found = await client.cache().get("k")
        assert found is not None
        assert found.value == b"2"
        hold.set()
        assert len(streams) == 2


def test_the_json_of_an_error_is_the_one_that_nodes_send() -> None:
    """The made-up miss above is a real one."""
    body = msgspec.json.decode(b'{"error":{"code":"cache.miss","message":"","hint":""}}')
    assert set(body["error"]) == {"code", "message", "hint"}
