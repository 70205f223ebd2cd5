"""What a seed of the replication scenario draws: cluster, units of both kinds, strength of repair, faults.

Sans-I/O. Durable units are the shards of one collection; units in memory are the cache's. One seed in sixteen is
*crowded*: so many units in memory that the queues of a node fill when all of them refill at once.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import msgspec

from balancer.placement import cache_unit, shards_of
from balancer.record import FORMAT, STABLE, TopologyRecord
from balancer.spread import RingMember
from frys_node.base.types import ClusterId, Epoch, NodeId, Term, UnitId
from frys_node.kernel.services.topology import Collection
from frys_node.testing.faults import FaultProfile

NODES_MAX = 6
CROWDED_EVERY = 16
"""Every so manyeth seed is crowded."""

CROWD_UNITS = 96
"""Units in memory of a crowded seed: at factor 3 a node asks for twice as many refills as pulls may be under way."""

RATES_BYTES_S = (0.0, 0.0, 64_000.0, 256_000.0)
"""Rates of moves that seeds draw, to their end. At the lower one a newcomer gets three or four small units a second."""

CROWD_RATE = 8.0
"""So many times the rate, for there are as many more units to copy before a step is done."""

WEAKER = 50.0
"""Weak anti-entropy works at 2 % of its rate."""

BUSY_UNITS_MAX = 3
"""Units in memory that clients use; the others only take part in restarts and moves."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a seed draws; printed with the result."""

    names: tuple[NodeId, ...]
    initial: int
    """Nodes on the ring at first."""
    units: int
    """Durable units."""
    memory_units: int
    memory_share: float
    """Share of requests that go to units in memory."""
    keys: int
    """Keys in use of each unit: few are overwritten often, of many an old version stays long enough to be seen."""
    replication_factor: int
    keeps_hints: bool
    repairs_reads: bool
    sync_interval_s: float
    fsync_s: float
    catches_up: bool
    operation_s: float
    """Mean pause between client requests."""
    change_s: float
    """Mean pause between joins and leaves."""
    directed: float
    """Chance that a signed record is followed at once by cuts around the members of its old sets."""
    cuts_restarts: float
    """Chance that a restart is followed at once by a cut around another node: units in memory refill without it."""
    operator_s: float
    """Mean pause between an operator's acts: removals, other replication factors, takeovers by another issuer."""
    steps_year: bool
    drift_max_s: float
    """Clocks further ahead than this are refused."""
    gc_min_age_s: float
    gc_interval_s: float
    """Pause between looks for tombstones to free."""
    loses_log: bool
    """One node loses the log of its durable units once, and keeps the rest of its disk."""
    is_patient: bool
    """Steps have the patience of the product, not that of many steps a minute."""
    mourned: NodeId | None
    """A node that dies early and stays dead to the end, while the ring goes on changing."""
    bulk_by_chunks: bool
    """The bulk of durable units goes by chunks of a snapshot, as in a node; else by messages, as that of the cache."""
    memory_room: int | None
    """Entries that a replica of a unit in memory has room for; beyond it any goes, and a floor stays. None: all."""
    moves_rate_bytes_s: float
    """What copies by messages are held to, of units in memory always; 0: nothing."""
    ends_dark: bool
    """The last fault is an outage of the whole cluster, so that nothing but recovery follows it."""


Shape = Callable[[Plan], Plan]
"""Bends what a seed has drawn, so that an error of one sort shows sooner: `targeted`, `crowded`, `forgetful`,
`evicting`, `purging` or `losing`."""


def draw_plan(nodes: int, seed: int) -> Plan:
    """Return the plan of a seed for a cluster of at most `nodes`."""
    rng = random.Random(f"{seed}/plan")
    count = rng.randint(min(3, nodes), max(1, min(nodes, NODES_MAX)))
    is_weak = rng.random() < 0.5
    return _with_memory(
        seed,
        Plan(
            names=tuple(NodeId(f"n{number}") for number in range(count)),
            initial=rng.randint(1, min(4, count)),
            units=rng.randint(1, 2),
            memory_units=1,
            memory_share=0.0,
            keys=4,
            replication_factor=rng.choice((1, 2, 3, 3, 3, 4)),
            keeps_hints=not is_weak and rng.random() < 0.7,
            repairs_reads=not is_weak and rng.random() < 0.7,
            sync_interval_s=rng.choice((0.5, 5.0, 50.0)) * (WEAKER if is_weak else 1.0),
            fsync_s=rng.choice((0.005, 0.05, 0.3)),
            catches_up=not is_weak and seed % 2 == 0,
            operation_s=rng.uniform(0.03, 0.12),
            change_s=rng.uniform(1.5, 6.0),
            directed=rng.choice((0.0, 0.0, 0.5, 1.0)),
            cuts_restarts=0.0,
            operator_s=math.inf,
            steps_year=rng.random() < 0.1,
            is_patient=False,
            mourned=None,
            bulk_by_chunks=False,
            memory_room=None,
            moves_rate_bytes_s=0.0,
            ends_dark=False,
            drift_max_s=60.0,
            gc_min_age_s=math.inf,
            gc_interval_s=math.inf,
            loses_log=False,
        ),
    )


