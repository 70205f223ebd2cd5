"""Claims about members: precedence, the join of tables (M5), and monotone identities (M4, M9)."""

from __future__ import annotations

import random
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from frys_node.base.types import Address, NodeId
from membership.member import make_attributes, precedence, supersedes
from membership.messages import Attributes, Standing, Update
from membership.table import Roster, Table, fingerprint

SELF = NodeId("0" * 32)
NODES = [NodeId(f"{index:032x}") for index in range(3)]


def attributes(name: str = "a", **tags: str) -> Attributes:
    """Make attributes that differ by name or tags."""
    return make_attributes(name, Address("10.0.0.1", 7946), tags=tags)


updates = st.builds(
    Update,
    node=st.sampled_from(NODES),
    boot=st.integers(0, 2),
    incarnation=st.integers(0, 2),
    standing=st.sampled_from(Standing),
    attributes=st.sampled_from([attributes("a"), attributes("b"), attributes("a", zone="x")]),
    accuser=st.sampled_from([NodeId(""), NODES[0]]),
)


def merged(claims: list[Update]) -> list[tuple[object, ...]]:
    """Merge claims in order and return what the table holds."""
    table = Table(SELF)
    for update in claims:
        table.merge(update, 0.0)
    return [(m.node, *precedence(m.update)) for m in table.sorted()]


@given(st.lists(updates, max_size=12), st.randoms(use_true_random=False))
def test_merging_in_any_order_gives_the_same_table(claims: list[Update], rng: random.Random) -> None:
    """The join is commutative and associative: every permutation ends alike."""
    shuffled = list(claims)
    rng.shuffle(shuffled)
    assert merged(claims) == merged(shuffled)


@given(st.lists(updates, max_size=8), st.lists(updates, max_size=8))
def test_merging_twice_changes_nothing(first: list[Update], second: list[Update]) -> None:
    """The join is idempotent, also when whole batches are repeated in between."""
    assert merged(first + second) == merged(first + second + first + second)


@given(st.lists(updates, max_size=12))
def test_a_claim_never_goes_back(claims: list[Update]) -> None:
    """The held claim only rises, so the dead stay dead until a higher (boot, incarnation) is seen."""
    table = Table(SELF)
    for update in claims:
        before = table.get(update.node)
        held = precedence(before.update) if before else None
        table.merge(update, 0.0)
        after = table.get(update.node)
        assert after is not None
        assert held is None or precedence(after.update) >= held
        assert precedence(after.update) >= precedence(update)


@given(st.lists(updates, max_size=12), st.randoms(use_true_random=False))
def test_equal_tables_have_equal_digests_and_counts(claims: list[Update], rng: random.Random) -> None:
    """The digest depends on what the live members say of themselves, not on the way it was learnt."""
    tables = Table(SELF), Table(SELF)
    shuffled = list(claims)
    rng.shuffle(shuffled)
    for table, order in zip(tables, (claims, shuffled), strict=True):
        for update in order:
            table.merge(update, 0.0)
        live = [m.update for m in table if m.is_live]
        digest = 0
        for update in live:
            digest ^= fingerprint(update)
        assert table.digest == digest
        assert sum(table.counts.values()) == len(table)
        assert sorted(table.live) == sorted(u.node for u in live if u.node != SELF)
    assert tables[0].digest == tables[1].digest


def test_precedence_is_boot_then_incarnation_then_standing() -> None:
    """A restart beats everything of the former boot; among equals LEFT beats DEAD beats SUSPECT beats ALIVE."""
    ladder = [
        Update(NODES[0], boot, incarnation, standing, attributes())
        for boot in (1, 2)
        for incarnation in (0, 1)
        for standing in Standing
    ]
    for low, high in pairwise(ladder):
        assert supersedes(high, low)
        assert not supersedes(low, high)


def test_a_suspicion_does_not_change_the_digest() -> None:
    """Who is under suspicion is passing news and no reason to exchange whole tables."""
    alive = Update(NODES[1], 1, 0, Standing.ALIVE, attributes())
    table = Table(SELF)
    table.merge(alive, 0.0)
    before = table.digest
    table.merge(Update(NODES[1], 1, 0, Standing.SUSPECT, attributes(), NODES[2]), 0.0)
    assert table.digest == before
    table.merge(Update(NODES[1], 1, 0, Standing.DEAD, attributes()), 0.0)
    assert table.digest == 0


def test_the_age_of_a_death_travels() -> None:
    """A tombstone heard from another member is as old here as it was there, so it is not kept for ever in circles."""
    table = Table(SELF)
    table.merge(Update(NODES[1], 1, 0, Standing.DEAD, attributes(), age_s=100), 1_000.0)
    member = table.get(NODES[1])
    assert member is not None
    assert member.changed_s == 900.0
    assert member.update.age_s == 0


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20))), st.integers(0, 25), st.integers(0, 3))
def test_roster_samples_distinct_members_and_no_excluded_ones(
    steps: list[tuple[bool, int]], count: int, excluded: int
) -> None:
    """Whatever was added and removed, a sample is as large as it can be and holds only what it may."""
    roster, model = Roster(), set()
    for is_add, number in steps:
        node = NodeId(str(number))
        (roster.add if is_add else roster.discard)(node)
        (model.add if is_add else model.discard)(node)
    assert set(roster) == model
    exclude = tuple(NodeId(str(number)) for number in range(excluded))
    sample = roster.sample(random.Random(1), count, exclude)
    assert len(sample) == len(set(sample)) == min(count, len(model - set(exclude)))
    assert set(sample) <= model - set(exclude)
