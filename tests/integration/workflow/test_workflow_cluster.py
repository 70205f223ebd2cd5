"""Runs of a cluster, through the routes: any node, one owner, moves, a node that is down."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import trio

from frys_node.base.errors import AlreadyExists, ConfigError, NotReady
from frys_node.base.types import NodeId, UnitId
from frys_node.base.units import partition_of, workflow_unit
from frys_node.kernel.services.snapshots import SavedState
from frys_node.plugins.workflow.loading import load_workflows
from frys_node.storage.exchange import decode_partition
from snapshots.routing import Routing
from snapshots.taking import once
from tests.integration.workflow.workflow_rig import Rig, open_rig


def body(name: str, value: object = None, **fields: object) -> dict[str, object]:
    """A start request."""
    return {"workflow": {"name": name}, "input": value, **fields}


@pytest.mark.parametrize(
    "wrong",
    [b"", b"{", b'{"workflow": "\xff"}', b'{"workflow": 1}', b'{"workflow": "a", "input": ' + b"[" * 5_000],
    ids=["empty", "cut", "not-utf8", "type", "deep"],
)
async def test_a_body_that_cannot_be_read_is_the_clients_mistake(tmp_path, wrong):
    """Whatever is wrong with a body, the answer is 400 with its reason; nothing is started."""
    async with open_rig(tmp_path, nodes=("n1",)) as rig:
        refused = await rig.nodes["n1"].call("POST", "/v1/runs", wrong, expect=400)
        assert refused["error"]["code"] == "request.invalid"
        assert "body" in refused["error"]["message"]
        assert (await rig.nodes["n1"].call("GET", "/v1/runs"))["runs"] == []


async def until(node, run: str, status: str) -> dict:
    """Poll a run until it has a status."""
    with trio.fail_after(10):
        while True:
            view = await node.call("GET", f"/v1/runs/{run}")
            if view["status"] == status:
                return view
            await trio.sleep(0.01)


async def test_a_run_started_anywhere_is_seen_everywhere(tmp_path):
    """The owner runs it; every node shows the same; the shape is the documented one."""
    async with open_rig(tmp_path) as rig:
        for owner in rig.nodes:
            run = rig.run_on(owner)
            entry = rig.nodes["n2"]
            with trio.fail_after(10):
                view = await entry.call("POST", "/v1/runs", body("doubling", 4, id=run, wait=True), expect=201)
            assert view["output"] == 8
            assert view["workflow"] == {"namespace": "default", "name": "doubling", "version": "10"}
            assert (view["id"], view["status"], view["input"], view["error"]) == (run, "completed", 4, None)
            assert (view["owner"], view["epoch"]) == (f"node-{owner}", "1.1")
            [task] = view["tasks"]
            assert (task["name"], task["reference"], task["status"], task["attempts"]) == (
                "double",
                ":1",
                "completed",
                1,
            )
            for node in rig.nodes.values():
                assert await node.call("GET", f"/v1/runs/{run}") == view


async def test_lists_name_every_run_and_every_node_that_did_not_answer(tmp_path):
    """Scatter-gather with filters; a dead node's runs are missing and it is named."""
    async with open_rig(tmp_path) as rig:
        for owner in rig.nodes:
            await rig.nodes["n1"].call("POST", "/v1/runs", body("doubling", 1, id=rig.run_on(owner), wait=True))
        await rig.nodes["n1"].call("POST", "/v1/runs", body("sleeping", 1000, id=rig.run_on("n1", lambda n: n > 50)))
        listed = await rig.nodes["n3"].call("GET", "/v1/runs")
        assert len(listed["runs"]) == 4
        assert listed["missing"] == []
        assert len((await rig.nodes["n2"].call("GET", "/v1/runs?workflow=sleeping"))["runs"]) == 1
        assert len((await rig.nodes["n2"].call("GET", "/v1/runs?status=completed&limit=2"))["runs"]) == 2
        await rig.nodes["n2"].down()
        listed = await rig.nodes["n3"].call("GET", "/v1/runs")
        assert len(listed["runs"]) == 3
        assert listed["missing"] == ["node-n2"]


@pytest.mark.parametrize("entry", ["n1", "n2"])
async def test_a_stop_answers_whoever_waits_for_a_run(tmp_path, entry):
    """A node that stops does not keep a waiter until it is cut: the run is shown as it is, here and through others."""
    async with open_rig(tmp_path) as rig:
        run = rig.run_on("n2")
        node = rig.nodes[entry]
        await node.call("POST", "/v1/runs", body("approval", {"log": str(tmp_path / "log")}, id=run))
        await until(node, run, "waiting")
        shown: list[str] = []

        async def wait() -> None:
            shown.append((await node.call("GET", f"/v1/runs/{run}?wait=true", expect=200))["status"])

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                await trio.testing.wait_all_tasks_blocked(0.05)
                assert not shown
                await rig.nodes["n2"].plugin.on_unload()
        assert shown == ["waiting"]


