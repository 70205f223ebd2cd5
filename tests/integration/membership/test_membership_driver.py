"""The membership component on fake ports: joins, deaths, leaves, restarts, partitions and junk."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
import trio
import trio.testing

from frys_node.base.types import Address, NodeId
from frys_node.kernel.services.members import MemberChanged, Status
from frys_node.testing.network import LinkProfile
from membership.config import for_profile
from membership.driver import ALERTED
from membership.effects import Emit, Peer
from membership.errors import JoinFailed, LeaveUnacknowledged, MemberAlive, TagsTooLarge

STALLS = 12
"""With a coin for each of them, a wrong order shows in all but one of 4,096 runs."""


async def test_five_nodes_find_each_other_through_one_seed(cluster: Any, autojump_clock: Any) -> None:
    """Nodes that know only the first one end up with equal views."""
    nodes = await cluster.start_all(5)
    assert all(node.alive() == ["n1", "n2", "n3", "n4", "n5"] for node in nodes)


async def test_killed_node_is_dead_at_all_survivors(cluster: Any, autojump_clock: Any) -> None:
    """A kill is declared by everybody within the suspicion's floor and a few probe intervals, and only the victim."""
    nodes = await cluster.start_all(4)
    victim = cluster.kill("n4").node
    took_s = await cluster.until(lambda: all(n.status(victim) is Status.DEAD for n in nodes[:3]))
    assert took_s < 8.0
    assert all(len(n.alive()) == 3 for n in nodes[:3])


