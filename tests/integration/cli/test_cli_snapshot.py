"""`frys-node snapshot` against the node's own routes, in a process of its own."""

from __future__ import annotations

import random
from pathlib import Path

from frys_node.base.types import NodeId, UnitId
from frys_node.saves import SnapshotRoutes
from frys_node.testing.saved import open_saved_cluster
from frys_node.testing.services import FakeHttp
from tests.integration.cli.cli_rig import command_line


async def test_a_snapshot_lives_from_the_command_line(tmp_path: Path) -> None:
    """Saved, saved again for nothing, listed, checked, damaged, restored, pruned: texts, bodies and exit codes."""
    held = {UnitId("t/1"): b"small", UnitId("t/2"): random.Random(1).randbytes(90_000)}
    async with open_saved_cluster({"a": dict(held)}, replacing=["t"]) as cluster:
        node, http = cluster["a"], FakeHttp()
        SnapshotRoutes(node.reception.desk).register(http)
        async with command_line(tmp_path, http, "/v1/snapshots") as cli:
            empty = await cli.run("snapshot", "list")
            assert (empty.code, empty.out) == (0, "there are no snapshots\n")
            first = await cli.run("snapshot", "create", "one")
            assert (first.code, first.out.splitlines()[0]) == (0, "saved one: 2 units, 87.9 KiB"), first
            again = await cli.run("snapshot", "create", "two")
            assert "written 0 B, reused 88.1 KiB of earlier snapshots" in again.out
            taken = await cli.run("snapshot", "create", "two")
            assert (taken.code, "choose another name or delete it" in taken.err) == (1, True)
            listed = await cli.run("snapshot", "list")
            assert [line.split()[0] for line in listed.out.splitlines()] == ["NAME", "two", "one"]
            body = (await cli.run("snapshot", "list", "--json")).json()
            assert [one["name"] for one in body["snapshots"]] == ["two", "one"]
            whole = await cli.run("snapshot", "verify", "one")
            assert (whole.code, whole.out) == (0, "one is whole: 2 units, 2 chunks, 87.9 KiB\n")

            node.units["t"].held[UnitId("t/2")] = b""
            part = await cli.run("snapshot", "restore", "one", "--unit", "t/2")
            assert part.out == "restored one: 1 items into 1 units, 87.9 KiB read\n"
            assert node.units["t"].held == held

            (chunk,) = node.disk.list("snapshots/saved/_chunks")
            node.disk.flip_bit(f"snapshots/saved/_chunks/{chunk}", 100)
            damaged = await cli.run("snapshot", "verify", "two")
            assert (damaged.code, f"t/2: chunk {chunk[:16]}" in damaged.out) == (1, True)
            pruned = await cli.run("snapshot", "prune", "--keep", "1", "--older-than", "0.001")
            assert pruned.out.startswith("deleted one; 1 kept; 0 chunks, 0 B freed")
            deleted = await cli.run("snapshot", "delete", "two", "--json")
            assert (deleted.json()["deleted"], deleted.json()["chunks"]) == (["two"], 1)
            assert node.disk.list("snapshots/saved/_chunks") == []


async def test_runs_are_replaced_only_when_that_is_asked_for_and_confirmed(tmp_path: Path) -> None:
    """What has all that was saved stands; other runs are refused, then wanted typed; damage replaces nothing."""
    held = {UnitId("t/1"): b"small", UnitId("t/2"): random.Random(1).randbytes(90_000)}
    async with open_saved_cluster({"a": dict(held)}, replacing=["t"]) as cluster:
        node, http = cluster["a"], FakeHttp()
        SnapshotRoutes(node.reception.desk).register(http)
        await node.desk.create("one")
        async with command_line(tmp_path, http, "/v1/snapshots") as cli:
            stands = await cli.run("snapshot", "restore", "one")
            assert stands.out.splitlines() == [
                "restored one: 0 items into 0 units, 87.9 KiB read",
                "2 workflow partitions have all of their saved runs already: they stand as they are",
            ]
            node.units["t"].held[UnitId("t/1")] = b"other"
            refused = await cli.run("snapshot", "restore", "one")
            assert (refused.code, "accept that with --replace" in refused.err) == (1, True)
            asked = await cli.run("snapshot", "restore", "one", "--replace")
            assert (asked.code, "gives up runs" in asked.err, "add --yes" in asked.err) == (2, True, True)
            (chunk,) = node.disk.list("snapshots/saved/_chunks")
            node.disk.flip_bit(f"snapshots/saved/_chunks/{chunk}", 100)
            damaged = await cli.run("snapshot", "restore", "one", "--replace", "--yes")
            assert (damaged.code, "nothing was restored" in damaged.err) == (1, True)
            assert node.units["t"].held[UnitId("t/1")] == b"other"
            node.disk.flip_bit(f"snapshots/saved/_chunks/{chunk}", 100)
            assert (await cli.run("snapshot", "restore", "one", "--replace", "--yes")).code == 0
            assert node.units["t"].held == held


