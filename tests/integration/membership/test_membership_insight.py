"""Asking about members: between components on fake ports, and through HTTP and the command line."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from frys_node.base.errors import NotFound, UsageError
from frys_node.base.types import Address
from frys_node.cli import main as cli
from frys_node.cli import members as members_verb
from frys_node.insight import InsightRoutes
from frys_node.kernel.services.members import MEMBERS, MemberChanged, Status
from frys_node.transport.network import SystemNetwork
from membership.driver_insight import ASK_TIMEOUT_S
from tests.integration.network.http_fixtures import TOKEN, Client, serving


async def test_a_pair_is_asked_for_its_round_trips(cluster: Any, autojump_clock: Any) -> None:
    """Each member tells what it has measured; both directions, by a node that is neither."""
    nodes = await cluster.start_all(4)
    await trio.sleep(15)
    insight = nodes[0].driver.insight
    pair = await insight.rtt("n2", "n3")
    assert [(d.a.name, d.b.name, d.status, d.condition) for d in pair.directions] == [
        ("n2", "n3", "alive", "ok"),
        ("n3", "n2", "alive", "ok"),
    ]
    assert all(d.srtt_s and d.samples and d.error is None for d in pair.directions)
    assert pair.estimate_s == sum(d.srtt_s or 0.0 for d in pair.directions) / 2
    own = await insight.rtt("n2")
    assert [(d.a.name, d.b.name) for d in own.directions] == [("n1", "n2"), ("n2", "n1")]
    assert own.directions[0].srtt_s == nodes[0].driver.get(nodes[1].node).rtt_s
    with pytest.raises(UsageError, match="this node"):
        await insight.rtt("n1")
    with pytest.raises(UsageError, match="the same node"):
        await insight.rtt("n2", "n2")
    with pytest.raises(NotFound):
        await insight.rtt("nobody")


async def test_what_is_not_measured_is_not_made_up(cluster: Any, autojump_clock: Any) -> None:
    """One direction estimates the other; without either there is no figure, and who is silent is named."""
    nodes = await cluster.start_all(3)
    await trio.sleep(15)
    cluster.kill("n3")
    half = await nodes[0].driver.insight.rtt("n3")
    assert [d.srtt_s is None for d in half.directions] == [False, True]
    assert half.estimate_s == half.directions[0].srtt_s
    assert half.directions[1].error is not None
    newcomer = await cluster.start("n4", peers=[cluster.peer("n1")])
    await cluster.until(lambda: len(newcomer.driver.all()) == 4)
    none = await newcomer.driver.insight.rtt("n3")
    assert none.estimate_s is None


async def test_a_whole_cluster_says_so_and_a_broken_one_says_where(cluster: Any, autojump_clock: Any) -> None:
    """Everybody answers; then one is dead, and one is cut off from the asker alone."""
    nodes = await cluster.start_all(5)
    await trio.sleep(5)
    found = await nodes[0].driver.insight.reachability()
    assert found.is_whole
    assert [(row.name, row.error) for row in found.rows] == [(f"n{i}", None) for i in range(1, 6)]
    gone = cluster.kill("n5")
    await cluster.until(lambda: all(node.status(gone.node) is Status.DEAD for node in cluster.nodes.values()))
    cluster.network.partition(["10.0.0.1"], ["10.0.0.4"])
    start_s = trio.current_time()
    found = await nodes[0].driver.insight.reachability()
    assert trio.current_time() - start_s <= ASK_TIMEOUT_S + 0.1
    assert [(p.kind, p.member.name) for p in found.problems] == [("dead", "n5"), ("no_answer", "n4")]
    assert found.problems[1].detail == "no answer within 2 s"


async def test_a_path_that_is_cut_one_way_is_found(cluster: Any, autojump_clock: Any) -> None:
    """Two that only helpers connect: a third one hears of it by rumour and from themselves, and `why` names them."""
    nodes = await cluster.start_all(4)
    await trio.sleep(5)
    cluster.network.partition(["10.0.0.2"], ["10.0.0.3"])
    await cluster.until(lambda: len(nodes[0].driver.insight.why("n3").edges) == 2)
    found = await nodes[0].driver.insight.reachability()
    assert {(p.kind, p.observer and p.observer.name, p.member.name) for p in found.problems} == {
        ("cut", "n2", "n3"),
        ("cut", "n3", "n2"),
    }
    why = nodes[0].driver.insight.why("n3")
    assert ("not reached directly", "n2") in {(turn.what, turn.who and turn.who.name) for turn in why.story}


async def test_why_names_the_accusers_of_a_dead_member(cluster: Any, autojump_clock: Any) -> None:
    """By the driver's wall clock, in order."""
    nodes = await cluster.start_all(4)
    await trio.sleep(5)
    gone = cluster.kill("n4")
    await cluster.until(lambda: all(node.status(gone.node) is Status.DEAD for node in cluster.nodes.values()))
    why = nodes[0].driver.insight.why("n4")
    told = [turn.what for turn in why.story]
    assert told[0] == "met"
    assert "suspected" in told
    assert told[-1] == "dead"
    times = [turn.unix_ns for turn in why.story]
    assert times == sorted(times)
    assert abs(times[-1] - cluster.clock.unix_ns()) < 60e9