async def test_a_node_that_is_down_keeps_its_runs_and_resumes_them(tmp_path):
    """Others answer clearly and go on; back up, the run continues without repeating a committed step."""
    log = tmp_path / "log"
    async with open_rig(tmp_path) as rig:
        run = rig.run_on("n2")
        entry = rig.nodes["n1"]
        await entry.call("POST", "/v1/runs", body("approval", {"log": str(log)}, id=run))
        await until(entry, run, "waiting")
        await rig.nodes["n2"].down()
        error = (await entry.call("GET", f"/v1/runs/{run}", expect=503))["error"]
        assert error["code"] == "routing.no_owner"
        assert "node-n2" in error["message"]
        other = await entry.call("POST", "/v1/runs", body("doubling", 1, id=rig.run_on("n3"), wait=True))
        assert other["status"] == "completed"
        await rig.nodes["n2"].up()
        assert (await entry.call("GET", f"/v1/runs/{run}"))["status"] == "waiting"
        await entry.call("POST", f"/v1/runs/{run}/signals/approved", {"value": "yes", "id": "s1"})
        await entry.call("POST", f"/v1/runs/{run}/signals/approved", {"value": "again", "id": "s1"}, expect=None)
        assert (await until(entry, run, "completed"))["output"] == "yes"
        assert log.read_text().splitlines() == [f"{run} first", f"{run} second"]


async def test_a_run_without_an_id_begins_on_a_node_that_answers(tmp_path):
    """An id that was made up must not fall on a node that is down; with an id of its own the client is told."""
    async with open_rig(tmp_path) as rig:
        entry = rig.nodes["n1"]
        await rig.nodes["n2"].down()
        for number in range(20):
            assert (await entry.call("POST", "/v1/runs", body("doubling", number, wait=True)))["status"] == "completed"
        error = (await entry.call("POST", "/v1/runs", body("doubling", 1, id=rig.run_on("n2")), expect=503))["error"]
        assert error["code"] == "routing.no_owner"
        assert "was not begun: its partition is on node-n2" in error["message"]


async def test_starting_the_same_run_again_attaches_and_another_one_is_refused(tmp_path):
    """Idempotent by id, workflow and input."""
    async with open_rig(tmp_path) as rig:
        node = rig.nodes["n1"]
        for _ in range(3):
            assert (await node.call("POST", "/v1/runs", body("doubling", 3, id="same", wait=True)))["output"] == 6
        refused = await node.call("POST", "/v1/runs", body("doubling", 4, id="same"), expect=409)
        assert refused["error"]["code"] == "workflow.run_exists"
        results = []

        async def start() -> None:
            results.append(await node.call("POST", "/v1/runs", body("doubling", 5, id="race", wait=True)))

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(start)
        assert [view["output"] for view in results] == [10] * 5


async def test_bad_requests_are_refused_by_name(tmp_path):
    """Each with its code; nothing is started."""
    async with open_rig(tmp_path, nodes=["n1"]) as rig:
        node = rig.nodes["n1"]
        for request, status, code in (
            (body("nothing"), 404, "workflow.unknown"),
            ({"workflow": {"name": "doubling", "version": "7"}}, 404, "workflow.unknown"),
            (body("doubling", "text"), 400, "workflow.not_journalable"),
            (body("doubling", 1, id="no spaces"), 400, "request.invalid"),
            ({"input": 1}, 400, "request.invalid"),
            (body("doubling", 1, extra=1), 400, "request.invalid"),
            (b"{", 400, "request.invalid"),
            (body("doubling", "x" * 900_000), 400, "workflow.not_journalable"),
        ):
            answer = await node.call("POST", "/v1/runs", request, expect=status)
            assert answer["error"]["code"] == code
        for target in ("/v1/runs?status=odd", "/v1/runs?limit=0", "/v1/runs?limit=x"):
            await node.call("GET", target, expect=400)
        assert (await node.call("GET", "/v1/runs/unknown", expect=404))["error"]["code"] == "workflow.unknown_run"
        assert (await node.call("GET", "/v1/runs"))["runs"] == []
        names = [(w["name"], w["version"]) for w in (await node.call("GET", "/v1/workflows"))["workflows"]]
        assert names[2:4] == [("doubling", "1"), ("doubling", "10")]