def _with_memory(seed: int, plan: Plan) -> Plan:
    """Add the units in memory, from a generator of their own: what was drawn for the durable ones stays."""
    rng = random.Random(f"{seed}/plan/memory")
    plan = msgspec.structs.replace(
        plan,
        memory_units=rng.randint(1, 4),
        memory_share=rng.uniform(0.1, 0.6),
        ends_dark=rng.random() < 0.25,
        cuts_restarts=rng.choice((0.0, 0.0, 0.5)),
    )
    rng = random.Random(f"{seed}/plan/operator")
    plan = msgspec.structs.replace(plan, operator_s=rng.choice((math.inf, 2.0, 4.0, 8.0)))
    plan = _with_dead(seed, _with_floors(seed, plan))
    return crowded(plan) if seed % CROWDED_EVERY == 1 else plan


def _with_floors(seed: int, plan: Plan) -> Plan:
    """Add clocks that are refused, the freeing of tombstones, and a lost log."""
    rng = random.Random(f"{seed}/plan/floors")
    return msgspec.structs.replace(
        plan,
        drift_max_s=rng.choice((2.0, 20.0, 60.0)),
        gc_min_age_s=rng.choice((0.3, 1.0, 4.0)),
        gc_interval_s=rng.choice((0.3, 1.0, 3.0, math.inf)),
        loses_log=rng.random() < 0.2,
    )


def _with_dead(seed: int, plan: Plan) -> Plan:
    """Add the patience of the product, and one member of four or more that dies for good."""
    rng = random.Random(f"{seed}/plan/dead")
    is_patient, dies = rng.random() < 0.5, rng.random() < 0.3
    mourned = rng.choice(plan.names[1:]) if dies and len(plan.names) > 3 else None
    copies = random.Random(f"{seed}/plan/copies")
    pace = random.Random(f"{seed}/plan/pace")
    return msgspec.structs.replace(
        plan,
        is_patient=is_patient,
        mourned=mourned,
        bulk_by_chunks=copies.random() < 0.5,
        memory_room=copies.choice((None, None, None, 2, 3)),
        moves_rate_bytes_s=pace.choice(RATES_BYTES_S),
    )


def mourning(plan: Plan) -> Plan:
    """Return the plan of four members of which one dies for good while others join, leave and are removed."""
    return msgspec.structs.replace(
        plan,
        initial=min(4, len(plan.names)),
        units=2,
        memory_units=8,
        memory_share=0.3,
        replication_factor=3,
        operation_s=0.1,
        change_s=4.0,
        operator_s=math.inf,
        directed=0.0,
        cuts_restarts=0.0,
        is_patient=True,
        mourned=plan.names[min(3, len(plan.names) - 1)],
        ends_dark=False,
        loses_log=False,
    )


def crowded(plan: Plan) -> Plan:
    """Return the plan with so many units in memory, on so many nodes, that queues fill; restarts catch up."""
    return msgspec.structs.replace(
        plan,
        initial=max(plan.initial, min(3, len(plan.names))),
        replication_factor=3,
        memory_units=CROWD_UNITS,
        catches_up=True,
        change_s=max(plan.change_s, 6.0),
        moves_rate_bytes_s=plan.moves_rate_bytes_s * CROWD_RATE,
        ends_dark=True,
    )


def targeted(plan: Plan) -> Plan:
    """Return the plan with nothing that repairs, many changes, and cuts at each signed record: for planted errors."""
    return msgspec.structs.replace(
        plan,
        units=1,
        memory_units=1,
        memory_share=0.0,
        cuts_restarts=0.0,
        ends_dark=False,
        replication_factor=min(plan.replication_factor, 3),
        keeps_hints=False,
        repairs_reads=False,
        sync_interval_s=math.inf,
        catches_up=False,
        operation_s=0.04,
        change_s=1.0,
        operator_s=math.inf,
        directed=1.0,
        drift_max_s=60.0,
        gc_interval_s=math.inf,
        is_patient=False,
        mourned=None,
        bulk_by_chunks=False,
        memory_room=None,
        moves_rate_bytes_s=0.0,
        loses_log=False,
    )