async def test_places_are_named_as_the_node_understands_them(tmp_path: Path) -> None:
    """A relative path is the command's, an unknown scheme is refused, and no credential is taken as an option."""
    async with open_saved_cluster({"a": {UnitId("t/1"): b"x"}}) as cluster:
        http = FakeHttp()
        SnapshotRoutes(cluster["a"].reception.desk).register(http)
        async with command_line(tmp_path, http, "/v1/snapshots") as cli:
            assert (await cli.run("snapshot", "create", "one", "--store", "backup")).code == 0
            assert list(cluster["a"].disk.list("_snapshots")) == ["one.json"]
            wrong = await cli.run("snapshot", "list", "--store", "ftp://x")
            assert (wrong.code, "write s3://bucket/prefix or a directory" in wrong.err) == (2, True)
            bucket = await cli.run("snapshot", "list", "--store", "s3://bucket/prefix")
            assert (bucket.code, "set AWS_ACCESS_KEY_ID" in bucket.err) == (2, True), bucket
            help_text = (await cli.run("snapshot", "create", "--help")).out
            assert "secret" not in help_text.lower()


async def test_a_prune_that_leaves_nothing_has_to_be_confirmed(tmp_path: Path) -> None:
    """Whatever the rule is; one that keeps something needs no word, and a dry run only tells."""
    async with open_saved_cluster({"a": {UnitId("t/1"): b"x"}}) as cluster:
        desk, http = cluster["a"].desk, FakeHttp()
        SnapshotRoutes(cluster["a"].reception.desk).register(http)
        async with command_line(tmp_path, http, "/v1/snapshots") as cli:
            for name in ("one", "two", "three"):
                await desk.create(name)
            for rule in (("--keep", "0"), ("--older-than", "0.000001ms")):
                refused = await cli.run("snapshot", "prune", *rule)
                assert (refused.code, "add --yes" in refused.err) == (2, True), refused
                assert "deletes every snapshot in the node's own place: " in refused.err
            told = await cli.run("snapshot", "prune", "--keep", "0", "--dry-run")
            assert (told.code, "; 0 kept. Nothing was changed." in told.out) == (0, True)
            assert len((await desk.list())[0]) == 3
            planned = (await cli.run("snapshot", "prune", "--keep", "1", "--dry-run", "--json")).json()
            assert (len(planned["deleted"]), planned["kept"]) == (2, 1)
            some = await cli.run("snapshot", "prune", "--keep", "1")
            assert (some.code, "; 1 kept; " in some.out) == (0, True)
            everything = await cli.run("snapshot", "prune", "--keep", "0", "--yes")
            assert (everything.code, "; 0 kept; " in everything.out) == (0, True)
            nothing = await cli.run("snapshot", "prune", "--keep", "0")
            assert (nothing.code, nothing.out) == (0, "deleted no snapshot; 0 kept; 0 chunks, 0 B freed\n")


async def test_what_was_not_restored_is_told_with_its_reason_and_an_exit_code(tmp_path: Path) -> None:
    """Partitions of one dead owner are one line, the fix another; the body has each, and what was restored."""
    owners = {UnitId(f"workflow/{number}"): "ab"[number % 2] for number in range(16)}
    held: dict[str, dict[UnitId, bytes]] = {"a": {}, "b": {}}
    for unit, owner in owners.items():
        held[owner][unit] = b"runs"
    async with open_saved_cluster(held, kinds=("workflow",), partitions=16, replacing=["workflow"]) as cluster:
        cluster.ring.members = {unit: (NodeId(owner),) for unit, owner in owners.items()}
        http = FakeHttp()
        SnapshotRoutes(cluster["a"].reception.desk).register(http)
        await cluster["a"].desk.create("mon", place="/shared", is_cluster=True)
        for node in cluster.nodes.values():
            node.units["workflow"].held = dict.fromkeys(node.units["workflow"].held, b"")
        cluster.network.stop("b")
        async with command_line(tmp_path, http, "/v1/snapshots") as cli:
            done = await cli.run("snapshot", "restore", "mon", "--store", "/shared", "--kind", "workflow")
            head, failed, fix = done.out.splitlines()
            assert (done.code, head) == (1, "restored mon: 8 items into 8 units, 64 B read")
            first = "failed: workflow/1, workflow/11, workflow/13, workflow/15, workflow/3 and 3 more: its owner B does"
            assert failed.startswith(first)
            assert fix.startswith("8 units are not restored: bring their nodes back, or ")
            again = await cli.run("snapshot", "restore", "mon", "--store", "/shared", "--json")
            body = again.json()
            assert (again.code, len(body["failed"]), len(body["standing"]), body["restored"]) == (1, 8, 8, [])
            wrong = await cli.run("snapshot", "restore", "mon", "--kind", "vectors")
            assert (wrong.code, "invalid choice: 'vectors'" in wrong.err) == (2, True)
