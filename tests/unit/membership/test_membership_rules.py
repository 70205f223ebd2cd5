"""Numbers that are rules: each at its boundary, with literal values, so that none can drift."""

from __future__ import annotations

from itertools import pairwise

import pytest
from membership_hands import BOOT, B, C, D, claim, hear, machine, run_to, said, signing

from frys_node.base.types import NodeId
from membership.config import for_profile
from membership.effects import PushPull, Tallies
from membership.errors import GossipTooFast
from membership.isolation import Isolation
from membership.machine import Membership
from membership.messages import Gossip, Sync
from membership.phi import Beats
from membership.rumours import Rumours
from membership.state import States
from membership.testimony import CrashReport

QUIET = for_profile("lan", probe_interval_s=600.0, watch_interval_s=600.0, watchers=0, lha_probe=False)
"""Without probes and beats, which nobody answers here."""


def others(count: int) -> list[NodeId]:
    """Ids of so many members."""
    return [NodeId(f"{number:032x}") for number in range(1, count + 1)]


def test_three_mute_probes_of_nine_are_no_isolation_and_four_are() -> None:
    """More than a third of the last nine probes, whatever was before."""
    isolation = Isolation()
    for _ in range(20):
        isolation.observe(B, is_mute=False, node_count=10)
    for node in (B, C, D):
        isolation.observe(node, is_mute=True, node_count=10)
    assert not isolation.is_isolated
    assert isolation.observe(B, is_mute=True, node_count=10)
    assert isolation.account == "no ack and no nack for 4 of the last 9 probes, of 3 members"


@pytest.mark.parametrize(("within_s", "is_mass"), [(4.0, True), (5.0, True), (5.1, False), (6.0, False)])
def test_crashes_count_together_within_five_seconds(within_s: float, is_mass: bool) -> None:
    """E8: three of nine members, each reported once; the third report so long after the first."""
    nodes = others(8)
    m = machine(*nodes, config=QUIET)
    run_to(m, 6.0)
    for number, victim in enumerate(nodes[:3]):
        now_s = 6.0 + within_s * number / 2.0
        run_to(m, now_s)
        observer = nodes[4 + number]
        rumour = said(CrashReport(victim, BOOT, 0, observer, True))
        hear(m, Gossip((), (rumour,)), observer, now_s)
    assert bool(m.tallies.events.get(("crash_mass",))) is is_mass


def test_phi_remembers_sixty_intervals() -> None:
    """A late beat is in the mean with the 59 after it, and forgotten with the 60th."""
    window = Beats(1.0, pause_s=0.5, sd_min_s=0.1, now_s=0.0)
    window.beat(0.0)
    now_s = 2.5
    window.beat(now_s)
    for _ in range(59):
        now_s += 1.0
        window.beat(now_s)
    assert window.mean_s == pytest.approx((2.5 + 59.0) / 60.0)
    window.beat(now_s + 1.0)
    assert window.mean_s == pytest.approx(1.0)


def exchanges(m: Membership, until_s: float) -> list[float]:
    """When the machine begins a state exchange."""
    found = []
    while m.next_deadline_s <= until_s:
        now_s = m.next_deadline_s
        found += [now_s for effect in m.advance(now_s) if isinstance(effect, PushPull)]
    return found


@pytest.mark.parametrize(("nodes", "interval_s"), [(16, 30.0), (32, 30.0), (64, 60.0), (256, 120.0)])
def test_state_exchanges_are_stretched_with_the_cluster(nodes: int, interval_s: float) -> None:
    """By log2(n) - 4, and never shortened: every 30 s up to 32 members, give or take a tenth."""
    members = others(nodes - 1)
    m = machine(config=QUIET)
    m.merge_sync(Sync(tuple(claim(node) for node in members)), members[0], 0.0)
    at_s = exchanges(m, 590.0)
    pauses = [after_s - before_s for before_s, after_s in pairwise(at_s)]
    assert len(pauses) >= 3
    assert all(0.9 * interval_s <= pause_s <= 1.1 * interval_s for pause_s in pauses)


def changes(states: States, now_s: float) -> int:
    """How many changes a node may make at an instant."""
    for count in range(1_000):
        try:
            states.put("k", b"", now_s)
        except GossipTooFast:
            return count
    raise AssertionError("without end")


def test_a_node_changes_its_state_128_times_at_once_and_then_20_times_a_second() -> None:
    """What is not used is in reserve, up to the 128."""
    tallies = Tallies()
    states = States(B, BOOT, Rumours(1_000, tallies, signing(B)), 1_000, tallies, signing(B))
    assert [changes(states, now_s) for now_s in (0.0, 1.0, 1.5, 1_000.0)] == [128, 20, 10, 128]
