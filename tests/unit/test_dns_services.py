"""Seeds by SRV records: the wire format by hand, and lookups against a small name server on real sockets."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from frys_node.base.errors import MalformedFrame
from frys_node.base.types import Address
from frys_node.testing.network import FakeNetwork
from frys_node.transport.dns import DNS_PORT, Resolver, Service, decode_answer, encode_query, resolver_of
from frys_node.transport.network import SystemNetwork
from frys_node.transport.services import lookup
from membership.discovery import resolve_seeds

NAME = "_frys._tcp.example.org"
LOOPBACK = Address("127.0.0.1", 0)


def answer(query: bytes, *records: tuple[int, int, int, str], flags: int = 0x8180, extra: bytes = b"") -> bytes:
    """Answer a query: the name as a pointer to the question, targets as labels."""
    question = query[12 : query.index(b"\x00", 12) + 5]
    out = query[:2] + struct.pack("!HHHHH", flags, 1, len(records), 0, 0) + question
    for priority, weight, port, target in records:
        labels = b"".join(bytes([len(part)]) + part.encode() for part in target.split(".") if part) + b"\x00"
        body = struct.pack("!HHH", priority, weight, port) + labels
        out += b"\xc0\x0c" + struct.pack("!HHIH", 33, 1, 60, len(body)) + body
    return out + extra


class NameServer:
    """Answers by UDP and by TCP on one port of the loopback interface."""

    def __init__(self, by_udp: Callable[[bytes], bytes | None], by_tcp: Callable[[bytes], bytes] | None = None) -> None:
        self._by_udp, self._by_tcp = by_udp, by_tcp
        self.asked = 0
        self.address = LOOPBACK

    async def run(self, task_status: trio.TaskStatus[Address] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        network = SystemNetwork()
        datagram = await network.bind(LOOPBACK)
        self.address = datagram.address
        try:
            async with trio.open_nursery() as nursery:
                if self._by_tcp is not None:
                    await nursery.start(self._serve_tcp, network)
                task_status.started(self.address)
                while True:
                    for query, source in await datagram.receive():
                        self.asked += 1
                        reply = self._by_udp(query)
                        if reply is not None:
                            datagram.send(reply, source)
        finally:
            with trio.CancelScope(shield=True):
                await datagram.aclose()

    async def _serve_tcp(
        self, network: SystemNetwork, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        listener = await network.listen(self.address)
        task_status.started()
        try:
            stream, _ = await listener.accept()
            query = await stream.receive_some()
            assert self._by_tcp is not None
            reply = self._by_tcp(query[2:])
            await stream.send_all(len(reply).to_bytes(2, "big") + reply)
            await stream.aclose()
        finally:
            with trio.CancelScope(shield=True):
                await listener.aclose()


def test_records_come_by_priority_then_weight() -> None:
    """Names are compressed or not, other records are passed over, and `.` means that there is no such service."""
    query = encode_query(7, NAME)
    data = answer(
        query, (20, 1, 1, "c.example.org"), (10, 1, 2, "b.example.org"), (10, 9, 3, "a.example.org"), (0, 0, 4, ".")
    )
    assert decode_answer(data, 7, NAME.upper() + ".").services == (
        Service(10, 9, Address("a.example.org", 3)),
        Service(10, 1, Address("b.example.org", 2)),
        Service(20, 1, Address("c.example.org", 1)),
    )


def test_answers_to_other_questions_are_refused() -> None:
    """The number, the name, the kind and the server's verdict must all fit."""
    query = encode_query(7, NAME)
    for data, number, name in (
        (answer(query), 8, NAME),
        (answer(query), 7, "_other._tcp.example.org"),
        (query, 7, NAME),
        (answer(query, flags=0x8182), 7, NAME),
        (answer(query, (1, 1, 1, "a"))[:-4], 7, NAME),
    ):
        with pytest.raises(MalformedFrame):
            decode_answer(data, number, name)
    assert decode_answer(answer(query, flags=0x8183), 7, NAME).services == ()


def test_a_name_that_points_at_itself_is_refused() -> None:
    """A loop of pointers ends."""
    query = encode_query(7, NAME)
    body = struct.pack("!HHH", 1, 1, 1) + b"\xc0\x0c"
    loop = answer(query)[:12] + b"\xc0\x0c" + struct.pack("!HH", 33, 1) + body
    with pytest.raises(MalformedFrame):
        decode_answer(loop, 7, NAME)


@given(st.binary(max_size=120), st.integers(0, 400))
def test_no_bytes_make_the_reader_raise_anything_else(junk: bytes, cut: int) -> None:
    """Junk behind a good beginning, or a good answer cut anywhere."""
    query = encode_query(7, NAME)
    for data in (answer(query, (1, 1, 1, "a.b"))[:cut] + junk, junk):
        try:
            decode_answer(data, 7, NAME)
        except MalformedFrame:
            continue


@pytest.mark.parametrize("name", ["", "_a..b", "a" * 64, "x." * 127 + "xx", "_\u00e4.b"])
def test_what_is_no_domain_name_is_not_asked(name: str) -> None:
    """Empty, too long and non-ASCII labels are refused."""
    with pytest.raises(MalformedFrame):
        encode_query(1, name)


