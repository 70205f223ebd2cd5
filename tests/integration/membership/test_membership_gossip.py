"""Events, queries and state between components on fake ports."""

from __future__ import annotations

import random
from typing import Any

import pytest
import trio

from frys_node.base.errors import AlreadyExists, FrysError, NotFound, UsageError
from frys_node.kernel.services.gossip import ClusterEvent, Outcome, QueryAnswer, Question, StateChanged
from frys_node.testing.network import LinkProfile
from membership.errors import GossipTooFast, GossipTooLarge
from membership.events import EVENTS_BURST
from membership.rumours import REPLY_PAYLOAD_BYTES_MAX


def listen(node: Any) -> list[ClusterEvent]:
    """Collect the events that a node delivers."""
    heard: list[ClusterEvent] = []
    node.bus.on(ClusterEvent, heard.append)
    return heard


async def answers(node: Any, name: str, payload: bytes = b"", **options: Any) -> dict[str, QueryAnswer]:
    """Ask and collect what everybody says, by member's name."""
    return {answer.name: answer async for answer in node.driver.gossip.ask(name, payload, **options)}


async def test_each_node_delivers_each_event_once(cluster: Any, autojump_clock: Any) -> None:
    """Events of several nodes reach every node once, with their origin's name, and the sender at once."""
    nodes = await cluster.start_all(5)
    heard = [listen(node) for node in nodes]
    for index, node in enumerate(nodes):
        event = node.driver.gossip.fire("deploy", b"%d" % index)
        assert heard[index][-1] == event
    await cluster.until(lambda: all(len(events) == 5 for events in heard), 5.0)
    await trio.sleep(10)
    for events in heard:
        assert sorted((e.payload, e.origin_name) for e in events) == [(b"%d" % i, f"n{i + 1}") for i in range(5)]
    latency = nodes[1].metrics.histogram("frys_membership_event_latency_seconds", "")
    assert sum(latency.counts) == 5


async def test_a_newcomer_hears_no_old_events_and_every_new_one(cluster: Any, autojump_clock: Any) -> None:
    """What was said before a node came is not repeated to it; what is said afterwards is."""
    nodes = await cluster.start_all(3)
    nodes[0].driver.gossip.fire("old")
    await trio.sleep(5)
    late = await cluster.start("n4", peers=[cluster.peer("n1")])
    heard = listen(late)
    await cluster.settle(4)
    await trio.sleep(3)
    nodes[0].driver.gossip.fire("new")
    await cluster.until(lambda: heard)
    await trio.sleep(40)
    assert [event.name for event in heard] == ["new"]


async def test_events_cross_a_healed_partition(cluster: Any, autojump_clock: Any) -> None:
    """What one half said while it was cut off is delivered in the other half after the heal, once."""
    nodes = await cluster.start_all(4)
    await trio.sleep(5)
    heard = [listen(node) for node in nodes]
    cluster.network.partition(["10.0.0.1", "10.0.0.2"], ["10.0.0.3", "10.0.0.4"])
    await trio.sleep(20)
    for node in nodes:
        node.driver.gossip.fire("alone", node.driver.self_id.encode())
    await trio.sleep(20)
    assert [len(events) for events in heard] == [2, 2, 2, 2]
    cluster.network.heal()
    await cluster.until(lambda: all(len(events) == 4 for events in heard), 20)
    await trio.sleep(10)
    assert [len(events) for events in heard] == [4, 4, 4, 4]


async def test_an_event_over_its_limits_is_refused_with_the_fix(cluster: Any, autojump_clock: Any) -> None:
    """Too large, nameless or too many: each says its limit, and nothing is delivered."""
    node = await cluster.start("n1")
    heard = listen(node)
    for name, payload in (("", b""), ("n" * 65, b""), ("n", bytes(513))):
        with pytest.raises(GossipTooLarge):
            node.driver.gossip.fire(name, payload)
    for _ in range(EVENTS_BURST):
        node.driver.gossip.fire("n")
    with pytest.raises(GossipTooFast, match="10 events per second") as refusal:
        node.driver.gossip.fire("n")
    assert refusal.value.hint.startswith("retry in 0.1")
    await trio.sleep(0.11)
    node.driver.gossip.fire("n")
    assert len(heard) == EVENTS_BURST + 1