async def test_the_log_tells_a_return_that_is_no_news_to_subscribers(
    cluster: Any, autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A second death within half a minute is held back, and so is the return: the log's last word is alive."""
    nodes = await cluster.start_all(2)
    view = nodes[0].driver.get(nodes[1].node)
    caplog.set_level(logging.INFO, logger="frys.membership")
    nodes[0].driver._take_change(Emit(MemberChanged(old=view, new=view), is_turn=True))
    fields = [record.__dict__["frys_fields"] for record in caplog.records]
    assert [(record.getMessage(), f["status"]) for record, f in zip(caplog.records, fields, strict=True)] == [
        ("membership.change_held", "alive")
    ]


async def test_members_with_other_settings_are_told_with_both_values(
    cluster: Any, autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A state exchange finds what must be the same everywhere: a warning at both, a line of the status, a gauge."""
    first = await cluster.start("n1")
    second = await cluster.start("n2", config=for_profile("lan", watchers=1), peers=[cluster.peer("n1")])
    await cluster.until(lambda: first.driver.settings_differ() and second.driver.settings_differ())
    assert first.driver.settings_differ() == [{"member": "n2", "setting": "watchers", "there": "1", "here": "3"}]
    assert second.driver.settings_differ() == [{"member": "n1", "setting": "watchers", "there": "3", "here": "1"}]
    (gauge,) = [metric for metric in first.metrics if metric.name == "frys_membership_settings_differ"]
    assert gauge.source() == 1.0
    told = [r.__dict__["frys_fields"] for r in caplog.records if r.getMessage() == "membership.settings_differ"]
    assert {fields["differences"] for fields in told} == {
        "watchers is 1 there and 3 here",
        "watchers is 3 there and 1 here",
    }


async def test_what_is_worth_an_alert_is_counted_from_the_start(cluster: Any, autojump_clock: Any) -> None:
    """A rule over the increase of a series that begins at 1 never sees that first step."""
    node = await cluster.start("n1")
    (events,) = [metric for metric in node.metrics if metric.name == "frys_membership_events_total"]
    assert {name for (name,), count in events.values.items() if count == 0} >= set(ALERTED)


async def test_local_profile_declares_a_kill_sooner(cluster: Any, autojump_clock: Any) -> None:
    """The loopback profile needs about a third of the LAN's time."""
    cluster.config = for_profile("local")
    nodes = await cluster.start_all(3)
    victim = cluster.kill("n3").node
    assert await cluster.until(lambda: all(n.status(victim) is Status.DEAD for n in nodes[:2])) < 2.7


async def test_leave_is_seen_as_left_and_never_as_dead(cluster: Any, autojump_clock: Any) -> None:
    """A graceful leave is acknowledged, and no survivor ever calls the leaver suspect or dead."""
    nodes = await cluster.start_all(4)
    await nodes[3].driver.leave()
    gone = cluster.kill("n4").node
    await cluster.until(lambda: all(n.status(gone) is Status.LEFT for n in nodes[:3]), 2.0)
    await trio.sleep(30)
    seen = {e.new.status for n in nodes[:3] for e in n.events if e.new.id == gone}
    assert seen == {Status.ALIVE, Status.LEFT}


async def test_leave_of_the_last_node_needs_nobody(cluster: Any, autojump_clock: Any) -> None:
    """A node alone leaves at once; one whose peers are all unreachable says so after a bounded wait."""
    alone = await cluster.start("n1")
    await alone.driver.leave()
    nodes = [await cluster.start("n2"), await cluster.start("n3", peers=[])]
    nodes[1].driver.join([cluster.peer("n2")])
    await cluster.until(lambda: nodes[1].alive() == ["n2", "n3"])
    cluster.network.partition(["10.0.0.3"], ["10.0.0.2"])
    with pytest.raises(LeaveUnacknowledged):
        await nodes[1].driver.leave()


async def test_restart_with_a_new_address_replaces_the_old_member_at_once(cluster: Any, autojump_clock: Any) -> None:
    """A node that comes back elsewhere finds its cluster from its own disk, and the others follow it."""
    nodes = await cluster.start_all(3)
    await trio.sleep(5)
    cluster.kill("n3")
    returned = await cluster.start("n3", host="10.9.9.9")
    await cluster.settle(3)
    view = nodes[0].driver.get(returned.node)
    assert view.address == Address("10.9.9.9", 7946)
    assert view.boot == 2 << 32
    learnt = cluster.exchange.endpoints["10.0.0.1"].addresses[returned.node]
    assert learnt == view.address


async def test_whole_cluster_restarts_from_remembered_peers(cluster: Any, autojump_clock: Any) -> None:
    """After a total outage, with one member long dead before it, the nodes find each other without any seed."""
    await cluster.start_all(4)
    await trio.sleep(5)
    dead = cluster.kill("n4").node
    await cluster.until(lambda: all(n.status(dead) is Status.DEAD for n in cluster.nodes.values()))
    await trio.sleep(5)
    for name in ("n1", "n2", "n3"):
        cluster.kill(name)
    for name in ("n3", "n1", "n2"):
        await cluster.start(name)
    await cluster.settle(3)
    await cluster.start("n4")
    await cluster.settle(4)


async def test_partition_heals_without_help(cluster: Any, autojump_clock: Any) -> None:
    """Two halves that declared each other dead become one again within seconds of the heal."""
    nodes = await cluster.start_all(6)
    left, right = [f"10.0.0.{i}" for i in (1, 2, 3)], [f"10.0.0.{i}" for i in (4, 5, 6)]
    cluster.network.partition(left, right)
    await cluster.until(lambda: all(len(n.alive()) == 3 for n in nodes))
    cluster.network.heal()
    assert await cluster.until(lambda: all(len(n.alive()) == 6 for n in nodes)) < 10


async def test_dns_seed_brings_nodes_together(cluster: Any, autojump_clock: Any) -> None:
    """A name that stands for several addresses, one of them this node's own and one dead, is enough to join."""
    cluster.network.names["frys.example"] = ["10.0.0.1", "10.0.0.2", "10.0.0.77"]
    config = for_profile("lan", seeds=("frys.example", "nowhere.example:7946"))
    await cluster.start("n1", config=config)
    await cluster.start("n2", config=config)
    await cluster.settle(2)


async def test_packets_without_a_key_are_dropped_and_counted(cluster: Any, autojump_clock: Any) -> None:
    """A node that has no key yet loses its packets without failing, and lives once the key is there."""
    nodes = await cluster.start_all(2)
    nodes[1].sealer.has_key = False
    await trio.sleep(2)
    dropped = nodes[1].metrics.counter("frys_membership_packets_dropped_total", "", ("reason",)).values
    assert dropped["no_key",] > 0
    assert dropped["unopened",] > 0
    nodes[1].sealer.has_key = True
    await cluster.settle(2)


async def test_flood_of_junk_neither_stops_timers_nor_hides_a_death(cluster: Any, autojump_clock: Any) -> None:
    """Under a flood of foreign and malformed packets probes go on, a kill is found, and the junk is counted."""
    nodes = await cluster.start_all(3)
    attacker = await cluster.network.host("10.6.6.6").bind(Address("10.6.6.6", 1))
    forged = nodes[1].sealer

    async def flood() -> None:
        while True:
            for _ in range(10):
                attacker.send(b"\x00junk", Address("10.0.0.1", 7946))
                attacker.send(forged.seal(b"\xc1not a message") or b"", Address("10.0.0.1", 7946))
            await trio.sleep(0.005)

    cluster.nursery.start_soon(flood)
    victim = cluster.kill("n3").node
    took_s = await cluster.until(lambda: all(n.status(victim) is Status.DEAD for n in nodes[:2]), 15)
    assert took_s < 8.0
    assert nodes[0].alive() == ["n1", "n2"]
    dropped = nodes[0].metrics.counter("frys_membership_packets_dropped_total", "", ("reason",)).values
    assert dropped["unopened",] > 1000
    assert dropped["malformed",] > 1000


async def test_tags_and_http_reach_everybody(cluster: Any, autojump_clock: Any) -> None:
    """Changed attributes spread under a new incarnation; too many tags are refused and the former ones stand."""
    nodes = await cluster.start_all(3)
    nodes[0].driver.set_tags({"zone": "a"})
    nodes[0].driver.set_http("10.0.0.1:8080")
    me = nodes[0].node
    await cluster.until(lambda: all(n.driver.get(me).http == "10.0.0.1:8080" for n in nodes), 2.0)
    assert all(n.driver.get(me).tags == {"zone": "a"} for n in nodes)
    with pytest.raises(TagsTooLarge):
        nodes[0].driver.set_tags({"zone": "a" * 600})
    assert nodes[0].driver.get(me).tags == {"zone": "a"}


async def test_force_leave_turns_a_dead_member_into_one_that_left(cluster: Any, autojump_clock: Any) -> None:
    """An operator's force-leave spreads; a live member cannot be forced."""
    nodes = await cluster.start_all(3)
    with pytest.raises(MemberAlive):
        nodes[0].driver.force_leave("n3")
    victim = cluster.kill("n3").node
    await cluster.until(lambda: all(n.status(victim) is Status.DEAD for n in nodes[:2]))
    nodes[0].driver.force_leave("n3")
    await cluster.until(lambda: all(n.status(victim) is Status.LEFT for n in nodes[:2]), 3.0)


async def test_join_of_a_silent_peer_fails_in_bounded_time(cluster: Any, autojump_clock: Any) -> None:
    """`join_within` names whom it asked, and the node goes on trying afterwards."""
    node = await cluster.start("n1")
    with pytest.raises(JoinFailed, match=r"10\.0\.0\.2:7946"):
        await node.driver.join_within([Peer(NodeId(f"{'n2':0>32}"), Address("10.0.0.2", 7946))], 3.0)
    await cluster.start("n2")
    await cluster.settle(2)


async def test_peers_file_holds_live_and_failed_members_but_none_that_left(cluster: Any, autojump_clock: Any) -> None:
    """What is kept on disk for the next start is bounded, readable, and leaves out who said goodbye."""
    nodes = await cluster.start_all(4)
    await nodes[3].driver.leave()
    cluster.kill("n4")
    failed = cluster.kill("n3").node
    await cluster.until(lambda: nodes[0].status(failed) is Status.DEAD)
    await trio.sleep(5)
    stored = json.loads(cluster.disks["n1"].read("peers.json"))
    assert [peer["host"] for peer in stored["peers"]] == ["10.0.0.2", "10.0.0.3"]


async def test_damaged_peers_file_and_full_disk_do_not_stop_a_node(cluster: Any, autojump_clock: Any) -> None:
    """Without readable or writable peers a node still runs and joins; the failure is counted."""
    await cluster.start("n1")
    node = await cluster.start("n2")
    cluster.kill("n2")
    cluster.disks["n2"].write("peers.json", b"{broken")
    cluster.disks["n2"].fail_next()
    node = await cluster.start("n2", peers=[cluster.peer("n1")])
    await cluster.settle(2)
    cluster.disks["n2"].fail_next()
    node.driver.join([Peer(NodeId("f" * 32), Address("10.0.0.99", 7946))])
    await node.driver.drain()
    dropped = node.metrics.counter("frys_membership_packets_dropped_total", "", ("reason",)).values
    assert dropped["peers_not_written",] == 1


async def test_slow_reader_of_events_does_not_hold_up_the_detector(cluster: Any, autojump_clock: Any) -> None:
    """A subscription that nobody reads overflows by itself; membership goes on."""
    nodes = await cluster.start_all(2)
    with nodes[0].bus.subscribe(type(nodes[0].events[0]), events_max=1) as lazy:
        for index in range(5):
            nodes[1].driver.set_tags({"round": str(index)})
            await trio.sleep(1)
        assert lazy.dropped > 0
    assert nodes[0].driver.get(nodes[1].node).tags == {"round": "4"}


async def test_after_a_stall_what_lies_in_the_socket_is_read_before_anybody_is_judged(
    cluster: Any, autojump_clock: trio.testing.MockClock
) -> None:
    """Three seconds in one step make reader and timer due at once, in an order that trio draws: the reader is first."""
    nodes = await cluster.start_all(2)
    cluster.network.profile = LinkProfile(delay_s=0.2)
    machine = nodes[0].driver._machine
    socket = cluster.network.host("10.0.0.1").datagrams[7946]
    calls: list[tuple[float, str]] = []
    receive, advance = machine.receive, machine.advance

    def noted_receive(*args: Any, **more: Any) -> Any:
        calls.append((trio.current_time(), "receive"))
        return receive(*args, **more)

    def noted_advance(now_s: float) -> Any:
        calls.append((trio.current_time(), "advance"))
        return advance(now_s)

    machine.receive, machine.advance = noted_receive, noted_advance
    for _ in range(STALLS):
        await cluster.until(lambda: len(socket._queue) > 0)
        assert machine.next_deadline_s < trio.current_time() + 3.0
        autojump_clock.jump(3.0)
        at_s = trio.current_time()
        await cluster.until(lambda: len(socket._queue) == 0)
        turn = [what for when_s, what in calls if when_s == at_s]
        assert turn[0] == "receive"
        assert "advance" in turn
        await cluster.until(lambda: nodes[0].status(nodes[1].node) is Status.ALIVE)