async def test_failures_and_cancellation_are_shown(tmp_path):
    """A caught failure, a faulted run with its error, a cancelled run; cancelling twice changes nothing."""
    async with open_rig(tmp_path, nodes=["n1"]) as rig:
        node = rig.nodes["n1"]
        assert (await node.call("POST", "/v1/runs", body("failing", 1, wait=True)))["output"] == ["ValueError", 2]
        faulted = await node.call("POST", "/v1/runs", body("faulting", 1, wait=True))
        assert faulted["status"] == "faulted"
        assert faulted["error"]["type"] == "ValueError"
        assert "no 1" in faulted["error"]["message"]
        assert faulted["tasks"][0]["status"] == "faulted"
        await node.call("POST", "/v1/runs", body("sleeping", 1000, id="c"))
        await node.call("POST", "/v1/runs/c/cancel")
        assert (await node.call("GET", "/v1/runs/c?wait=true"))["status"] == "cancelled"
        assert (await node.call("POST", "/v1/runs/c/cancel"))["status"] == "cancelled"
        refused = await node.call("POST", "/v1/runs/c/signals/x", expect=409)
        assert refused["error"]["code"] == "workflow.run_ended"


async def test_large_results_are_served_alone_left_out_of_lists_and_bounded(tmp_path):
    """Half a megabyte travels between nodes; a whole one faults the run with a hint."""
    async with open_rig(tmp_path, nodes=["n1", "n2"]) as rig:
        node, run = rig.nodes["n1"], rig.run_on("n2")
        for n in range(4):
            await node.call("POST", "/v1/runs", body("bulky", 400_000, id=f"{run}-{n}", wait=True))
        view = await node.call("POST", "/v1/runs", body("bulky", 500_000, id=run, wait=True))
        assert len(view["output"]) == 500_000
        listed = await node.call("GET", "/v1/runs")
        assert len(listed["runs"]) == 5
        assert listed["missing"] == []
        assert all(run["output"] is None and run["truncated"] for run in listed["runs"])
        view = await node.call("POST", "/v1/runs", body("bulky", 1_000_000, wait=True))
        assert view["status"] == "faulted"
        assert "over the limit" in view["error"]["message"]


async def test_a_thread_step_knows_its_node_and_its_key(tmp_path):
    """`current_step` works in plain def steps: the way to the node's own HTTP."""
    async with open_rig(tmp_path, nodes=["n1"]) as rig:
        view = await rig.nodes["n1"].call("POST", "/v1/runs", body("locating", id="l", wait=True))
        assert view["output"] == ["127.0.0.1:1", "l/:1", "True"]


async def move(rig: Rig, number: int, source: str, target: str) -> None:
    """What the balancer does: seal, pull, start, drop."""
    unit = UnitId(f"workflow/{number}")
    old, new = rig.nodes[source], rig.nodes[target]
    with pytest.raises(NotReady):
        await new.mover.pull(unit, NodeId(source))
    await old.mover.seal(unit)
    await new.mover.pull(unit, NodeId(source))
    rig.record.owners[number] = NodeId(target)
    rig.record.seq += 1
    await new.mover.start(unit)
    await old.mover.drop(unit)


async def test_a_partition_moves_with_its_runs_in_the_middle_of_them(tmp_path):
    """Waiting runs continue on the new owner, committed steps are not repeated, ended runs come along."""
    log = tmp_path / "log"
    async with open_rig(tmp_path) as rig:
        run = rig.run_on("n1")
        number = partition_of(run, rig.record.partitions)
        ended = rig.run_on("n1", lambda n: partition_of(f"run-{n}", 8) == number and f"run-{n}" != run)
        entry = rig.nodes["n3"]
        await entry.call("POST", "/v1/runs", body("doubling", 2, id=ended, wait=True))
        await entry.call("POST", "/v1/runs", body("approval", {"log": str(log)}, id=run))
        await until(entry, run, "waiting")
        await move(rig, number, "n1", "n2")
        view = await entry.call("GET", f"/v1/runs/{run}")
        assert (view["status"], view["owner"], view["epoch"]) == ("waiting", "node-n2", "1.2")
        assert (await entry.call("GET", f"/v1/runs/{ended}"))["output"] == 4
        await entry.call("POST", f"/v1/runs/{run}/signals/approved", {"value": 1})
        assert (await until(entry, run, "completed"))["output"] == 1
        assert log.read_text().splitlines() == [f"{run} first", f"{run} second"]
        assert len((await entry.call("GET", "/v1/runs"))["runs"]) == 2


