"""`frys-node ring` against the node's own routes over a topology of two nodes."""

from __future__ import annotations

from pathlib import Path

from frys_node.base.units import cache_unit_of, partition_of, workflow_unit
from frys_node.kernel.services.topology import TOPOLOGY
from frys_node.testing.services import FakeHttp, ServiceCluster
from tests.integration.cli.cli_rig import command_line


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