def contested(plan: Plan) -> Plan:
    """Return the targeted plan with an operator who acts every second: for errors in takeovers."""
    return msgspec.structs.replace(
        targeted(plan), initial=min(3, len(plan.names)), keys=32, operator_s=1.0, change_s=2.0
    )


def operated(plan: Plan) -> Plan:
    """Return that plan with fewer cuts, so that more steps end: for errors in removals and factors."""
    return msgspec.structs.replace(contested(plan), operator_s=1.5, change_s=3.0, directed=min(plan.directed, 0.3))


def forgetful(plan: Plan) -> Plan:
    """Return the plan with nearly all work on one unit in memory, nothing that repairs, and cuts at each restart."""
    return msgspec.structs.replace(
        plan,
        initial=max(plan.initial, min(3, len(plan.names))),
        units=1,
        memory_units=1,
        memory_share=0.95,
        keys=64,
        replication_factor=3,
        keeps_hints=False,
        repairs_reads=False,
        sync_interval_s=math.inf,
        operation_s=0.04,
        operator_s=math.inf,
        cuts_restarts=1.0,
        directed=0.0,
        drift_max_s=60.0,
        gc_interval_s=math.inf,
        is_patient=False,
        mourned=None,
        bulk_by_chunks=False,
        memory_room=None,
        moves_rate_bytes_s=0.0,
        loses_log=False,
    )


def evicting(plan: Plan) -> Plan:
    """Return the plan of `forgetful` with less room than keys, and refills that find their sources."""
    return msgspec.structs.replace(forgetful(plan), keys=48, memory_room=40, operation_s=0.05, cuts_restarts=0.0)


def purging(plan: Plan) -> Plan:
    """Return the plan with one durable unit, tombstones freed as soon as may be, and nothing that repairs."""
    return msgspec.structs.replace(
        plan,
        initial=max(plan.initial, min(3, len(plan.names))),
        units=1,
        memory_units=1,
        memory_share=0.0,
        keys=32,
        replication_factor=3,
        keeps_hints=False,
        repairs_reads=False,
        sync_interval_s=math.inf,
        catches_up=False,
        operation_s=0.03,
        change_s=3.0,
        cuts_restarts=0.0,
        ends_dark=False,
        drift_max_s=60.0,
        gc_min_age_s=0.3,
        gc_interval_s=0.3,
        is_patient=False,
        mourned=None,
        bulk_by_chunks=False,
        memory_room=None,
        moves_rate_bytes_s=0.0,
        loses_log=False,
    )


def losing(plan: Plan) -> Plan:
    """Return the plan of `purging` with a log that is removed, and nothing freed."""
    return msgspec.structs.replace(purging(plan), gc_interval_s=math.inf, loses_log=True, change_s=30.0)


def sharpened(profile: FaultProfile) -> FaultProfile:
    """Return the profile with faults as dense as protocol steps are here: seconds, not minutes."""
    return msgspec.structs.replace(
        profile,
        late_s=3.0,
        loss=profile.loss * 1.5,
        partitions_per_min=profile.partitions_per_min * 4,
        partition_s=2.0,
        pauses_per_min=profile.pauses_per_min * 4,
        pause_s=1.5,
        slow_per_min=profile.slow_per_min * 2,
        crashes_per_min=profile.crashes_per_min * 8,
        down_s=3.0,
        clock_steps_per_min=profile.clock_steps_per_min * 6,
        outages_per_min=profile.outages_per_min * 3,
        disk_full_per_min=profile.crashes_per_min * 2,
    )


def first_record(plan: Plan) -> TopologyRecord:
    """Return the record under which the cluster begins."""
    ring = tuple(RingMember(node=name) for name in plan.names[: plan.initial])
    return TopologyRecord(
        format=FORMAT,
        cluster=ClusterId("c" * 32),
        epoch=Epoch(Term(1, plan.names[0]), 1),
        phase=STABLE,
        ring=ring,
        next_ring=ring,
        partitions=plan.memory_units,
        replication_factor=plan.replication_factor,
        vnodes=8,
        collections=(_collection(plan),),
    )


def _collection(plan: Plan) -> Collection:
    return Collection(
        name="c",
        id="c",
        dimension=2,
        distance="Dot",
        shard_number=plan.units,
        replication_factor=plan.replication_factor,
    )


def durable_units(plan: Plan) -> list[UnitId]:
    """Return the units that must keep everything."""
    return shards_of(_collection(plan))


def memory_units(plan: Plan) -> list[UnitId]:
    """Return the units that may lose what their holders lose."""
    return [cache_unit(number) for number in range(plan.memory_units)]
