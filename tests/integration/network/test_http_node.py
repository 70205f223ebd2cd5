"""What a node serves about itself, who may ask for it, and where it listens."""

from __future__ import annotations

import os
import stat
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import msgspec
import pytest
import trio
from http_fixtures import TOKEN, client, make_node, serving
from prometheus_client.parser import text_string_to_metric_families

from frys_node.base.errors import CorruptData, ReloadRefused
from frys_node.base.types import Address, Epoch, NodeId, Term, UnitId
from frys_node.config import apply, load
from frys_node.kernel.registry import find
from frys_node.kernel.services.http import HTTP, HttpRequest, HttpResponse
from frys_node.kernel.services.members import MEMBERS, Condition, MemberChanged, MemberView, Status
from frys_node.kernel.services.topology import TOPOLOGY, Collection, Route, UnitSets
from frys_node.plugins.network.binding import PortBook, listen_or_move
from frys_node.plugins.network.config import NetworkPluginConfig
from frys_node.plugins.network.errors import TokenNeeded
from frys_node.plugins.network.placement import reachable
from frys_node.testing.disk import FakeDisk
from frys_node.transport.errors import AddressInUse, ConnectFailed
from frys_node.transport.network import SystemNetwork

A, B = NodeId("a" * 32), NodeId("b" * 32)


def _view(node: NodeId, name: str, status: Status = Status.ALIVE) -> MemberView:
    return MemberView(
        name=name,
        id=node,
        address=Address("127.0.0.1", 7946),
        status=status,
        condition=Condition.OK,
        incarnation=3,
        boot=1,
        tags={"zone": "x"},
        http="127.0.0.1:8080",
    )


class TwoMembers:
    """A member table of two."""

    self_id = A

    def all(self) -> Sequence[MemberView]:
        """Both."""
        return [_view(A, "node-a"), _view(B, "node-b", Status.SUSPECT)]

    def get(self, node: NodeId) -> MemberView | None:
        """One."""
        return next((view for view in self.all() if view.id == node), None)

    def is_usable(self, node: NodeId) -> bool:
        """Both are."""
        return True

    def rank(self, node: NodeId) -> int:
        """Both are well."""
        return 0


class EvenOdd:
    """A topology that gives even units to A first, odd ones to B alone."""

    epoch = Epoch(Term(1, A), 4)
    partitions = 256

    def sets(self, unit: UnitId) -> UnitSets:
        """By the last digit."""
        nodes = (A, B) if int(unit.rpartition("/")[2]) % 2 == 0 else (B,)
        return UnitSets(self.epoch, "stable", nodes, nodes)

    def route(self, unit: UnitId) -> Route:
        """Not asked here."""
        raise NotImplementedError

    def collections(self) -> Sequence[Collection]:
        """One collection of four shards."""
        return [Collection(name="c", id="c1", dimension=2, distance="Dot")]

    async def create_collection(self, collection: Collection) -> None:
        """Not asked here."""
        raise NotImplementedError

    async def delete_collection(self, name: str) -> None:
        """Not asked here."""
        raise NotImplementedError


async def test_probes_tell_liveness_and_readiness_apart(tmp_path: Path) -> None:
    """A node that waits for something is alive and not ready; verbose names what it waits for."""
    async with serving(tmp_path) as (kernel, http), client(http) as c:
        assert (await c.get("/livez")).body == b"ok\n"
        assert (await c.get("/readyz")).status == 200
        kernel.control.add_check("joined", lambda: "no seed answered yet")
        answer = await c.get("/readyz")
        assert (answer.status, answer.body) == (503, b"[-]joined failed: no seed answered yet\n")
        assert b"[+]network ok\n" in (await c.get("/readyz?verbose")).body
        assert (await c.get("/livez")).status == 200


async def test_a_path_is_unknown_only_when_the_node_is_whole(tmp_path: Path) -> None:
    """While plugins may be missing, a path that nobody serves is 503: a 404 would say that the thing does not exist."""
    async with serving(tmp_path) as (kernel, http), client(http) as c:
        assert (await c.get("/collections/shop")).status == 404
        kernel.control.add_check("vector", lambda: "starting")
        answer = await c.get("/collections/shop")
        assert (answer.status, answer.json()["error"]["code"]) == (503, "node.not_ready")
        assert answer.headers["retry-after"] == "1"
        assert (await c.get("/v1/status")).status == 200