def test_servers_and_search_domains_are_read_from_resolv_conf() -> None:
    """Three servers at most, none means this machine; the last list of domains counts, `ndots` is bounded."""
    pod = (
        "search shop.svc.cluster.local svc.cluster.local cluster.local.\nnameserver 10.96.0.10\noptions edns0 ndots:5\n"
    )
    domains = ("shop.svc.cluster.local", "svc.cluster.local", "cluster.local")
    assert resolver_of(pod) == Resolver((Address("10.96.0.10", DNS_PORT),), domains, 5)
    assert resolver_of("# x\nsearch a\ndomain b\nnameserver fd00::1\n").search == ("b",)
    servers = resolver_of("".join(f"nameserver 10.0.0.{number}\n" for number in range(9))).nameservers
    assert [server.host for server in servers] == ["10.0.0.0", "10.0.0.1", "10.0.0.2"]
    assert resolver_of("nameserver\nsearch\noptions ndots:x\n") == Resolver((Address("127.0.0.1", DNS_PORT),))
    long = resolver_of(f"search {' '.join('abcdefghijkl')}\noptions ndots:99\n")
    assert (len(long.search), long.ndots) == (8, 15)


def test_search_domains_complete_a_name_by_its_dots() -> None:
    """Few dots: the domains first; many: the name first; a final dot: nothing but the name."""
    resolver = Resolver((LOOPBACK,), ("ns.svc.c", "svc.c"), 5)
    short, long = "_cluster._tcp.x.ns.svc", "_cluster._tcp.x.ns.svc.c"
    assert resolver.names(short) == [f"{short}.ns.svc.c", f"{short}.svc.c", short]
    assert resolver.names(long) == [long, f"{long}.ns.svc.c", f"{long}.svc.c"]
    assert resolver.names(short + ".") == [short + "."]


async def test_a_service_of_kubernetes_is_found_by_its_short_name(nursery: trio.Nursery) -> None:
    """`_cluster._tcp.x-nodes.ns.svc` was asked as it stands, which no name server of a cluster knows."""
    whole = "_cluster._tcp.x-nodes.ns.svc.cluster.local"
    wanted = b"".join(bytes([len(part)]) + part.encode() for part in whole.split(".")) + b"\x00"

    def reply(query: bytes) -> bytes:
        found = [(1, 1, 7001, "localhost")] if wanted in query else []
        return answer(query, *found, flags=0x8180 if found else 0x8183)

    silent, server = NameServer(lambda query: None), NameServer(reply)
    await nursery.start(silent.run)
    await nursery.start(server.run)
    domains = ("ns.svc.cluster.local", "svc.cluster.local", "cluster.local")
    network = SystemNetwork(Resolver((silent.address, server.address), domains, 5))
    with trio.fail_after(10):
        peers = await resolve_seeds(network, ["_cluster._tcp.x-nodes.ns.svc"])
    assert Address("127.0.0.1", 7001) in [peer.address for peer in peers]
    assert (silent.asked, server.asked) == (1, 3)  # the silent one is waited for once, not once a domain


async def test_a_service_is_looked_up_by_real_packets(nursery: trio.Nursery) -> None:
    """A server that stays silent, one that lies, then one that answers: the seed's records become peers."""
    silent = await nursery.start(NameServer(lambda query: None).run)
    lying = await nursery.start(NameServer(lambda query: b"nonsense").run)
    good = await nursery.start(NameServer(lambda query: answer(query, (1, 1, 7001, "localhost"))).run)
    network = SystemNetwork(Resolver((lying, silent, good)))
    with trio.fail_after(10):
        peers = await resolve_seeds(network, [NAME])
    assert Address("127.0.0.1", 7001) in [peer.address for peer in peers]


async def test_a_long_answer_comes_by_tcp(nursery: trio.Nursery) -> None:
    """Two hundred pods do not fit into UDP: the truncated answer makes the lookup ask again."""
    pods = [(1, 1, 7946, f"pod-{index}.frys.default.svc.cluster.local") for index in range(200)]
    server = NameServer(lambda query: answer(query, flags=0x8380), lambda query: answer(query, *pods))
    await nursery.start(server.run)
    with trio.fail_after(10):
        targets = await lookup(SystemNetwork(), NAME, Resolver((server.address,)))
    assert len(targets) == 200
    assert server.asked == 1


async def test_a_service_without_any_server_has_no_addresses(autojump_clock: object) -> None:
    """Nobody answers: the lookup ends by itself, with nothing."""
    network = FakeNetwork().host("10.0.0.1")
    assert await lookup(network, NAME, Resolver((Address("10.0.0.2", 53),))) == []
    assert await lookup(network, "not..a.name", Resolver((Address("10.0.0.2", 53),))) == []


async def test_a_connect_to_a_service_tries_its_targets(nursery: trio.Nursery) -> None:
    """`join --seed _frys._tcp.example.org` needs nothing else: the first target that answers is it."""
    network = SystemNetwork()
    listener = await network.listen(LOOPBACK)
    closed = await network.listen(LOOPBACK)
    await closed.aclose()
    records = [(1, 1, closed.address.port, "localhost"), (2, 1, listener.address.port, "localhost")]
    server = await nursery.start(NameServer(lambda query: answer(query, *records)).run)
    with trio.fail_after(10):
        stream = await SystemNetwork(Resolver((server,))).connect(Address(NAME, 7946))
    await stream.aclose()
    await listener.aclose()


async def test_a_fake_network_knows_services_too() -> None:
    """Seeds of both kinds resolve side by side, a service's with the ports of its records."""
    fake = FakeNetwork()
    fake.names["b"] = ["10.0.0.2"]
    fake.services[NAME] = [Address("b", 7001)]
    host = fake.host("10.0.0.2")
    found = await resolve_seeds(host, [NAME, "b"])
    assert [str(peer.address) for peer in found] == ["10.0.0.2:7001", "10.0.0.2:7946"]
