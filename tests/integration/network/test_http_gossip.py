"""Events, queries and state over HTTP, and what the command line makes of them."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
from http_fixtures import TOKEN, Answer, Client, client, serving

from frys_node.base.types import Address, NodeId
from frys_node.cli import main as cli
from frys_node.kernel.bus import Bus
from frys_node.kernel.kernel import Kernel
from frys_node.kernel.services.gossip import GOSSIP, Question
from frys_node.kernel.services.members import MEMBERS, Condition, MemberChanged, MemberView, Status
from frys_node.testing.gossip import FakeGossip
from frys_node.transport.network import SystemNetwork

A, B = NodeId("a" * 32), NodeId("b" * 32)


def view(node: NodeId, name: str) -> MemberView:
    """Make a member."""
    return MemberView(
        name=name,
        id=node,
        address=Address("127.0.0.1", 7946),
        status=Status.ALIVE,
        condition=Condition.OK,
        incarnation=0,
        boot=1,
        tags={},
    )


class TwoMembers:
    """A member table of two."""

    self_id = A

    def all(self) -> Sequence[MemberView]:
        """Both."""
        return [view(A, "node-a"), view(B, "node-b")]

    def get(self, node: NodeId) -> MemberView | None:
        """One."""
        return next((member for member in self.all() if member.id == node), None)

    def is_usable(self, node: NodeId) -> bool:
        """Both are."""
        return True


def provide(kernel: Kernel) -> tuple[FakeGossip, FakeGossip]:
    """Give a node its members: itself and another, which has a tag."""
    members: list[FakeGossip] = []
    here = FakeGossip(A, kernel.bus, members, name="node-a")
    there = FakeGossip(B, Bus(), members, name="node-b", tags={"zone": "x"})
    kernel.services.provide(GOSSIP, here)
    kernel.services.provide(MEMBERS, TwoMembers())
    return here, there


async def post(c: Client, path: str, body: object, method: str = "POST") -> Answer:
    """Send JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await c.get(path, "Content-Type: application/json", method=method, body=data)