class Late:
    """A component with a drain of the test's own."""

    name = "late"

    def __init__(self, drain: Callable[[], Awaitable[None]]) -> None:
        self.drain = drain

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Wait to be stopped."""
        task_status.started()
        await trio.sleep_forever()


async def test_a_stop_closes_tcp_first_and_the_admin_socket_last(tmp_path: Path) -> None:
    """Requests in flight get their answers while everything still runs; the command sees the node until the end."""
    reached, release = trio.Event(), trio.Event()
    seen: list[int] = []

    async def slow(request: HttpRequest) -> HttpResponse:
        reached.set()
        await release.wait()
        return HttpResponse(body=b"done")

    async def drain_late() -> None:
        """Stand for a component that drains after the door is closed."""
        async with client(tmp_path / "admin.sock") as admin:
            seen.append((await admin.get("/livez")).status)

    async with serving(tmp_path) as (kernel, http), trio.open_nursery() as nursery:
        http.route("GET", "/slow", slow, scope="read")
        late = Late(drain_late)
        await kernel.start(late)

        async def ask() -> None:
            async with client(http) as c:
                assert (await c.get("/slow")).body == b"done"

        nursery.start_soon(ask)
        await reached.wait()

        async def stop_in_a_moment() -> None:
            while not release.is_set():
                try:
                    async with client(http):
                        await trio.sleep(0.01)
                except ConnectFailed:
                    release.set()

        nursery.start_soon(stop_in_a_moment)
        nursery.start_soon(kernel.stop)
    assert seen == [200]


async def test_metrics_are_prometheus_text_that_a_parser_accepts(tmp_path: Path) -> None:
    """Counters, labels, gauges read at scrape time and histograms with cumulative buckets; OpenMetrics on request."""
    async with serving(tmp_path) as (_, http), client(http) as c:
        await c.get("/livez")
        answer = await c.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain")
        families = {family.name: family for family in text_string_to_metric_families(answer.body.decode())}
        assert families["frys_node_ready"].samples[0].value == 1.0
        requests = {
            (s.labels.get("method"), s.labels.get("code")): s.value for s in families["frys_network_requests"].samples
        }
        assert requests[("GET", "200")] == 1.0
        seconds = families["frys_network_request_duration_seconds"].samples
        buckets = [s.value for s in seconds if s.name.endswith("_bucket")]
        assert buckets == sorted(buckets)
        assert buckets[-1] == next(s.value for s in seconds if s.name.endswith("_count"))
        answer = await c.get("/metrics", "Accept: application/openmetrics-text; version=1.0.0")
        assert answer.body.endswith(b"# EOF\n")


async def test_members_have_the_documented_shape(tmp_path: Path) -> None:
    """Name, id, address, status, condition, incarnation, boot, tags, phi, rtt_s, since when, and where HTTP is."""
    async with serving(tmp_path) as (kernel, http), client(http) as c:
        assert (await c.get("/v1/members")).json() == {"members": []}
        kernel.services.provide(MEMBERS, TwoMembers())
        first, second = (await c.get("/v1/members")).json()["members"]
        assert first == {
            "name": "node-a",
            "id": A,
            "address": "127.0.0.1:7946",
            "status": "alive",
            "condition": "ok",
            "incarnation": 3,
            "boot": 1,
            "tags": {"zone": "x"},
            "phi": None,
            "rtt_s": None,
            "changed_unix_ns": 0,
            "http": "127.0.0.1:8080",
        }
        assert second["status"] == "suspect"


async def test_the_ring_shows_shares_and_finds_owners(tmp_path: Path) -> None:
    """Shares sum to one; a unit or a cache key leads to its set; a unit that cannot be is refused."""
    async with serving(tmp_path) as (kernel, http), client(http) as c:
        assert (await c.get("/v1/ring")).status == 503
        kernel.services.provide(TOPOLOGY, EvenOdd())
        kernel.services.provide(MEMBERS, TwoMembers())
        body = (await c.get("/v1/ring")).json()
        assert (body["epoch"], body["phase"], body["partitions"]) == ("1.4", "stable", 256)
        assert [(m["name"], m["share"], m["units"]) for m in body["members"]] == [
            ("node-a", 0.5, 258),
            ("node-b", 0.5, 516),
        ]
        owner = (await c.get("/v1/ring?unit=workflow/17")).json()["owner"]
        assert (owner["unit"], owner["current"]) == ("workflow/17", ["node-b"])
        # Redis: CLUSTER KEYSLOT somekey = 11058, and a tag decides alone.
        assert (await c.get("/v1/ring?key=somekey")).json()["owner"]["unit"] == f"cache/{11058 // 64}"
        tagged = (await c.get("/v1/ring?key=x%7Bsomekey%7Dy")).json()["owner"]["unit"]
        assert tagged == f"cache/{11058 // 64}"
        for unit in ("workflow/256", "workflow/x", "nonsense"):
            assert (await c.get(f"/v1/ring?unit={unit}")).status == 400


async def test_the_placement_names_every_holder_and_every_answer_the_epoch(tmp_path: Path) -> None:
    """Clients route by the table; they see that it is old by the epoch that each answer carries, errors too."""
    async with serving(tmp_path) as (kernel, http), client(http) as c:
        answer = await c.get("/v1/placement")
        assert (answer.status, answer.json()["error"]["code"]) == (503, "node.not_ready")
        assert "x-frys-epoch" not in answer.headers
        kernel.services.provide(TOPOLOGY, EvenOdd())
        kernel.services.provide(MEMBERS, TwoMembers())
        answer = await c.get("/v1/placement")
        body = answer.json()
        assert answer.headers["x-frys-epoch"] == body["epoch"] == "1.4"
        assert (await c.get("/nowhere")).headers["x-frys-epoch"] == "1.4"
        names = [node["name"] for node in body["nodes"]]
        held = {kind: [[names[number] for number in unit] for unit in body[kind]] for kind in ("cache", "workflow")}
        assert held["cache"] == held["workflow"] == [["node-a", "node-b"], ["node-b"]] * 128
        assert len(body["collections"]["c"]) == 4
        assert [(node["http"], node["status"]) for node in body["nodes"]] == [
            ("127.0.0.1:8080", "alive"),
            ("127.0.0.1:8080", "suspect"),
        ]


async def test_the_placement_is_made_once_for_each_record(tmp_path: Path) -> None:
    """All clients of a node ask for it at the same moment; under another record it is another one."""
    topology = EvenOdd()
    async with serving(tmp_path) as (kernel, http), client(http) as c:
        kernel.services.provide(TOPOLOGY, topology)
        kernel.services.provide(MEMBERS, TwoMembers())
        first = (await c.get("/v1/placement")).json()
        topology.sets = lambda _unit: UnitSets(topology.epoch, "stable", (B,), (B,))  # type: ignore[method-assign]
        assert (await c.get("/v1/placement")).json() == first
        topology.epoch = Epoch(Term(1, A), 5)
        then = (await c.get("/v1/placement")).json()
        assert (then["epoch"], then["cache"]) == ("1.5", [[0]] * 256)
        assert [node["name"] for node in then["nodes"]] == ["node-b"]


def test_a_node_that_listens_everywhere_is_reached_where_it_is_advertised() -> None:
    """A wildcard is no address to connect to; a node without HTTP has none."""
    view = _view(A, "node-a")
    assert reachable(msgspec.structs.replace(view, http="0.0.0.0:81", address=Address("10.0.0.1", 7))) == "10.0.0.1:81"
    assert reachable(msgspec.structs.replace(view, http="[::]:81", address=Address("fd00::1", 7))) == "[fd00::1]:81"
    assert reachable(view) == "127.0.0.1:8080"
    assert reachable(msgspec.structs.replace(view, http="")) == ""


async def test_status_says_who_and_how_and_takes_sections_from_others(tmp_path: Path) -> None:
    """Identity, components with state, readiness; a broken section shows its error and hides nothing."""

    def broken() -> object:
        raise RuntimeError("no idea")

    async with serving(tmp_path) as (kernel, http), client(http) as c:
        kernel.control.add_status("replication", lambda: {"units": 7})
        kernel.control.add_status("broken", broken)
        body = (await c.get("/v1/status")).json()
        who = {"id": A, "name": "node-a", "boot": 7, "pid": os.getpid(), "data_dir": str(tmp_path)}
        assert body["node"] == who
        assert [(v["name"], v["state"]) for v in body["components"]] == [("pulse", "ready"), ("network", "ready")]
        assert (body["ready"], body["waiting_for"], body["epoch"]) == (True, [], None)
        assert (body["replication"], body["broken"]) == ({"units": 7}, {"error": "RuntimeError: no idea"})
        assert body["http"]["address"] == http.address


async def test_events_are_streamed_and_chosen_by_type(tmp_path: Path) -> None:
    """A member change reaches the reader as a server-sent event; other topics are not sent when not asked for."""
    async with serving(tmp_path) as (kernel, http), client(http) as c:
        await c.stream.send_all(b"GET /v1/events?types=member HTTP/1.1\r\nHost: localhost\r\n\r\n")
        head = await c.until(b": events of this node\n\n")
        assert b"Content-Type: text/event-stream" in head
        kernel.bus.publish(MemberChanged(old=None, new=_view(B, "node-b")))
        text = await c.until(b"\n\n\r\n")
        assert b'event: member\ndata: {"old":null,"new":{"name":"node-b"' in text
        assert b'"address":"' in text


async def test_plugins_are_listed_for_all_and_changed_by_administrators_only(tmp_path: Path) -> None:
    """Loopback may look, the admin socket may act, and the HTTP plugin does not saw off its own branch."""
    async with serving(tmp_path) as (_, http), client(http) as c, client(tmp_path / "admin.sock") as admin:
        assert [p["name"] for p in (await c.get("/v1/plugins")).json()["plugins"]] == ["network"]
        assert (await c.get("/v1/plugins/cache/unload", method="POST")).status == 403
        assert (await admin.get("/v1/plugins/nosuch/reload", method="POST")).status == 404
        assert (await admin.get("/v1/plugins/network/reload", method="POST")).status == 400
        assert (await admin.get("/v1/plugins/network/dance", method="POST")).status == 400


async def test_the_admin_socket_is_private_and_works_in_a_directory_of_any_length(tmp_path: Path) -> None:
    """Mode 0600, the same routes as TCP, though the path is far over the 107 bytes of a socket address."""
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    async with serving(deep):
        assert stat.S_IMODE((deep / "admin.sock").stat().st_mode) == 0o600
        (tmp_path / "short").symlink_to(deep)
        if len(str(tmp_path / "short" / "admin.sock")) < 107:
            async with client(tmp_path / "short" / "admin.sock") as admin:
                assert (await admin.get("/v1/status")).json()["node"]["name"] == "node-a"
    assert not (deep / "admin.sock").exists()


async def test_off_loopback_everything_but_the_probes_needs_the_token(tmp_path: Path) -> None:
    """Default deny: 401 without or with a wrong token, 200 with the right one; the socket needs none."""
    async with serving(tmp_path, token=True, http="0.0.0.0:0") as (_, http):
        port = int(http.address.rpartition(":")[2])
        stream = await SystemNetwork().connect(Address("127.0.0.1", port))
        from http_fixtures import Client

        c = Client(stream)
        assert (await c.get("/livez")).status == (await c.get("/readyz")).status == 200
        for path in ("/v1/members", "/metrics", "/v1/status", "/v1/plugins", "/v1/events"):
            answer = await c.get(path)
            assert (answer.status, answer.headers["www-authenticate"]) == (401, 'Bearer realm="frys"')
        assert (await c.get("/v1/members", "Authorization: Bearer wrong")).status == 401
        assert (await c.get("/v1/members", f"Authorization: Bearer {TOKEN}")).status == 200
        await stream.aclose()
        async with client(tmp_path / "admin.sock") as admin:
            assert (await admin.get("/v1/members")).status == 200


async def test_off_loopback_without_a_token_the_node_refuses_to_start(tmp_path: Path) -> None:
    """The error names both ways out; `insecure` is one of them."""
    with pytest.raises(TokenNeeded) as caught:
        async with serving(tmp_path, http="0.0.0.0:0"):
            pytest.fail("it listens")
    assert "insecure = true" in caught.value.hint
    async with serving(tmp_path, http="0.0.0.0:0", insecure=True) as (_, http):
        stream = await SystemNetwork().connect(Address("127.0.0.1", int(http.address.rpartition(":")[2])))
        await stream.aclose()


async def test_a_chosen_port_that_is_busy_is_an_error_that_names_it(tmp_path: Path) -> None:
    """The start fails with AddressInUse at once, not after retries; nothing stays behind."""
    blocker = await SystemNetwork().listen(Address("127.0.0.1", 0))
    kernel = make_node(tmp_path)
    with pytest.raises(AddressInUse, match=str(blocker.address.port)):  # noqa: PT012 (the block is the claim)
        async with kernel.running():
            config = NetworkPluginConfig(http=str(blocker.address))
            await kernel.load_plugins([find("network")], {"network": config})
    await blocker.aclose()
    assert kernel.services.find(HTTP) is None
    assert not (tmp_path / "admin.sock").exists()


async def test_a_default_port_that_the_operator_wrote_down_is_a_chosen_one(tmp_path: Path) -> None:
    """The value is the default's, but it was chosen: busy is an error, and `localhost` means 127.0.0.1."""
    blocker = await SystemNetwork().listen(Address("127.0.0.1", 0))
    kernel = make_node(tmp_path)
    async with kernel.running():
        config = NetworkPluginConfig(http=f"localhost:{blocker.address.port}")
        with pytest.raises(AddressInUse):
            await kernel.load_plugins([find("network")], {"network": config}, chosen=["plugins.network.http"])
    await blocker.aclose()