async def test_a_query_gets_one_answer_of_each_member(cluster: Any, autojump_clock: Any) -> None:
    """Handlers answer or fail, who has none says so, and the asker answers too."""
    nodes = await cluster.start_all(4)

    async def shout(question: Question) -> bytes:
        await trio.sleep(0.2)
        return question.payload.upper()

    async def fail(question: Question) -> bytes:
        await trio.lowlevel.checkpoint()
        raise NotFound("no such thing")

    async def crash(question: Question) -> bytes:
        raise ZeroDivisionError("oops")

    for node, responder in zip(nodes, (shout, shout, fail, crash), strict=True):
        node.driver.gossip.respond("shout", responder)
    with pytest.raises(AlreadyExists):
        nodes[0].driver.gossip.respond("shout", shout)
    found = await answers(nodes[0], "shout", b"hey")
    assert {name: (a.outcome, a.payload) for name, a in found.items()} == {
        "n1": (Outcome.ANSWERED, b"HEY"),
        "n2": (Outcome.ANSWERED, b"HEY"),
        "n3": (Outcome.FAILED, b"request.not_found: no such thing"),
        "n4": (Outcome.FAILED, b"ZeroDivisionError: oops"),
    }
    assert {a.outcome for a in (await answers(nodes[1], "nonsense")).values()} == {Outcome.UNHANDLED}


async def test_built_in_queries_need_no_handler(cluster: Any, autojump_clock: Any) -> None:
    """`ping` gives back the payload, `uptime` the seconds since the start."""
    nodes = await cluster.start_all(3)
    pinged = await answers(nodes[0], "ping", b"x")
    assert {name: a.payload for name, a in pinged.items()} == {"n1": b"x", "n2": b"x", "n3": b"x"}
    assert max(a.after_s for a in pinged.values()) < 0.1
    assert all(float(a.payload) > 0 for a in (await answers(nodes[2], "uptime")).values())


async def test_a_query_can_be_for_some_members_only(cluster: Any, autojump_clock: Any) -> None:
    """By name, by id and by tags; a query for nobody ends at once."""
    nodes = await cluster.start_all(3)
    nodes[1].driver.set_tags({"role": "db", "zone": "a"})
    await cluster.until(lambda: all(n.driver.get(nodes[1].node).tags for n in nodes))
    assert set(await answers(nodes[0], "ping", nodes=["n1", nodes[2].node])) == {"n1", "n3"}
    assert set(await answers(nodes[0], "ping", tags={"role": "db"})) == {"n2"}
    assert set(await answers(nodes[1], "ping", tags={"role": "db", "zone": "a"})) == {"n2"}
    assert await answers(nodes[0], "ping", tags={"role": "web"}) == {}


async def test_who_is_silent_and_who_is_late_is_told_apart(cluster: Any, autojump_clock: Any) -> None:
    """When the time is up: a member that has the question but no answer is ACKED, one that is gone is SILENT."""
    nodes = await cluster.start_all(3)

    async def sleep(question: Question) -> bytes:
        await trio.sleep(60)
        return b""

    nodes[1].driver.gossip.respond("work", sleep)
    cluster.kill("n3")
    found = await answers(nodes[0], "work", timeout_s=1.0)
    assert {name: a.outcome for name, a in found.items()} == {
        "n1": Outcome.UNHANDLED,
        "n2": Outcome.ACKED,
        "n3": Outcome.SILENT,
    }
    assert found["n3"].after_s == pytest.approx(1.0, abs=0.05)


async def test_queries_survive_loss(cluster: Any, autojump_clock: Any) -> None:
    """With a third of the packets lost both ways, reminders bring every answer."""
    nodes = await cluster.start_all(6)
    cluster.network.profile = LinkProfile(loss=0.33)
    for node in nodes:
        found = await answers(node, "ping", timeout_s=5.0)
        assert [a.outcome for a in found.values()] == [Outcome.ANSWERED] * 6


async def test_an_answer_that_fits_into_no_packet_takes_the_channel(cluster: Any, autojump_clock: Any) -> None:
    """Up to the limit it arrives whole; beyond, the member says that it failed."""
    nodes = await cluster.start_all(2)
    size = REPLY_PAYLOAD_BYTES_MAX

    async def much(question: Question) -> bytes:
        await trio.lowlevel.checkpoint()
        return bytes(size)

    off = nodes[1].driver.gossip.respond("much", much)
    assert (await answers(nodes[0], "much"))["n2"].payload == bytes(size)
    size += 1
    found = (await answers(nodes[0], "much"))["n2"]
    assert found.outcome is Outcome.FAILED
    assert b"the limit is 16384" in found.payload
    off()
    assert (await answers(nodes[0], "much"))["n2"].outcome is Outcome.UNHANDLED