async def test_a_sealed_partition_refuses_and_goes_on_after_an_abort(tmp_path):
    """Starts and signals get a retryable error; an abort unseals and everything continues."""
    log = tmp_path / "log"
    async with open_rig(tmp_path) as rig:
        run = rig.run_on("n1")
        unit = UnitId(f"workflow/{partition_of(run, rig.record.partitions)}")
        entry = rig.nodes["n2"]
        await entry.call("POST", "/v1/runs", body("approval", {"log": str(log)}, id=run))
        await until(entry, run, "waiting")
        await rig.nodes["n1"].mover.seal(unit)
        await rig.nodes["n1"].mover.seal(unit)
        refused = await entry.call("POST", f"/v1/runs/{run}/signals/approved", {"value": 1}, expect=503)
        assert refused["error"]["code"] == "workflow.sealed"
        assert (await entry.call("GET", f"/v1/runs/{run}"))["status"] == "waiting"
        await rig.nodes["n1"].mover.unseal(unit)
        await entry.call("POST", f"/v1/runs/{run}/signals/approved", {"value": 1})
        await until(entry, run, "completed")


async def test_a_stale_router_is_redirected_once(tmp_path):
    """A node with an old record asks the wrong one, learns, and asks again; it never wanders."""
    async with open_rig(tmp_path) as rig:
        run = rig.run_on("n1")
        number = partition_of(run, rig.record.partitions)
        asking = rig.nodes["n3"]
        asking.topology.stale[number] = NodeId("n2")

        async def adopt() -> None:
            await trio.sleep(0.02)
            asking.topology.stale.clear()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(adopt)
            view = await asking.call("POST", "/v1/runs", body("doubling", 1, id=run, wait=True))
        assert view["owner"] == "node-n1"
        asking.topology.stale[number] = NodeId("n2")
        refused = await asking.call("GET", f"/v1/runs/{run}", expect=421)
        assert refused["error"]["code"] == "routing.not_owner"


async def test_an_unloaded_plugin_can_be_loaded_again(tmp_path):
    """Routes and methods go with it, and its runs go on after it is back."""
    async with open_rig(tmp_path, nodes=["n1"]) as rig:
        node = rig.nodes["n1"]
        node.drains = True
        await node.call("POST", "/v1/runs", body("sleeping", 0.2, id="s"))
        routes = node.http
        await node.down()
        assert (await routes.request("GET", "/v1/runs")).status == 404
        await node.up()
        assert (await node.call("GET", "/v1/runs/s?wait=true"))["output"] == "awake"


def test_files_that_define_nothing_or_break_are_refused(tmp_path):
    """With the file's name and the reason."""
    for text, says in (
        ("x = 1", "defines no workflow"),
        ("raise KeyError('gone')", "KeyError"),
        ("import nowhere_at_all", "nowhere_at_all"),
        (
            (
                "from frys_node import workflow\nimport time\n"
                "@workflow(name='w')\nasync def w(ctx, v):\n    return time.time()\n"
            ),
            r"line 5 uses time.time",
        ),
        (
            (
                "from frys_node import workflow\n@workflow(name='w')\nasync def a(ctx, v): pass\n"
                "@workflow(name='w')\nasync def b(ctx, v): pass\n"
            ),
            "defined twice",
        ),
    ):
        path = tmp_path / f"flow{len(text)}.py"
        path.write_text(text)
        with pytest.raises(ConfigError, match=says):
            load_workflows((), (str(path),))
    with pytest.raises(ConfigError, match="does not exist"):
        load_workflows((), (str(Path("/nowhere.py")),))
    with pytest.raises(ConfigError, match="no_such_module"):
        load_workflows(("no_such_module",), ())


async def test_a_request_waits_for_a_partition_that_the_record_has_just_given_to_this_node(tmp_path):
    """Between the record's adoption and the partition's start a request is held, not refused."""
    async with open_rig(tmp_path) as rig, trio.open_nursery() as nursery:
        run = rig.run_on("n1")
        number = partition_of(run, rig.record.partitions)
        rig.record.owners[number] = NodeId("n2")
        views = []

        async def start() -> None:
            views.append(await rig.nodes["n3"].call("POST", "/v1/runs", body("doubling", 21, id=run, wait=True)))

        with trio.fail_after(10):
            nursery.start_soon(start)
            await trio.sleep(0.05)
            assert views == []
            await rig.nodes["n2"].mover.start(UnitId(f"workflow/{number}"))
            while not views:  # noqa: ASYNC110 (the call ends in another task)
                await trio.sleep(0.01)
        assert views[0]["output"] == 42


