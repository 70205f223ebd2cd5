"""`frys-node ring` and `members` against the node's own routes over a topology of two nodes."""

from __future__ import annotations

from pathlib import Path

from frys_node.base.units import cache_unit_of, partition_of, workflow_unit
from frys_node.kernel.services.http import HttpRequest, HttpResponse
from frys_node.kernel.services.members import MEMBERS
from frys_node.kernel.services.topology import TOPOLOGY
from frys_node.testing.services import FakeHttp, ServiceCluster
from tests.integration.cli.cli_rig import command_line
from tests.integration.workflow.workflow_rig import FixedMembers, Record


async def test_an_owner_is_found_by_key_by_run_and_by_unit(tmp_path: Path) -> None:
    """A name with a slash is a cache key unless --unit says otherwise; exactly one of the three is asked for."""
    async with command_line(tmp_path, FakeHttp()) as cli:
        cluster = ServiceCluster(["n1", "n2"])
        cli.kernel.services.provide(TOPOLOGY, cluster.topology[cluster.nodes[0]])
        for arguments, unit in (
            (["workflow/17"], cache_unit_of(b"workflow/17", 256)),
            (["--run", "order-7"], workflow_unit(partition_of("order-7", 256))),
            (["--unit", "workflow/17"], "workflow/17"),
        ):
            done = await cli.run("ring", "owner", *arguments)
            assert (done.code, f"unit {unit} at epoch 1.1 (stable): n" in done.out) == (0, True), done
            owner = (await cli.run("ring", "owner", *arguments, "--json")).json()["owner"]
            assert owner["unit"] == unit
            assert [node["sets"] for node in owner["nodes"]] == [["current", "next"]] * 2
        assert (await cli.run("ring", "owner", "--unit", "workflow/999")).code == 2
        assert (await cli.run("ring", "owner")).code == 2
        assert (await cli.run("ring", "owner", "key", "--run", "r")).code == 2


SHOWN = {
    "epoch": "1.2",
    "phase": "joining",
    "settled": False,
    "issuer": {"name": "n1\x1b[2J", "id": "1", "answers": False},
    "partitions": 256,
    "replication_factor": 2,
    "collections": 0,
    "copies_to_make": 300,
    "waits_for": [{"name": "n3", "id": "3", "reason": "has not adopted 1.2"}],
    "queued": ["n3"],
    "pinned": [],
    "bypassed": {"n4": 12},
    "members": [
        {"name": name, "id": name, "weight": 1.0, "zone": "east", "rack": "", "change": change, "share": 0.5,
         "arc": 0.5, "units": 256, "next_units": 171, "bytes": size, "error": error}
        for name, change, size, error in (("n1", "", 2048, ""), ("n3", "joins", None, "no answer within 2 s"))
    ],
    "sectors": [0] * 720,
    "next_sectors": [0, 1] * 360,
}  # fmt: skip

PLANNED = {
    "epoch": "1.2",
    "steps": [{"change": "add", "what": "e", "units": 3, "copies": 4, "bytes": 5_000, "unknown": 1}],
    "nodes": [
        {"name": "e", "id": "e", "units_before": 0, "units_after": 3, "bytes_before": 0, "bytes_after": 5_000,
         "copies": 4, "bytes": 5_000}
    ],
    "over_quota_before": 1.0,
    "over_quota_after": 1.2,
    "copies": 4,
    "bytes": 5_000,
    "unknown": 1,
    "steps_ready": 0,
    "waits_for": [{"name": "n4", "id": "4", "reason": "dead, and without it too few members live of the ring"}],
    "after_change": True,
    "silent": [{"name": "n3", "id": "3", "error": "no answer"}],
}  # fmt: skip


async def test_the_ring_is_drawn_and_what_a_change_waits_for_is_told_by_name(tmp_path: Path) -> None:
    """A joiner, an issuer that does not answer and a node that tells nothing are named; no control bytes pass."""

    async def ring(_: HttpRequest) -> HttpResponse:
        return HttpResponse.json(SHOWN)

    async def plan(request: HttpRequest) -> HttpResponse:
        wanted = {"node": "e", "weight": 2.0, "zone": "east", "rack": ""}
        assert request.json(dict) == {"add": [wanted], "remove": ["n1"], "replication_factor": 2, "collection": "c"}
        return HttpResponse.json(PLANNED)

    routes = FakeHttp()
    routes.route("GET", "/v1/ring/show", ring, scope="read")
    routes.route("POST", "/v1/ring/plan", plan, scope="read")
    async with command_line(tmp_path, routes, "/v1/ring/show", "/v1/ring/plan") as cli:
        shown = (await cli.run("ring")).out
        assert "\x1b" not in shown
        assert "issuer n1\\x1b[2J\nn1\\x1b[2J does not answer: joins" in shown
        assert "waits for n3: has not adopted 1.2\nqueued: n3\n" in shown
        assert "AAAAAAAAAA" in shown
        assert "n3: no answer within 2 s" in shown
        assert (await cli.run("ring", "show", "--json")).json() == SHOWN
        changes = ("--add", "e:2:east", "--remove", "n1", "--replication-factor", "2", "--collection", "c")
        planned = (await cli.run("ring", "plan", *changes)).out
        assert planned.splitlines()[1].split() == ["add", "e", "3", "4", "4.9", "KiB"]
        assert "1.00 -> 1.20" in planned
        assert "n3 did not tell what it holds" in planned
        assert "\nThe issuer begins none of it as things are:\nwaits for n4: dead, and without it too few" in planned
        assert (await cli.run("ring", "plan", *changes, "--json")).json() == PLANNED
        for wrong in ("e:x", "e:1:a:b:c", ":2"):
            assert (await cli.run("ring", "plan", "--add", wrong)).code == 2


async def test_members_are_listed_with_their_addresses(tmp_path: Path) -> None:
    """Incarnation, phi and round trip have columns of their own; what is unknown is a dash."""
    async with command_line(tmp_path, FakeHttp()) as cli:
        names = ["n1", "n2", "n3"]
        cli.kernel.services.provide(MEMBERS, FixedMembers(Record(names, 8), names, "n1"))
        members = (await cli.run("members")).out.splitlines()
        assert members[0].split()[5:] == ["INCARNATION", "PHI", "RTT_MS", "TAGS"]
        assert members[2].split() == ["node-n2", "alive", "ok", "127.0.0.1:1", "127.0.0.1:2", "1", "-", "-", "-"]
