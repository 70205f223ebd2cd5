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
        assert (await cli.run("ring", "owner", "--unit", "workflow/999")).code == 2
        assert (await cli.run("ring", "owner")).code == 2
        assert (await cli.run("ring", "owner", "key", "--run", "r")).code == 2


async def test_what_a_change_waits_for_is_told_by_name(tmp_path: Path) -> None:
    """A joiner, which is no member of the ring yet, and an issuer that does not answer are named."""
    topology = {
        "issuer": "n1",
        "issuer_answers": False,
        "waits_for": ["n3: has not adopted 1.2"],
        "queued": ["n3"],
    }

    async def answer(_: HttpRequest) -> HttpResponse:
        return HttpResponse.json(topology)

    routes = FakeHttp()
    routes.route("GET", "/v1/topology", answer, scope="read")
    async with command_line(tmp_path, routes, "/v1/topology") as cli:
        cluster = ServiceCluster(["n1", "n2"])
        cli.kernel.services.provide(TOPOLOGY, cluster.topology[cluster.nodes[0]])
        names = ["n1", "n2", "n3"]
        cli.kernel.services.provide(MEMBERS, FixedMembers(Record(names, 8), names, "n1"))
        shown = (await cli.run("ring")).out
        assert "issuer node-n1\nnode-n1 does not answer: joins" in shown
        assert "waits for node-n3: has not adopted 1.2\nqueued: node-n3\n" in shown
        members = (await cli.run("members")).out.splitlines()
        assert members[0].split()[5:] == ["INCARNATION", "PHI", "RTT_MS", "TAGS"]
        assert members[2].split() == ["node-n2", "alive", "ok", "127.0.0.1:1", "127.0.0.1:2", "1", "-", "-", "-"]