async def test_a_query_over_its_limits_is_refused(cluster: Any, autojump_clock: Any) -> None:
    """Payload, number of filters, timeout and what a packet holds: nothing is sent."""
    node = await cluster.start("n1")
    for payload, options in (
        (bytes(1_025), {}),
        (b"", {"nodes": ["n"] * 65}),
        (bytes(1_024), {"tags": {"k": "v" * 500}}),
    ):
        with pytest.raises(GossipTooLarge):
            node.driver.gossip.ask("ping", payload, **options)
    with pytest.raises(UsageError, match=r"waits 0.001 to 600 s"):
        node.driver.gossip.ask("ping", timeout_s=0.0)
    for _ in range(20):
        await answers(node, "ping")
    with pytest.raises(FrysError, match="5 queries per second"):
        node.driver.gossip.ask("ping")


async def test_state_is_read_everywhere_and_belongs_to_a_boot(cluster: Any, autojump_clock: Any) -> None:
    """Puts and deletes reach every node and newcomers; after a restart the owner and all others start empty."""
    nodes = await cluster.start_all(3)
    changes: list[StateChanged] = []
    nodes[2].bus.on(StateChanged, changes.append)
    gossip = nodes[0].driver.gossip
    gossip.put("role", b"leader")
    gossip.put("gone", b"soon")
    gossip.delete("gone")
    gossip.put("load", b"0.5")
    owner = nodes[0].node

    def seen(node: Any) -> dict[str, bytes]:
        return {value.key: value.value for value in node.driver.gossip.state(owner)}

    wanted = {"load": b"0.5", "role": b"leader"}
    await cluster.until(lambda: all(seen(node) == wanted for node in nodes), 3.0)
    assert {(c.node, c.key, c.value) for c in changes} == {(owner, "role", b"leader"), (owner, "load", b"0.5")}
    late = await cluster.start("n4", peers=[cluster.peer("n2")])
    await cluster.until(lambda: seen(late) == wanted, 5.0)
    with pytest.raises(NotFound):
        gossip.delete("gone")
    cluster.kill("n1")
    await trio.sleep(1)
    again = await cluster.start("n1", peers=[cluster.peer("n2")])
    await cluster.settle(4)
    await cluster.until(lambda: not any(map(seen, cluster.nodes.values())), 3.0)
    again.driver.gossip.put("role", b"follower")
    await cluster.until(lambda: all(seen(n) == {"role": b"follower"} for n in cluster.nodes.values()), 3.0)


async def test_state_is_bounded(cluster: Any, autojump_clock: Any) -> None:
    """Values, keys and their sum have limits; the former value stands."""
    node = await cluster.start("n1")
    gossip = node.driver.gossip
    for key in range(15):
        gossip.put(f"k{key}", bytes(1_024))
    with pytest.raises(GossipTooLarge, match="the limit is 16384"):
        gossip.put("k15", bytes(1_024))
    with pytest.raises(GossipTooLarge, match="1025 bytes"):
        gossip.put("k0", bytes(1_025))
    for key in range(15):
        gossip.put(f"k{key}", b"")
    for key in range(15, 64):
        gossip.put(f"k{key}", b"")
    with pytest.raises(GossipTooLarge, match="64 keys"):
        gossip.put("one more", b"")
    gossip.put("k0", b"new")
    assert len(gossip.state(node.node)) == 64


async def test_large_states_come_by_exchange(cluster: Any, autojump_clock: Any) -> None:
    """Sixteen values of a kilobyte, put at once, fit into no packet and are everywhere within seconds."""
    nodes = await cluster.start_all(3)
    rng = random.Random(1)
    for node in nodes:
        for key in range(15):
            node.driver.gossip.put(f"k{key}", rng.randbytes(1_024))
    await cluster.until(
        lambda: all(
            n.driver.gossip.state(owner.node) == owner.driver.gossip.state(owner.node) for n in nodes for owner in nodes
        ),
        10.0,
    )
