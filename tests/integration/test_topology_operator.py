"""What an operator does to a running cluster: removals, factors, the issuer's role; data is read back at quorum."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import trio
from trio.testing import MockClock

from balancer.changes import CLUSTER
from balancer.errors import LossNeeded, MemberAlive, NodeRemoved, PromotionFailed
from balancer.methods import JOIN_RING, JoinRing
from balancer.ring import RingMember
from frys_node.base.errors import FrysError, IssuerNeeded, NotFound, NotReady, UsageError
from frys_node.base.types import Consistency, NodeId, UnitId
from frys_node.kernel.services.topology import Collection
from frys_node.testing.data_cluster import DataCluster, open_data_cluster

UNITS = [UnitId(f"cache/{number}") for number in range(4)]
N1, N2, N3, N4 = (NodeId(f"n{number}") for number in range(1, 5))


async def settled(cluster: DataCluster) -> None:
    """Wait until every join is through."""
    with trio.fail_after(120):
        await cluster.settle()


async def until(what: Callable[[], bool]) -> None:
    """Wait until something holds, for a minute of the virtual clock."""
    with trio.fail_after(60):
        while not what():  # noqa: ASYNC110 (several nodes, no one event)
            await trio.sleep(0.05)


async def filled(cluster: DataCluster, through: str) -> None:
    """Write one key into every unit at quorum."""
    for unit in UNITS:
        await cluster[through].replication.write(unit, [(b"k", unit.encode())])


async def all_there(cluster: DataCluster, through: str) -> bool:
    """True if every unit still answers at quorum with what was written."""
    for unit in UNITS:
        entry = (await cluster[through].replication.read(unit, [b"k"], Consistency.QUORUM))[0]
        if entry is None or entry.value != unit.encode():
            return False
    return True


def is_calm(cluster: DataCluster, through: str, issuer: str) -> Callable[[], bool]:
    """Return whether a node works under a settled record of that issuer."""

    def holds() -> bool:
        machine = cluster[through].balancer.machine
        return machine.issuer == issuer and machine.settled == machine.epoch

    return holds


def weights(cluster: DataCluster, through: str) -> dict[NodeId, int]:
    """Return the members of the ring by weight."""
    return {member.node: member.weight for member in cluster[through].balancer.placement.record.ring}


async def test_twenty_nodes_that_join_at_once_take_a_few_records(autojump_clock: MockClock) -> None:
    """At most four steps of three records for twenty nodes, and everything is where the last record says."""
    async with open_data_cluster(["n1"]) as cluster:
        await settled(cluster)
        await filled(cluster, "n1")
        before = cluster["n1"].balancer.epoch.seq
        for number in range(20):
            await cluster.add(f"m{number:02}")
        await settled(cluster)
        assert cluster["n1"].balancer.epoch.seq - before <= 12
        assert await all_there(cluster, "m19")


async def test_the_issuer_leaves_by_handing_its_role_over(autojump_clock: MockClock) -> None:
    """Its last record names a successor, which surveys the others, writes on, and lets it go."""
    async with open_data_cluster(["n1", "n2", "n3"]) as cluster:
        await settled(cluster)
        await filled(cluster, "n1")
        with trio.fail_after(60):
            await cluster["n1"].balancer.leave()
        assert cluster["n3"].balancer.epoch.term.node == "n2"
        assert cluster["n3"].balancer.epoch.term.number == 2
        await cluster["n1"].kill()
        assert list(weights(cluster, "n3")) == [N2, N3]
        assert await all_there(cluster, "n3")
        await cluster.add("n4")
        await until(lambda: N4 in weights(cluster, "n2"))


async def test_an_issuer_without_a_living_member_cannot_leave(autojump_clock: MockClock) -> None:
    """Nobody can take over: refused with the fix, and it goes on as the issuer."""
    async with open_data_cluster(["n1", "n2"]) as cluster:
        await settled(cluster)
        await cluster["n2"].kill()
        with pytest.raises(IssuerNeeded, match="no other admitted member is alive"):
            await cluster["n1"].balancer.leave()
        assert cluster["n1"].balancer.machine.is_issuer


async def test_a_dead_node_is_removed_and_its_replicas_are_made_anew(autojump_clock: MockClock) -> None:
    """Three of four live: every unit is on three again, and its workflow partitions wait for its disk."""
    async with open_data_cluster(["n1", "n2", "n3", "n4"]) as cluster:
        await settled(cluster)
        await filled(cluster, "n1")
        verbs = cluster["n2"].balancer.verbs
        with pytest.raises(MemberAlive, match="n4 is not dead"):
            await verbs.remove(N4)
        with pytest.raises(NotFound, match="not on the ring"):
            await verbs.remove(NodeId("n9"))
        with pytest.raises(UsageError, match="writes the topology record"):
            await verbs.remove(N1)
        await cluster["n4"].kill()
        await verbs.remove(N4)
        await until(lambda: not weights(cluster, "n2").get(N4) and is_calm(cluster, "n2", "n1")())
        view = await verbs.removal(N4)
        assert (view.state, view.blocked) == ("removed", [])
        assert view.partitions == len([p for p, node in cluster["n2"].balancer.placement.record.pinned if node == N4])
        for unit in UNITS:
            assert sorted(cluster.stores(unit)) == ["n1", "n2", "n3"]
        assert await all_there(cluster, "n3")


async def test_a_removal_that_loses_something_is_refused_until_the_loss_is_accepted(autojump_clock: MockClock) -> None:
    """Two of three are gone: the units are named; with accepted loss the survivor goes on alone, and serves."""
    async with open_data_cluster(["n1", "n2", "n3"]) as cluster:
        await settled(cluster)
        await filled(cluster, "n1")
        for name in ("n2", "n3"):
            await cluster[name].kill()
        verbs = cluster["n1"].balancer.verbs
        with pytest.raises(LossNeeded, match=r"too few living members of cache/0, cache/1"):
            await verbs.remove(N2)
        for node in (N2, N3):
            await verbs.remove(node, accepts_loss=True)
        await until(lambda: weights(cluster, "n1") == {N1: 100} and is_calm(cluster, "n1", "n1")())
        assert await all_there(cluster, "n1")
        assert cluster["n1"].balancer.placement.record.removed == (N2, N3)


async def test_a_unit_all_of_whose_replicas_are_given_up_begins_empty(autojump_clock: MockClock) -> None:
    """With one copy each, what the dead node held is lost, and is written and read again at once."""
    async with open_data_cluster(["n1", "n2", "n3"]) as cluster:
        await settled(cluster)
        verbs = cluster["n1"].balancer.verbs
        await verbs.change_factor(CLUSTER, 1)
        await until(lambda: cluster["n1"].balancer.placement.record.replication_factor == 1)
        await until(is_calm(cluster, "n1", "n1"))
        await filled(cluster, "n1")
        lost = [unit for unit in UNITS if cluster["n1"].balancer.sets(unit).current == (N3,)]
        assert lost
        await cluster["n3"].kill()
        await verbs.remove(N3, accepts_loss=True)
        await until(lambda: N3 not in weights(cluster, "n1") and is_calm(cluster, "n1", "n1")())
        for unit in UNITS:
            entry = (await cluster["n2"].replication.read(unit, [b"k"], Consistency.QUORUM))[0]
            assert (entry is None) == (unit in lost)
        await filled(cluster, "n2")
        assert await all_there(cluster, "n1")


async def test_a_node_that_was_removed_for_good_is_refused_and_keeps_its_disk(autojump_clock: MockClock) -> None:
    """It adopts the record, is told so once, works under nothing any more, and asking for a place is refused."""
    async with open_data_cluster(["n1", "n2", "n3", "n4"]) as cluster:
        await settled(cluster)
        await filled(cluster, "n1")
        await cluster["n4"].kill()
        await cluster["n1"].balancer.verbs.remove(N4, accepts_loss=True)
        await until(lambda: N4 not in weights(cluster, "n1") and is_calm(cluster, "n1", "n1")())
        back = await cluster.restart("n4")
        told: list[str] = []
        back.balancer.on_removed = lambda: told.append("removed")
        await until(lambda: bool(told))
        assert back.balancer.epoch == cluster["n1"].balancer.epoch
        with pytest.raises(NodeRemoved) as refusal:
            await back.balancer.ask_issuer(JOIN_RING, JoinRing(RingMember(node=N4)))
        assert "join as a new node" in refusal.value.hint
        assert back.replication.replica.table.units != {}


async def test_a_removed_node_that_returns_hands_its_partitions_over_and_is_let_go(autojump_clock: MockClock) -> None:
    """Without accepted loss its disk still owned them: coming back is enough."""
    async with open_data_cluster(["n1", "n2", "n3", "n4"], partitions=16) as cluster:
        await settled(cluster)
        await cluster["n4"].kill()
        await cluster["n1"].balancer.verbs.remove(N4)
        await until(lambda: weights(cluster, "n1").get(N4) == 0 and is_calm(cluster, "n1", "n1")())
        await cluster.restart("n4")
        await until(lambda: N4 not in weights(cluster, "n1") and is_calm(cluster, "n1", "n1")())
        assert cluster["n1"].balancer.placement.record.pinned == ()


async def test_another_issuer_is_promoted_and_the_old_one_follows(autojump_clock: MockClock) -> None:
    """The issuer is dead: two of three promise, the record goes on under a higher term, the old one obeys it."""
    async with open_data_cluster(["n1", "n2", "n3"]) as cluster:
        await settled(cluster)
        await filled(cluster, "n1")
        await cluster["n1"].kill()
        with trio.fail_after(30):
            record = await cluster["n3"].balancer.verbs.promote()
        assert (record.epoch.term.number, record.epoch.term.node) == (2, N3)
        await until(is_calm(cluster, "n2", "n3"))
        await cluster["n2"].balancer.create_collection(Collection(name="c", id="1", dimension=2, distance="Dot"))
        shown = await cluster["n2"].balancer.verbs.show()
        assert (shown.issuer, shown.answers, shown.term) == (N3, True, 2)
        with pytest.raises(UsageError, match="already"):
            await cluster["n3"].balancer.verbs.promote()
        await cluster.restart("n1")
        await until(is_calm(cluster, "n1", "n3"))
        assert not cluster["n1"].balancer.machine.is_issuer
        assert await all_there(cluster, "n1")


async def test_a_promotion_without_a_majority_fails_names_the_silent_and_changes_nothing(
    autojump_clock: MockClock,
) -> None:
    """One of three promises; the old issuer, back again, finds its role outbid and takes it anew."""
    async with open_data_cluster(["n1", "n2", "n3"]) as cluster:
        await settled(cluster)
        for name in ("n1", "n2"):
            await cluster[name].kill()
        with pytest.raises(PromotionFailed, match=r"not enough nodes promised: .*silent: n1, n2"):
            await cluster["n3"].balancer.verbs.promote()
        assert cluster["n3"].balancer.epoch.term.node == N1
        for name in ("n1", "n2"):
            await cluster.restart(name)
        await cluster.add("n4")
        await until(lambda: cluster["n3"].balancer.epoch.term.number > 2 and N4 in weights(cluster, "n3"))
        assert cluster["n3"].balancer.epoch.term.node == N1


async def test_a_forced_promotion_gives_up_exactly_the_members_that_were_named(autojump_clock: MockClock) -> None:
    """Other names than those of the silent are refused; with the right ones the survivor is alone and serves."""
    async with open_data_cluster(["n1", "n2", "n3"]) as cluster:
        await settled(cluster)
        await filled(cluster, "n1")
        for name in ("n1", "n2"):
            await cluster[name].kill()
        verbs = cluster["n3"].balancer.verbs
        with pytest.raises(PromotionFailed, match="others than you named: n1, n2"):
            await verbs.promote([N1])
        with trio.fail_after(60):
            await verbs.promote([N1, N2])
        await until(lambda: weights(cluster, "n3") == {N3: 100} and is_calm(cluster, "n3", "n3")())
        assert cluster["n3"].balancer.placement.record.removed == (N1, N2)
        assert await all_there(cluster, "n3")


async def test_a_successor_that_dies_gives_the_role_back(autojump_clock: MockClock) -> None:
    """The hand-over was signed and the successor never took over: the old issuer promotes itself, and says so."""
    async with open_data_cluster(["n1", "n2", "n3"]) as cluster:
        await settled(cluster)
        cluster["n2"].balancer.machine.promote = lambda _now_s: []  # type: ignore[method-assign]
        with pytest.raises(IssuerNeeded, match="n2 did not take over"):
            await cluster["n1"].balancer.verbs.hand_over(N2)
        assert cluster["n1"].balancer.machine.is_issuer
        assert cluster["n1"].balancer.placement.record.successor is None


async def test_a_key_is_given_up_only_by_a_removal_that_begins(autojump_clock: MockClock) -> None:
    """The issuer has none: refused; with the word for it as well while too few members live, and nothing is noted."""
    async with open_data_cluster(["n1", "n2", "n3"]) as cluster:
        await settled(cluster)
        verbs, steps = cluster["n1"].balancer.verbs, cluster["n1"].balancer.machine.steps
        given_up: list[bool] = []
        steps.may_remove = lambda: bool(given_up)
        verbs.accept_keyless = lambda: given_up.append(True)
        await cluster["n3"].kill()
        with pytest.raises(LossNeeded, match="may have the only key"):
            await verbs.remove(N3)
        await cluster["n2"].kill()
        with pytest.raises(LossNeeded, match="too few living members"):
            await verbs.remove(N3, accepts_keyless=True)
        assert given_up == []
        await verbs.remove(N3, accepts_loss=True, accepts_keyless=True)
        assert given_up == [True]


async def test_who_cannot_have_the_role_is_told_why(autojump_clock: MockClock) -> None:
    """Newcomers are asked to come again, since they serve before they are on the ring; the dead are not found."""
    async with open_data_cluster(["n1", "n2"]) as cluster:
        await settled(cluster)
        await cluster.add("n3")
        hand_over = cluster["n1"].balancer.verbs.hand_over
        with pytest.raises(NotReady, match="n3 is not on the ring yet"):
            await hand_over(N3)
        await settled(cluster)
        await cluster["n2"].kill()
        with pytest.raises(NotFound, match="n2 is not alive"):
            await hand_over(N2)
        with trio.fail_after(60):
            await hand_over(N3)
        assert cluster["n3"].balancer.machine.is_issuer


@pytest.mark.parametrize("factors", [(5, 3), (3, 1), (1, 3)])
async def test_the_factor_of_a_running_cluster_changes_without_loss(
    autojump_clock: MockClock, factors: Sequence[int]
) -> None:
    """Of the cluster and of a collection; afterwards each unit is on as many nodes, and all answers at quorum."""
    async with open_data_cluster(["n1", "n2", "n3", "n4", "n5"]) as cluster:
        await settled(cluster)
        await cluster["n2"].balancer.create_collection(Collection(name="c", id="1", dimension=2, distance="Dot"))
        verbs = cluster["n3"].balancer.verbs
        for factor in factors:
            await verbs.change_factor(CLUSTER, factor)
            await verbs.change_factor("c", factor)

            def is_done(wanted: int = factor) -> bool:
                record = cluster["n3"].balancer.placement.record
                held = (record.replication_factor, record.collections[0].replication_factor)
                return held == (wanted, wanted) and is_calm(cluster, "n3", "n1")()

            await until(is_done)
            if factor == factors[0]:
                await filled(cluster, "n1")
        assert {len(cluster["n1"].balancer.sets(unit).current) for unit in UNITS} == {factors[1]}
        assert len(cluster["n1"].balancer.sets(UnitId("vector/1/0")).current) == factors[1]
        assert await all_there(cluster, "n4")


async def test_a_factor_out_of_range_or_of_nothing_is_refused(autojump_clock: MockClock) -> None:
    """Nothing is queued."""
    async with open_data_cluster(["n1"]) as cluster:
        await settled(cluster)
        verbs = cluster["n1"].balancer.verbs
        errors: list[FrysError] = []
        for name, factor in ((CLUSTER, 0), (CLUSTER, 8), ("nothing", 2)):
            with pytest.raises((UsageError, NotFound)) as refusal:
                await verbs.change_factor(name, factor)
            errors.append(refusal.value)
        assert [error.status for error in errors] == [400, 400, 404]
        assert cluster["n1"].balancer.machine.steps.changes.factors == ()


async def test_the_role_goes_to_nobody_whom_only_a_record_speaks_for(autojump_clock: MockClock) -> None:
    """An issuer that leaves passes it over, whatever its rank, and hands the role to the next."""
    async with open_data_cluster(["n1", "n2", "n3"]) as cluster:
        await settled(cluster)
        verbs = cluster["n1"].balancer.verbs
        assert verbs.successor() == N2
        verbs.is_admitted = lambda node: node != N2
        assert verbs.successor() == NodeId("n3")
        verbs.is_admitted = lambda _node: False
        assert verbs.successor() is None
