"""Crash evidence in whole simulated clusters: what must be known at once, and what must never be taken for a crash.

The numbers F1 to F17 are those of the study of false deaths that the rules come from; those that one machine can show
are in ``tests/unit/membership``.
"""

from __future__ import annotations

import pytest
from membership_lab import LAN, Lab, gone_by_filter

from frys_node.kernel.services.members import UNWELL, Condition, Status
from frys_node.testing.membership_node import MembershipNode, node_id
from membership.config import for_profile


@pytest.mark.parametrize("count", [3, 4, 5, 10, 20])
def test_a_killed_process_is_dead_everywhere_within_a_second(count: int) -> None:
    """Lifeline lost, refused at two observers: the short suspicion and a few rounds of gossip, at every size."""
    lab = Lab(count)
    assert 0.5 <= lab.kill(["n1"], 1.0) <= 1.0
    assert lab.tally("veto_datagram") == 0


def test_two_members_need_one_observer() -> None:
    """Two accusers means as many as there are others: of two nodes the survivor is alone."""
    assert Lab(2).kill(["n1"], 0.7) >= 0.5


def test_a_kill_is_known_under_heavy_loss() -> None:
    """20 % of all packets lost, TCP included: raced SYNs, repeated FINs, nudges on a peer's evidence."""
    took = [Lab(10, loss=0.2, seed=seed).kill(["n3"], 6.0) for seed in range(6)]
    assert sorted(took)[len(took) // 2] <= 1.2


def test_three_neighbours_die_together() -> None:
    """Whose watchers died with it is reported by helpers further round the circle."""
    lab = Lab(13)
    assert lab.kill(["n4", "n5", "n6"], 1.2) >= 0.5
    assert lab.tally("crash_mass") == 0


def test_many_crashes_at_once_are_judged_as_silence() -> None:
    """F15: more than a quarter of the members in five seconds has a cause in between: no short suspicion."""
    lab = Lab(10)
    took = lab.kill(["n1", "n3", "n5", "n7"], 30.0)
    assert took > 2.0
    assert lab.tally("crash_mass") > 0


def test_a_partition_by_refusals_kills_nobody_fast() -> None:
    """F15: both halves refuse each other's connections at one instant; everybody is silent, nobody has crashed."""
    lab = Lab(12)
    halves = lab.names[::2], lab.names[1::2]
    number = lab.simulator.partition(*halves)
    for here, there in (halves, halves[::-1]):
        for subject in here:
            gone_by_filter(lab, subject, [name for name in there if lab.lines.holds(name, subject)])
    lab.run(1.5)
    assert all(not lab.told(Status.DEAD, name) for name in lab.names)
    lab.lines.accept()
    lab.simulator.heal(number)
    lab.wait(lambda: all(lab.sees(name, Status.ALIVE) == 11 for name in lab.names), 20.0)


@pytest.mark.parametrize("loss", [0.0, 0.2])
@pytest.mark.parametrize("pause_s", [2.0, 5.0, 10.0, 20.0])
def test_a_stopped_process_leaves_no_crash_evidence(pause_s: float, loss: float) -> None:
    """F1: its kernel holds its connections and acknowledges: STALLED, never DEAD, and it accuses nobody itself."""
    lab = Lab(10, loss=loss)
    lab.simulator.pause("n2")
    lab.run(pause_s)
    assert lab.tally("lifeline_lost") == lab.tally("crash_observed") == 0
    assert lab.told(Status.DEAD, "n2") == []
    if pause_s >= 5.0:
        node = node_id(lab.simulator.host("n2"))
        views = [shell.machine.view(node) for name, shell in lab.shells.items() if name != "n2"]
        assert all(view is not None and view.condition is Condition.STALLED for view in views)
    resumed_s = lab.simulator.now_s
    lab.simulator.resume("n2")
    lab.wait(lambda: lab.sees("n2", Status.ALIVE) == 9, 0.5 if not loss else 2.0)
    lab.run(3.0)
    others = [name for name in lab.names if name != "n2"]
    assert all(not lab.told(Status.DEAD, name) for name in others)
    assert loss or all(not lab.told(Status.SUSPECT, name, resumed_s) for name in others)


@pytest.mark.parametrize("profile", ["local", "lan"])
@pytest.mark.parametrize("count", [3, 4, 10])
def test_a_stopped_process_is_vouched_for_before_it_is_buried(count: int, profile: str) -> None:
    """Few nodes and short suspicions leave little time to wait for an answer of a process that may be busy."""
    for seed in range(4):
        lab = Lab(count, seed=seed, config=for_profile(profile))
        lab.simulator.pause("n1")
        lab.run(10.0)
        assert lab.told(Status.DEAD, "n1") == []
        assert lab.conditions("n1") == {Condition.STALLED}


def test_a_process_that_stands_still_too_long_is_dead() -> None:
    """Its kernel speaks for it for `stall_max_s` after it was suspected, and no longer."""
    lab = Lab(10)
    lab.simulator.pause("n2")
    took_s = lab.wait(lambda: lab.sees("n2", Status.DEAD) == 9, 60.0)
    assert 30.0 <= took_s <= 45.0


@pytest.mark.parametrize("pause_s", [6.0, 10.0, 15.0])
def test_a_stopped_process_that_is_killed_is_dead_as_soon_as_any_other(pause_s: float) -> None:
    """What its watchers said of it while it was stopped is no objection to its crash."""
    lab = Lab(10)
    lab.simulator.pause("n3")
    lab.run(pause_s)
    assert lab.tally("vouch_kernel") > 0
    assert 0.5 <= lab.kill(["n3"], 1.0) <= 1.0


@pytest.mark.parametrize("gap_s", [0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.45, 0.6])
def test_a_quick_restart_is_never_taken_for_its_own_death(gap_s: float) -> None:
    """F2: evidence names the boot; the next life on the same port is met within a second and never called dead."""
    lab = Lab(10)
    lab.simulator.crash("n5")
    lab.run(gap_s)
    lab.simulator.restart("n5")
    boot = lab.shells["n5"].boot
    started_s = lab.simulator.now_s
    node = node_id(lab.simulator.host("n5"))

    def knows_the_new_life(shell: MembershipNode) -> bool:
        view = shell.machine.view(node)
        return view is not None and view.boot == boot and view.status is Status.ALIVE

    lab.wait(lambda: all(knows_the_new_life(shell) for shell in lab.up()), 3.0)
    met_s = lab.simulator.now_s
    lab.run(3.0)
    assert lab.told(Status.DEAD, "n5", met_s) == []
    if gap_s < 0.5:
        assert lab.told(Status.DEAD, "n5", started_s) == []


def test_one_refused_watcher_is_no_crash() -> None:
    """F4: one accuser raises a suspicion, and the accused refutes it."""
    lab = Lab(10)
    gone_by_filter(lab, "n3", lab.watchers("n3")[:1])
    lab.run(10.0)
    assert lab.told(Status.DEAD, "n3") == []
    assert lab.tally("crash_proven") == 0
    assert lab.sees("n3", Status.ALIVE) == 9


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("with_udp", [False, True])
def test_refused_watchers_do_not_kill_the_living(count: int, with_udp: bool) -> None:
    """F5: two or three watchers behind a filter, with and without their packets: the accused answers for itself."""
    lab = Lab(10)
    watchers = lab.watchers("n3")[:count]
    if with_udp:
        lab.simulator.partition(watchers, ["n3"])
    gone_by_filter(lab, "n3", watchers)
    lab.run(8.0)
    assert lab.told(Status.DEAD, "n3") == []


def test_refusing_everybody_while_packets_pass_kills_nobody() -> None:
    """F6, F8: the listener is closed towards all, and the process lives: a packet of that very boot is a veto."""
    lab = Lab(10)
    gone_by_filter(lab, "n3", [name for name in lab.names if name != "n3"])
    # In three seeds of ten gossip takes longer than half a second to bring two watchers' word to everybody.
    lab.wait(lambda: lab.conditions("n3") == {Condition.DEGRADED}, 2.0)
    for _ in range(120):
        assert lab.conditions("n3") == {Condition.DEGRADED}
        lab.run(0.5)
    assert lab.told(Status.DEAD, "n3") == []
    assert lab.sees("n3", Status.ALIVE) == 9
    assert lab.tally("crash_observed") >= 2
    lab.lines.accept()
    lab.wait(lambda: lab.conditions("n3") == {Condition.OK}, 7.0)


def test_one_watcher_that_is_refused_makes_nobody_degraded_or_immortal() -> None:
    """Its own filter may be to blame: the others' lifelines stand, and tell of a crash as ever."""
    lab = Lab(10)
    gone_by_filter(lab, "n3", lab.watchers("n3")[:1])
    lab.run(60.0)
    assert lab.conditions("n3") == {Condition.OK}
    assert lab.kill(["n3"], 1.0) >= 0.5


def test_unreachable_for_all_is_dead() -> None:
    """F7: refused by TCP and UDP everywhere, a member is gone in fact; leases fence what it still does."""
    lab = Lab(10)
    others = [name for name in lab.names if name != "n3"]
    lab.simulator.partition(others, ["n3"])
    gone_by_filter(lab, "n3", others)
    lab.wait(lambda: lab.sees("n3", Status.DEAD) == 9, 1.2)


def test_lifelines_cut_in_the_middle_are_made_anew() -> None:
    """F9: the listener answers with the same boot: no evidence at all."""
    lab = Lab(10)
    for name in lab.watchers("n3")[:3]:
        lab.lines.cut_line(name, "n3")
    lab.run(2.0)
    assert lab.tally("lifeline_lost") == 3
    assert lab.tally("crash_observed") == 0
    assert lab.told(Status.SUSPECT, "n3") == []
    assert all(lab.lines.holds(name, "n3") for name in lab.watchers("n3")[:3])


def test_a_stopped_process_with_two_cut_lifelines_is_saved_by_the_third() -> None:
    """F10: it cannot refute, and there are no helpers; its kernel acknowledges the third watcher's nudge."""
    lab = Lab(4)
    lab.simulator.pause("n3")
    gone_by_filter(lab, "n3", lab.watchers("n3")[:2])
    lab.run(10.0)
    assert lab.tally("veto_lifeline") >= 1
    assert lab.told(Status.DEAD, "n3") == []


def test_a_stopped_process_with_all_lifelines_cut_is_saved_by_helpers() -> None:
    """F11: helpers connect, its kernel accepts: the crash is void, and they vouch for it as long as it is suspect."""
    lab = Lab(10)
    lab.simulator.pause("n3")
    gone_by_filter(lab, "n3", lab.watchers("n3")[:3])
    lab.run(LAN.stall_max_s - 1.0)
    assert lab.tally("veto_helper") >= 1
    assert lab.told(Status.DEAD, "n3") == []
    assert lab.conditions("n3") == {Condition.STALLED}
    lab.simulator.resume("n3")
    lab.wait(lambda: lab.sees("n3", Status.ALIVE) == 9, 0.5)
    assert lab.told(Status.DEAD, "n3") == []


@pytest.mark.parametrize("loss", [0.0, 0.2])
def test_a_stopped_process_whose_lifelines_were_cut_is_stalled(loss: float) -> None:
    """There is no connection to ask on, and its port accepts: it is not GONE, and its watchers vouch for it."""
    lab = Lab(10, loss=loss)
    lab.simulator.pause("n3")
    for watcher in lab.watchers("n3")[:3]:
        lab.lines.cut_line(watcher, "n3")
    lab.run(LAN.stall_max_s - 2.0)
    assert lab.told(Status.DEAD, "n3") == []
    assert lab.conditions("n3") == {Condition.STALLED}
    assert loss or lab.tally("accused_gone") == 0
    lab.simulator.resume("n3")
    lab.wait(lambda: lab.sees("n3", Status.ALIVE) == 9, 2.0)


@pytest.mark.parametrize("kind", ["both", "deaf", "mute"])
def test_a_member_that_has_lost_only_its_packets_is_degraded(kind: str) -> None:
    """It answers on its lifelines: its watchers say so, and nobody buries or goes on accusing it. A kill is known."""
    lab = Lab(10)
    others = [name for name in lab.names if name != "n3"]
    lab.lines.spare(others, "n3")
    if kind == "mute":
        lab.simulator.partition(["n3"], others, one_way=True)
    else:
        lab.simulator.partition(others, ["n3"], one_way=kind == "deaf")
    lab.run(5.0)
    for _ in range(200):
        lab.run(0.5)
        assert lab.conditions("n3") == {Condition.DEGRADED}
    assert all(not lab.told(Status.DEAD, name) for name in lab.names)
    # Those that it watches are slow to itself.
    assert all(lab.conditions(name) <= {Condition.OK, Condition.SLOW} for name in others)
    assert len(lab.told(Status.SUSPECT, "n3", 10.0)) == 0
    assert lab.kill(["n3"], 1.0) >= 0.5


def test_a_member_without_packets_outlives_the_restart_of_its_watchers() -> None:
    """Their next lives have never had a beat answered: they ask on the lifeline when somebody accuses it."""
    lab = Lab(10)
    lab.lines.spare([name for name in lab.names if name != "n3"], "n3")
    lab.simulator.partition([name for name in lab.names if name != "n3"], ["n3"])
    lab.run(10.0)
    for watcher in lab.watchers("n3")[:3]:
        lab.simulator.crash(watcher)
        lab.simulator.restart(watcher)
        lab.run(3.0)
    lab.run(60.0)
    assert lab.told(Status.DEAD, "n3") == []
    assert lab.conditions("n3") == {Condition.DEGRADED}


def test_one_watcher_whose_packets_are_lost_does_not_mark_the_member() -> None:
    """It is answered on its lifeline: one edge, no stall for the whole cluster, and crash evidence as ever."""
    lab = Lab(10)
    watcher = lab.watchers("n3")[0]
    lab.lines.spare([watcher], "n3")
    lab.simulator.partition([watcher], ["n3"])
    lab.run(30.0)
    assert lab.conditions("n3") <= {Condition.OK, Condition.SLOW}
    assert not lab.told(Status.SUSPECT, "n3")
    assert lab.tally("vouch_kernel") == 0
    assert lab.kill(["n3"], 1.0) >= 0.5


def test_a_port_that_goes_on_refusing_is_held_against_a_member_once() -> None:
    """F14: after a refutation only a lifeline that was made anew, and lost again, is new evidence."""
    lab = Lab(10)
    gone_by_filter(lab, "n3", lab.watchers("n3")[:3])
    lab.run(3.0)
    observed, accused = lab.tally("crash_observed"), len(lab.told(Status.SUSPECT, "n3"))
    assert observed
    lab.run(60.0)
    assert lab.tally("crash_observed") == observed
    assert len(lab.told(Status.SUSPECT, "n3")) == accused


def test_a_host_that_vanishes_is_gone_sooner_than_by_probes_alone() -> None:
    """Nothing answers, not even its kernel: the watchers' class of evidence, GONE, within the study's five seconds."""
    lab = Lab(20)
    lab.simulator.partition(["n7"], [name for name in lab.names if name != "n7"])
    took_s = lab.wait(lambda: lab.sees("n7", Status.DEAD) >= 19, 9.0)
    assert 3.0 <= took_s <= 7.0
    assert lab.tally("accused_gone") >= 1


def test_suspect_only_never_shortens_a_suspicion() -> None:
    """The off-switch: `suspect-only` raises a suspicion at once and leaves it its length, `off` raises none."""
    lab = Lab(5, config=for_profile("lan", crash_evidence="suspect-only"))
    assert lab.kill(["n1"], 30.0) > 2.0
    assert lab.tally("lifeline_lost") == 3
    lab = Lab(5, config=for_profile("lan", crash_evidence="off"))
    assert lab.kill(["n1"], 30.0) > 2.0
    assert lab.tally("lifeline_lost") == 0


def test_a_goodbye_is_no_crash() -> None:
    """A node that leaves ends its lifelines with notice."""
    lab = Lab(5)
    lab.simulator.inject("n2", "leave")
    lab.wait(lambda: lab.sees("n2", Status.LEFT) == 4, 2.0)
    lab.simulator.crash("n2")
    lab.run(3.0)
    assert lab.tally("lifeline_lost") == lab.tally("crash_observed") == 0
    assert not lab.told(Status.SUSPECT, "n2")


@pytest.mark.parametrize("count", [5, 12])
def test_the_last_process_buries_the_others_whose_hosts_refuse(count: int) -> None:
    """All others are killed at once: hosts that refuse are an answer, so the survivor is not isolated for ever."""
    lab = Lab(count)
    for name in lab.names[1:]:
        lab.simulator.crash(name)
    lab.wait(lambda: all(lab.sees(name, Status.DEAD) == 1 for name in lab.names[1:]), 300.0)


def test_the_last_host_with_power_keeps_the_others_and_asks_nothing_of_them() -> None:
    """It cannot tell their loss from its own cable's: isolated, it buries nobody and takes all for unwell."""
    lab = Lab(6)
    for name in lab.names[1:]:
        lab.simulator.partition([name], ["n0"])
        lab.simulator.crash(name)
    lab.run(60.0)
    machine = lab.shells["n0"].machine
    own = machine.view(machine.node)
    assert own is not None
    assert own.condition is Condition.ISOLATED
    others = [node_id(lab.simulator.host(name)) for name in lab.names[1:]]
    assert all(lab.sees(name, Status.DEAD) == 0 for name in lab.names[1:])
    assert {machine.rank(node) for node in others} == {UNWELL}


@pytest.mark.parametrize(("count", "lost", "limit_s"), [(2, 1, 6.0), (3, 1, 6.0), (3, 2, 8.0), (4, 2, 8.0)])
def test_lost_hosts_of_small_clusters_are_known_in_time(count: int, lost: int, limit_s: float) -> None:
    """Nobody else may be left to declare it: what the loss does to the survivor's probes must not make it wait."""
    lab = Lab(count)
    gone = lab.names[-lost:]
    for name in gone:
        for other in lab.names:
            if other != name:
                lab.simulator.partition([name], [other])
        lab.simulator.crash(name)
    survivors = count - lost
    lab.wait(lambda: all(lab.sees(name, Status.DEAD) == survivors for name in gone), limit_s)