# Through HTTP and the command line, in real time.


@asynccontextmanager
async def served(cluster: Any, tmp_path: Path, **options: Any) -> AsyncIterator[tuple[Any, Any, Any]]:
    """Serve the first of three nodes."""
    nodes = await cluster.start_all(3)
    async with serving(tmp_path, **options) as (kernel, http):
        kernel.services.provide(MEMBERS, nodes[0].driver)
        nodes[0].bus.on(MemberChanged, kernel.bus.publish)
        waits = {"units": 7, "first": ["cache/0", "cache/3"], "since_unix_ns": 1_767_225_600_000_000_000}
        InsightRoutes(nodes[0].driver, {nodes[2].node: waits}.get).register(http)
        yield nodes, kernel, http


async def command(*arguments: str) -> int:
    """Run the command line in a thread."""
    return await trio.to_thread.run_sync(cli.main, arguments)


async def test_the_command_line_asks_about_members(
    cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """why, rtt, reachability and force-leave: texts for people, the HTTP body with --json, and their exit codes.

    A member looks alike in all of them and in `members`, its address as ``host:port``.
    """
    monkeypatch.setenv("FRYS_DATA_DIR", str(tmp_path))
    async with served(cluster, tmp_path) as (nodes, _, _):
        await cluster.until(lambda: all(view.rtt_s for view in nodes[0].driver.all()[1:]))
        assert await command("why", "n2") == 0
        out = capsys.readouterr().out
        assert out.startswith("n2 is alive, as n1 sees it\n")
        assert "became known as alive" in out
        assert await command("why", nodes[0].node, "--json") == 0
        assert json.loads(capsys.readouterr().out)["member"]["name"] == "n1"
        assert await command("why", "nobody") == 1
        assert "no member 'nobody'" in capsys.readouterr().err
        assert await command("why", "n22") == 1
        assert "did you mean 'n2'?" in capsys.readouterr().err
        assert await command("rtt", "n2") == 0
        rows = [line.split() for line in capsys.readouterr().out.splitlines()]
        # Below them stands an estimate as long as only one way is measured.
        assert [row[:2] for row in rows[:3]] == [["FROM", "TO"], ["n1", "n2"], ["n2", "n1"]]
        assert await command("rtt", "n2", "n3", "--json") in (0, 1)
        assert len(json.loads(capsys.readouterr().out)["directions"]) == 2
        assert await command("rtt", "n1") == 2
        assert await command("reachability") == 0
        out = capsys.readouterr().out
        assert out.startswith("3 of 3 live members answered n1")
        assert out.endswith("everybody reaches everybody\n")
        assert await command("force-leave", "n3") == 1
        assert "run `frys-node leave` on it" in capsys.readouterr().err
        cluster.kill("n3")
        assert await command("reachability") == 1
        assert "n3 did not answer n1: " in capsys.readouterr().out
        await cluster.until(lambda: nodes[0].status(nodes[2].node) is Status.DEAD)
        assert await command("reachability", "--json") == 1
        body = json.loads(capsys.readouterr().out)
        assert {p["kind"] for p in body["problems"]} >= {"dead"}
        shown = body["members"]
        assert [member["address"] for member in shown] == [f"10.0.0.{number}:7946" for number in (1, 2, 3)]
        for arguments in (("members",), ("why", "n2")):
            assert await command(*arguments, "--json") == 0
            body = json.loads(capsys.readouterr().out)
            shown += body.get("members") or [body["member"]]
        assert await command("why", "n3") == 0
        out = capsys.readouterr().out
        assert "  accused by " in out
        assert "  tombstones of cache/0, cache/3 and 5 more units wait for it since 20" in out
        assert await command("rtt", "n3") == 1
        out = capsys.readouterr().out
        assert "n3 is dead: what is shown was measured before" in out
        assert "estimate" not in out
        assert "ok" not in out.split()
        assert await command("rtt", "n3", "--json") == 1
        body = json.loads(capsys.readouterr().out)
        assert body["estimate_s"] is None
        assert [each["condition"] for each in body["directions"]] == [None, None]
        assert await command("force-leave", "n3") == 0
        assert capsys.readouterr().out == f"n3 ({nodes[2].node}) counts as left\n"
        assert await command("force-leave", "n3", "--json") == 0
        shown.append(json.loads(capsys.readouterr().out)["member"])
        assert shown[-1]["status"] == "left"
        assert {(tuple(member), type(member["address"])) for member in shown} == {(tuple(shown[0]), str)}
    assert await command("why", "n2") == 3


async def test_watching_prints_each_change_once(
    cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Piped: a snapshot at first and one per change, until --for is over; with --json one body a line."""
    monkeypatch.setenv("FRYS_DATA_DIR", str(tmp_path))
    async with served(cluster, tmp_path) as (nodes, _, _), trio.open_nursery() as nursery:

        async def change() -> None:
            await trio.sleep(0.5)
            nodes[0].driver.set_tags({"role": "db"})

        nursery.start_soon(change)
        assert await command("members", "--watch", "--for", "2s", "--json") == 0
        bodies = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        roles = [next(m["tags"].get("role") for m in body["members"] if m["name"] == "n1") for body in bodies]
        assert (roles[0], roles[-1], len(bodies)) == (None, "db", 2)
        assert await command("members", "--watch", "--for", "0.5s") == 0
        shown = capsys.readouterr().out
        assert shown.count("NAME  STATUS") == 1
        assert "\x1b" not in shown
        assert await command("members", "--watch", "--for", "soon") == 2


async def test_watching_on_a_terminal_draws_in_place(
    cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look starts at the terminal's upper left corner and clears what the last one left below."""
    monkeypatch.setenv("FRYS_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("LINES", "5")
    monkeypatch.setattr(members_verb, "REDRAW_S", 0.2)
    async with served(cluster, tmp_path):
        monkeypatch.setattr(members_verb.sys.stdout, "isatty", lambda: True)
        assert await command("members", "--watch", "--for", "0.5s") == 0
    looks = capsys.readouterr().out.split(members_verb.HOME)[2:]
    assert len(looks) >= 2
    for look in looks:
        lines = [line.removesuffix(members_verb.CLEAR_LINE) for line in look.split("\n")]
        assert lines[1].startswith("NAME  STATUS")
        assert lines[3:] == ["Ctrl-C ends; 2 more members do not fit…", members_verb.CLEAR_BELOW]
        assert max(map(len, lines)) <= 40


async def test_off_loopback_asking_needs_the_token(cluster: Any, tmp_path: Path) -> None:
    """Reading too; forcing somebody out needs it everywhere."""
    async with served(cluster, tmp_path, token=True, http="0.0.0.0:0") as (_, _, http):
        stream = await SystemNetwork().connect(Address("127.0.0.1", int(http.address.rpartition(":")[2])))
        c = Client(stream)
        for method, path in (
            ("GET", "/v1/members/n1/why"),
            ("POST", "/v1/members/n1/force-leave"),
            ("GET", "/v1/rtt?a=n2"),
            ("GET", "/v1/reachability"),
        ):
            assert (await c.get(path, method=method)).status == 401
        answer = await c.get("/v1/rtt", f"Authorization: Bearer {TOKEN}")
        assert answer.status == 400
        answer = await c.get("/v1/members/n2/force-leave", f"Authorization: Bearer {TOKEN}", method="POST")
        assert (answer.status, answer.json()["error"]["code"]) == (409, "membership.member_alive")
        await stream.aclose()