async def test_new_limits_take_effect_while_the_node_runs_and_a_new_address_does_not(tmp_path: Path) -> None:
    """A reload is applied whole: live keys at once, for new connections; one fixed key refuses everything."""
    async with serving(tmp_path) as (kernel, http):
        kernel.control.add_check("always", lambda: None)
        file = tmp_path / "frys.toml"
        file.write_text("[plugins.network]\nhttp = '127.0.0.1:0'\n")
        old = load(file=file, plugins=("network",))
        file.write_text("[plugins.network]\nhttp = '127.0.0.1:0'\n[plugins.network.limits]\ntarget_bytes = 64\n")
        new = load(file=file, plugins=("network",))
        assert [change.path for change in await apply(kernel, old, new)] == ["plugins.network.limits.target_bytes"]
        async with client(http) as c:
            assert (await c.get("/" + "x" * 100)).status == 414
        file.write_text("[plugins.network]\nhttp = '127.0.0.1:1'\n")
        with pytest.raises(ReloadRefused, match=r"plugins\.network\.http"):
            await apply(kernel, new, load(file=file, plugins=("network",)))
        async with client(http) as c:
            assert (await c.get("/" + "x" * 100)).status == 414


async def test_a_busy_default_port_moves_up_once_and_stays_there() -> None:
    """First start: the next free port, remembered. Later starts: that one or an error, never a second move."""
    network, disk = SystemNetwork(), FakeDisk()
    blocker = await network.listen(Address("127.0.0.1", 0))
    default = blocker.address
    listener, taken = await listen_or_move("http", default, network.listen, is_chosen=False, book=PortBook(disk))
    assert taken.port > default.port
    await listener.aclose()
    await blocker.aclose()
    again, same = await listen_or_move("http", default, network.listen, is_chosen=False, book=PortBook(disk))
    assert same == taken
    with pytest.raises(AddressInUse, match="since its first start"):
        await listen_or_move("http", default, network.listen, is_chosen=False, book=PortBook(disk))
    with pytest.raises(AddressInUse):
        await listen_or_move("http", taken, network.listen, is_chosen=True, book=PortBook(disk))
    await again.aclose()
    disk.write("ports.json", b"{nonsense")
    with pytest.raises(CorruptData, match=r"ports\.json"):
        PortBook(disk)
    await trio.lowlevel.checkpoint()
