"""Moves that give way to requests, in virtual time: at the receiver, at the source, and by settings alone."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from frys_node.base.types import NodeId, UnitId
from frys_node.kernel.services.snapshots import MoveProgress
from frys_node.observe.metrics import Histogram, Metrics
from frys_node.testing.clock import FakeClock
from snapshots.config import SnapshotsConfig
from snapshots.governor import FLOOR_BYTES_S, IDLE_START_BYTES_S, START_BYTES_S
from snapshots.manifest import CHUNK_BYTES
from snapshots.messages import Wish
from snapshots.throttle import ASKED_MIN, REQUESTS, WAIT_MAX_S, Throttle
from tests.integration.test_snapshot_moves import UNIT, A, B, Node, _cluster, _data

BIG = 50 * CHUNK_BYTES
"""More than what moves in a slow start, and than what moves at the floor until requests are fast again."""


def requests(node: Node) -> Histogram:
    """Return what the node's HTTP listener counts its requests in."""
    return node.metrics.histogram(REQUESTS[0], "")


async def serve(node: Node, latency_s: list[float]) -> None:
    """Count a hundred requests a second, each of which took as long as the list says now."""
    while True:
        requests(node).observe(latency_s[0])
        await trio.sleep(0.01)


async def pull(node: Node, seen: list[MoveProgress]) -> float:
    """Move the unit; return the seconds that it took."""
    begun_s = trio.current_time()
    await node.snapshots.pull(UNIT, A, seen.append)
    return trio.current_time() - begun_s


@pytest.mark.parametrize("where", ["receiver", "source"])
async def test_a_move_slows_down_and_pauses_while_requests_suffer(
    autojump_clock: trio.testing.MockClock, where: str
) -> None:
    """Whichever side has slow requests, the move gives way, says why, and is finished when they are fast again."""
    async with _cluster() as cluster:
        a, b = await cluster.add(A), await cluster.add(B)
        a.blobs.held[UNIT] = _data(BIG)
        sufferer = b if where == "receiver" else a
        latency_s, seen = [0.002], list[MoveProgress]()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, sufferer, latency_s)
            await trio.sleep(40)
            undisturbed_s = await pull(b, seen)
            assert all(not move.held_back for move in seen if move.state == "installed")
            await trio.sleep(60)
            a.blobs.held[UNIT] = _data(BIG, seed=2)
            seen.clear()
            latency_s[0] = 0.2

            async def recover() -> None:
                await trio.sleep(40)
                latency_s[0] = 0.002

            nursery.start_soon(recover)
            disturbed_s = await pull(b, seen)
            nursery.cancel_scope.cancel()
        assert disturbed_s > 2 * undisturbed_s
        assert b.blobs.held[UNIT] == a.blobs.held[UNIT]
        said = {move.held_back.split(":")[0] for move in seen}
        if where == "receiver":
            assert said >= {"slowed"}
            assert any("p99 of requests" in move.held_back for move in seen)
            assert sufferer.snapshots._throttle.governor.pauses > 0
        else:
            assert "the source has requests to serve" in said