async def test_an_event_is_fired_and_streamed(tmp_path: Path) -> None:
    """The answer is the event; readers of the stream get it as `user`, bytes that are no text in base64."""
    async with serving(tmp_path) as (kernel, http), client(http) as c, client(http) as reader:
        assert (await post(c, "/v1/events", {"name": "x"})).status == 503
        provide(kernel)
        await reader.stream.send_all(b"GET /v1/events?types=user,state HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await reader.until(b": events of this node\n\n")
        answer = await post(c, "/v1/events", {"name": "deploy", "payload": "v1"})
        event = answer.json()["event"]
        assert (answer.status, event["name"], event["payload"], event["origin_name"]) == (201, "deploy", "v1", "node-a")
        text = await reader.until(b"\n\n\r\n")
        assert b'event: user\ndata: {"name":"deploy"' in text
        raw = base64.b64encode(b"\xff\x00").decode()
        answer = await post(c, "/v1/events", {"name": "raw", "payload_base64": raw})
        assert answer.json()["event"]["payload_base64"] == raw
        await reader.until(b"\n\n\r\n")
        await c.get("/v1/state/k", method="PUT", body=b"v")
        assert b'"key":"k","version":1,"value":"v"}' in await reader.until(b"\n\n\r\n")


async def test_wrong_bodies_and_limits_are_refused_with_their_code(tmp_path: Path) -> None:
    """Unknown fields, both forms of a payload, base64 that is none, and payloads over their limit."""
    async with serving(tmp_path) as (kernel, http), client(http) as c:
        provide(kernel)
        for body in ({"nam": "x"}, {"name": "x", "payload": "a", "payload_base64": "YQ=="}, b"[", {}):
            assert (await post(c, "/v1/events", body)).status == 400
        assert "not base64" in (await post(c, "/v1/events", {"name": "x", "payload_base64": "?"})).body.decode()
        answer = await post(c, "/v1/events", {"name": "x", "payload": "y" * 513})
        assert (answer.status, answer.json()["error"]["code"]) == (413, "membership.gossip_too_large")
        answer = await post(c, "/v1/queries", {"name": "x", "payload": "y" * 1_025})
        assert (answer.status, answer.json()["error"]["code"]) == (413, "membership.gossip_too_large")


async def test_a_query_is_answered_whole_or_line_by_line(tmp_path: Path) -> None:
    """Each member's word with its outcome and the counts; filters choose; the stream ends with the counts."""
    async with serving(tmp_path) as (kernel, http), client(http) as c:
        here, there = provide(kernel)

        async def shout(question: Question) -> bytes:
            await trio.lowlevel.checkpoint()
            return question.payload.upper()

        here.respond("shout", shout)
        there.is_silent = True
        body = (await post(c, "/v1/queries", {"name": "shout", "payload": "hey", "timeout_s": 2})).json()
        assert [(a["name"], a["outcome"], a["payload"]) for a in body["answers"]] == [
            ("node-a", "answered", "HEY"),
            ("node-b", "silent", ""),
        ]
        assert body["counts"] == {"asked": 2, "answered": 1, "failed": 0, "unhandled": 0, "acked": 0, "silent": 1}
        there.is_silent = False
        body = (await post(c, "/v1/queries", {"name": "ping", "tags": {"zone": "x"}})).json()
        assert [a["name"] for a in body["answers"]] == ["node-b"]
        body = (await post(c, "/v1/queries", {"name": "ping", "tags": {"zone": "y"}})).json()
        assert body == {"answers": [], "counts": dict.fromkeys(body["counts"], 0)}
        answer = await post(c, "/v1/queries", {"name": "ping", "nodes": ["node-b", "node-d"]})
        assert (answer.status, answer.json()["error"]["code"]) == (404, "request.not_found")
        assert "'node-d'; did you mean 'node-" in answer.json()["error"]["message"]
        request = json.dumps({"name": "shout"}).encode()
        head = f"POST /v1/queries?stream HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(request)}\r\n\r\n"
        await c.stream.send_all(head.encode() + request)
        text = await c.until(b"0\r\n\r\n")
        assert b"Content-Type: application/x-ndjson" in text
        lines = [json.loads(line) for line in text.split(b"\r\n") if line.startswith(b"{")]
        assert [line.get("outcome", "counts") for line in lines] == ["answered", "unhandled", "counts"]


async def test_state_is_written_here_and_read_of_everybody(tmp_path: Path) -> None:
    """PUT takes the bytes as they are; GET shows a key at each member, or everything; what is not there is 404."""
    async with serving(tmp_path) as (kernel, http), client(http) as c:
        _, there = provide(kernel)
        there.put("role", b"\xff")
        assert (await c.get("/v1/state/role", method="PUT", body=b"leader")).json() == {"key": "role", "version": 1}
        values = (await c.get("/v1/state/role")).json()["values"]
        assert values == [
            {"node": A, "name": "node-a", "version": 1, "value": "leader"},
            {"node": B, "name": "node-b", "version": 1, "value_base64": "/w=="},
        ]
        state = (await c.get("/v1/state?node=node-a")).json()["state"]
        assert [(m["name"], m["keys"]) for m in state] == [("node-a", {"role": {"version": 1, "value": "leader"}})]
        assert (await c.get(f"/v1/state?node={A[:6]}")).json()["state"] == state
        assert len((await c.get("/v1/state")).json()["state"]) == 2
        assert (await c.get("/v1/state/role", method="DELETE")).json() == {"key": "role", "deleted": True}
        assert (await c.get("/v1/state/role", method="DELETE")).status == 404
        assert (await c.get("/v1/state/nothing")).status == 404
        assert (await c.get("/v1/state?node=nobody")).status == 404
        assert (await c.get("/v1/state/k", method="PUT", body=bytes(1_025))).status == 413
        assert (await c.get("/v1/state/k", method="PUT", body=bytes(17_000))).status == 413


async def test_off_loopback_writing_needs_the_token(tmp_path: Path) -> None:
    """Events, queries and state are closed to whoever has no token."""
    async with serving(tmp_path, token=True, http="0.0.0.0:0") as (kernel, http):
        provide(kernel)
        stream = await SystemNetwork().connect(Address("127.0.0.1", int(http.address.rpartition(":")[2])))
        c = Client(stream)
        for method, path in (
            ("POST", "/v1/events"),
            ("POST", "/v1/queries"),
            ("GET", "/v1/state"),
            ("PUT", "/v1/state/k"),
        ):
            assert (await c.get(path, method=method)).status == 401
        answer = await c.get("/v1/state/k", f"Authorization: Bearer {TOKEN}", method="PUT", body=b"v")
        assert answer.status == 200
        await stream.aclose()


async def command(*arguments: str) -> int:
    """Run the command line in a thread."""
    return await trio.to_thread.run_sync(cli.main, arguments)


async def test_the_command_line_fires_asks_and_keeps_state(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """event, query and node: tables for people, the HTTP body with --json, and their exit codes."""
    monkeypatch.setenv("FRYS_DATA_DIR", str(tmp_path))
    async with serving(tmp_path) as (kernel, _):
        _, there = provide(kernel)
        assert await command("event", "deploy", "v1") == 0
        assert capsys.readouterr().out == "event deploy is number 1 of node-a\n"
        assert await command("event", "deploy", "--json") == 0
        assert json.loads(capsys.readouterr().out)["event"]["sequence"] == 2
        assert await command("event", "n" * 65) == 1
        for name in ("x\x1b[2J", "two\nlines", "right\u202eleft"):
            assert await command("event", name) == 2
            assert await command("query", name) == 2
            assert await command("node", "set", name, "v") == 2
        assert "\x1b" not in capsys.readouterr().err
        assert await command("query", "ping", "hi", "--timeout", "1s") == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].split() == ["NAME", "OUTCOME", "AFTER_MS", "ANSWER"]
        assert [line.split() for line in lines[1:3]] == [[f"node-{x}", "answered", "0.00", "hi"] for x in "ab"]
        assert lines[3] == "2 asked: 2 answered"
        assert await command("query", "ping", "--tag", "zone=x", "--json") == 0
        assert json.loads(capsys.readouterr().out)["counts"]["asked"] == 1
        assert await command("query", "ping", "--node", "node-a", "--node", "nobody") == 1
        assert await command("query", "ping", "--tag", "zone=y") == 1
        assert await command("query", "ping", "--tag", "zone") == 2
        there.is_silent = True
        assert await command("query", "ping", "--node", "node-b") == 4
        capsys.readouterr()
        assert await command("node", "set", "role", "leader") == 0
        assert await command("node", "list") == 0
        assert capsys.readouterr().out.splitlines()[-1].split() == ["node-a", "alive", "role", "1", "leader"]
        assert await command("node", "get", "role", "--node", "node-a") == 0
        assert capsys.readouterr().out == "leader"
        assert await command("node", "get", "role", "--node", "node-b") == 1
        capsys.readouterr()
        assert await command("node", "get", "role", "--node", "node-x") == 1
        assert "there is no member 'node-x'" in capsys.readouterr().err
        assert await command("node", "unset", "role") == 0
        assert await command("node", "get", "role") == 1
    assert await command("event", "x") == 3


async def test_one_members_value_is_its_bytes(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`node get K --node N` writes the bytes as they are into a pipe; --json has them in base64, a table escaped."""
    monkeypatch.setenv("FRYS_DATA_DIR", str(tmp_path))
    async with serving(tmp_path) as (kernel, _):
        here, _ = provide(kernel)
        here.put("bytes", b"\xff\x1b\n")
        here.put("text", b"\x1b[2J\n")
        for more in ((), ("--raw",)):
            assert await command("node", "get", "bytes", "--node", "node-a", *more) == 0
            assert capsysbinary.readouterr().out == b"\xff\x1b\n"
        assert await command("node", "get", "bytes", "--node", "node-a", "--json") == 0
        assert json.loads(capsysbinary.readouterr().out)["values"][0]["value_base64"] == "/xsK"
        assert await command("node", "get", "text") == 0
        assert b"\\x1b[2J\\n" in capsysbinary.readouterr().out
        assert await command("node", "get", "text", "--raw") == 2


async def test_monitor_follows_events_until_its_time_is_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line for each member change and event, as they come; with --json an object a line; exit 0 at the end."""
    monkeypatch.setenv("FRYS_DATA_DIR", str(tmp_path))
    async with serving(tmp_path) as (kernel, _), trio.open_nursery() as nursery:
        here, _ = provide(kernel)

        async def happen() -> None:
            while True:
                here.fire("deploy", b"v\n1")
                here.put("k", b"v")
                kernel.bus.publish(MemberChanged(old=None, new=view(B, "node-b")))
                await trio.sleep(0.05)

        nursery.start_soon(happen)
        assert await command("monitor", "--types", "member,user,state", "--for", "0.5s") == 0
        shown = {line.split("  ", 1)[1] for line in capsys.readouterr().out.splitlines()}
        assert shown == {
            "member     node-b: new -> alive",
            "event      deploy from node-a: v\\n1",
            "state      node-a k: v",
        }
        assert await command("monitor", "--for", "0.3s", "--json") == 0
        kinds = {json.loads(line)["type"] for line in capsys.readouterr().out.splitlines()}
        assert kinds == {"member", "user"}
        assert await command("monitor", "--types", "nonsense") == 2
        nursery.cancel_scope.cancel()


def test_each_verb_has_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    """--help of the new verbs names their options."""
    for verb, option in (("event", "payload"), ("query", "--tag"), ("monitor", "--for"), ("node", "unset")):
        assert cli.main([verb, "--help"]) == 0
        assert option in capsys.readouterr().out