async def test_a_saved_partition_is_restored_while_the_node_runs(tmp_path):
    """What was captured comes back, what came after it is gone, and the partition is served again at once."""
    async with open_rig(tmp_path) as rig:
        run = rig.run_on("n1")
        number = partition_of(run, rig.record.partitions)
        later = rig.run_on("n1", lambda n: partition_of(f"run-{n}", 8) == number and f"run-{n}" != run)
        node, unit = rig.nodes["n1"], UnitId(f"workflow/{number}")
        with trio.fail_after(10):
            await node.call("POST", "/v1/runs", body("doubling", 4, id=run, wait=True))
            source = node.snapshots.sources["workflow"]
            saved = [part async for part in (await source.capture(unit)).parts()]
            await node.call("POST", "/v1/runs", body("doubling", 5, id=later, wait=True))

            async def parts():
                for part in saved:
                    yield part

            await source.restore(unit, parts())
            assert (await node.call("GET", f"/v1/runs/{run}"))["output"] == 8
            await node.call("GET", f"/v1/runs/{later}", expect=404)
            again = await node.call("POST", "/v1/runs", body("doubling", 6, id=later, wait=True))
        assert again["output"] == 12


async def test_saved_runs_go_to_the_partitions_of_another_cluster(tmp_path):
    """Every run is in the partition that its id has there, with its whole journal; empty partitions say nothing."""
    async with open_rig(tmp_path) as rig:
        node, partitions = rig.nodes["n1"], rig.record.partitions
        source = node.snapshots.sources["workflow"]
        named = {f"run-{number}": partition_of(f"run-{number}", partitions) for number in range(60)}
        runs = [run for run, number in named.items() if rig.record.owners[number] == "n1"]
        with trio.fail_after(20):
            for run in runs:
                await node.call("POST", "/v1/runs", body("doubling", 4, id=run, wait=True))

            async def states():
                for unit in source.units():
                    async with contextlib.aclosing((await source.capture(unit)).parts()) as parts:
                        yield SavedState(unit, parts)

            found = {}
            for size in (3, 2 * partitions + 1, partitions):
                routing = Routing(saved_partitions=partitions, partitions=size, collections={}, saved_shards={})
                async with (
                    contextlib.aclosing(states()) as saved,
                    contextlib.aclosing(source.regroup(saved, routing)) as pieces,
                ):
                    found = {piece.unit: piece async for piece in pieces}
                seen = []
                for unit, piece in found.items():
                    content = decode_partition(int(unit.split("/")[1]), [piece.data])
                    assert piece.items == len(content.runs)
                    for row, chunks in content.runs:
                        assert unit == workflow_unit(partition_of(row.id, size))
                        assert sum(chunk.count for chunk in chunks) == row.seq > 0
                        seen.append(row.id)
                assert sorted(seen) == sorted(runs)
            assert [await source.has_data(unit) for unit in found] == [bool(piece.items) for piece in found.values()]


async def test_a_saved_partition_is_not_installed_over_runs_that_it_lacks(tmp_path):
    """A partition knows its runs by id; one that got a run is refused unless it may be replaced, and goes on."""
    async with open_rig(tmp_path) as rig:
        node, partitions = rig.nodes["n1"], rig.record.partitions
        source = node.snapshots.sources["workflow"]
        number = next(number for number, owner in rig.record.owners.items() if owner == "n1")
        ids = [run for run in (f"run-{count}" for count in range(900)) if partition_of(run, partitions) == number]
        unit, (first, second) = workflow_unit(number), ids[:2]
        with trio.fail_after(20):

            async def dump():
                async with contextlib.aclosing((await source.capture(unit)).parts()) as parts:
                    return [bytes(part) async for part in parts]

            empty = await dump()
            assert not await source.has_keys(unit, [first.encode()])
            await node.call("POST", "/v1/runs", body("doubling", 4, id=first, wait=True))
            assert await source.has_keys(unit, [first.encode()])
            assert not await source.has_keys(unit, [first.encode(), second.encode()])
            saved = await dump()
            with pytest.raises(AlreadyExists, match="got runs meanwhile"):
                await source.restore(unit, once(empty), only_empty=True)
            assert await dump() == saved
            await node.call("POST", "/v1/runs", body("doubling", 5, id=second, wait=True))
            await source.restore(unit, once(empty))
            assert not await source.has_data(unit)
            await source.restore(unit, once(saved), only_empty=True)
            assert await dump() == saved
            assert (await node.call("GET", f"/v1/runs/{first}"))["output"] == 8