async def test_a_sealed_unit_is_not_held_back_by_requests_of_others(autojump_clock: trio.testing.MockClock) -> None:
    """Nobody serves it until it has moved: only the bound of the settings counts for it, on both sides."""
    for bound, least_s, most_s in ((0, 0.0, 2.0), (BIG // 20, 19.0, 25.0)):
        async with _cluster() as cluster:
            a, b = await cluster.add(A), await cluster.add(B, SnapshotsConfig(rate_bytes_s_max=bound))
            for node in (a, b):
                node.snapshots.register("blob", node.blobs, replaces=True)
            a.blobs.held[UNIT] = _data(BIG)
            seen: list[MoveProgress] = []
            async with trio.open_nursery() as nursery:
                for node in (a, b):
                    nursery.start_soon(serve, node, [0.5])
                await trio.sleep(5)
                assert least_s <= await pull(b, seen) <= most_s
                nursery.cancel_scope.cancel()
            assert not any(move.held_back for move in seen)


async def test_settings_bound_what_a_node_takes_and_what_it_gives(autojump_clock: trio.testing.MockClock) -> None:
    """Bytes a second, per receiver and per source; without requests nothing else holds a move back."""
    bound = 2 * CHUNK_BYTES
    for taker, giver in ((bound, 0), (0, bound)):
        async with _cluster() as cluster:
            a = await cluster.add(A, SnapshotsConfig(send_rate_bytes_s_max=giver))
            b = await cluster.add(B, SnapshotsConfig(rate_bytes_s_max=taker))
            a.blobs.held[UNIT] = _data(40 * CHUNK_BYTES)
            seen: list[MoveProgress] = []
            spent_s = await pull(b, seen)
            assert ("held to 512 KiB/s" in {move.held_back for move in seen}) == (taker > 0)
            assert spent_s >= 0.7 * 40 * CHUNK_BYTES / bound
            unbound = await cluster.add(NodeId("c"), SnapshotsConfig(p99_ratio_max=0))
            a.snapshots.configure(SnapshotsConfig(p99_ratio_max=0))
            assert await pull(unbound, []) < 1


async def test_a_source_is_believed_only_within_bounds(autojump_clock: trio.testing.MockClock) -> None:
    """A wish of a source is a number from another node: it can neither stop a move for good nor slow it to nothing."""
    clock = FakeClock()
    throttle = Throttle(clock, Metrics(), SnapshotsConfig(p99_ratio_max=0), lambda: True)
    throttle.told(A, Wish(1e-9, 1e9))
    assert throttle.ask_at(A, 16_384) <= clock.now_s() + WAIT_MAX_S
    assert throttle.ask_at(A, 16_384) <= clock.now_s() + WAIT_MAX_S + 1.0
    assert throttle.why(A) == "the source has requests to serve"
    assert throttle.ask_at(B, 1) <= clock.now_s()
    throttle.told(A, Wish(0.0, float("nan")))


async def test_what_comes_beside_snapshots_is_paid_for_and_slow_where_other_nodes_ask(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The rate holds both directions; ten questions of other nodes a second make it that of a slow start."""
    throttle = Throttle(FakeClock(), Metrics(), SnapshotsConfig(), lambda: False)
    for asked, rate in ((ASKED_MIN - 1, IDLE_START_BYTES_S), (1, START_BYTES_S)):
        for _ in range(asked):
            throttle.asked()
        throttle.tick()
        assert throttle.governor.rate_bytes_s == rate
    assert throttle.may_take()
    assert throttle.why_beside(A) == ""
    throttle.took(round(START_BYTES_S))
    assert not throttle.may_take()
    assert throttle.why_beside(A) == f"held to {START_BYTES_S / 1024:.0f} KiB/s"
    assert throttle.may_give()
    throttle.tick()
    assert throttle.governor.is_moving
    await trio.sleep(2.0)
    assert throttle.may_take()


async def test_snapshots_that_claim_room_ahead_leave_half_of_the_rate_for_what_comes_beside_them(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Four units of eight chunks each are claimed at once: what comes by messages would never find the line free."""
    bound = 4 * CHUNK_BYTES
    throttle = Throttle(FakeClock(), Metrics(), SnapshotsConfig(rate_bytes_s_max=bound), lambda: True)
    last_s = max(throttle.ask_at(A, CHUNK_BYTES) for _ in range(32))
    assert last_s > trio.current_time() + 5
    assert throttle.may_take()
    throttle.took(bound)
    throttle.tick()
    await trio.sleep(1.0)
    assert throttle.may_take()
    await trio.sleep(3.0)
    throttle.took(8 * bound)
    await trio.sleep(3.0)
    throttle.tick()
    assert not throttle.may_take()
    shared_s = throttle.ask_at(A, CHUNK_BYTES)
    assert throttle.ask_at(A, CHUNK_BYTES) - shared_s == pytest.approx(2 * CHUNK_BYTES / bound)


async def test_moves_are_told_in_metrics(autojump_clock: trio.testing.MockClock) -> None:
    """What is left, at what rate and for how long, is there while a move is under way, and zero behind it."""
    async with _cluster() as cluster:
        a, b = await cluster.add(A), await cluster.add(B, SnapshotsConfig(rate_bytes_s_max=int(FLOOR_BYTES_S)))
        a.blobs.held[UNIT] = _data(40 * CHUNK_BYTES)

        def gauge(name: str) -> float:
            metric = b.metrics.gauge(f"frys_snapshots_moves_{name}", "")
            assert metric.source is not None
            return metric.source()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(pull, b, [])
            await trio.sleep(10)
            assert gauge("active") == 1
            assert 0 < gauge("left_bytes") < 40 * CHUNK_BYTES
            assert gauge("rate_bytes") == pytest.approx(FLOOR_BYTES_S, rel=0.3)
            assert gauge("eta_seconds") == pytest.approx(gauge("left_bytes") / gauge("rate_bytes"))
            assert b.snapshots.taken_bytes() == 40 * CHUNK_BYTES - gauge("left_bytes")
        assert (gauge("active"), gauge("left_bytes"), gauge("eta_seconds")) == (0, 0, 0)
        assert UnitId(UNIT) in b.blobs.held
        assert b.snapshots.taken_bytes() == 40 * CHUNK_BYTES


async def test_what_comes_beside_snapshots_says_why_it_is_slow(autojump_clock: trio.testing.MockClock) -> None:
    """The row of the cache, whose copies go by messages, is held back by the same rate, and names it."""
    row = MoveProgress(
        unit=UnitId("cache"),
        source=A,
        state="transferring",
        bytes_done=1,
        bytes_total=9,
        rate_bytes_s=1.0,
        eta_s=8.0,
        started_unix_ns=1,
    )
    async with _cluster() as cluster:
        node = await cluster.add(A, SnapshotsConfig(rate_bytes_s_max=int(FLOOR_BYTES_S)))
        node.snapshots.tell_of(lambda: [row])
        assert [move.held_back for move in node.snapshots.moves()] == [""]
        node.snapshots.took(int(FLOOR_BYTES_S))
        assert [move.held_back for move in node.snapshots.moves()] == [f"held to {FLOOR_BYTES_S / 1024:.0f} KiB/s"]
