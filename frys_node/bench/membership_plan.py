"""The scenarios of the membership benchmark: how many nodes, how many rounds, what is read and what the goal is.

Ordered so that scenarios of one size follow each other and share their clusters, the kills first. `seconds` is what a
round costs with serf beside us; it decides what still fits into the default run.
"""

from __future__ import annotations

from typing import NamedTuple

from frys_node.bench import membership_rounds as rounds
from frys_node.bench.membership_report import Metric
from frys_node.bench.membership_rounds import Play, Spec, in_turn, together

FALSE_DEATHS = Metric("false_deaths", "deaths of nodes that live", "", 0, 0)


class Scenario(NamedTuple):
    """One line of work: a fault, the clusters that it strikes, and what is read."""

    key: str
    title: str
    nodes: int
    rounds: int
    """Of a default run; 0: only with --full."""
    rounds_full: int
    seconds: float
    play: Play | None
    """None: the start of the clusters is what is measured."""
    spec: Spec
    metrics: tuple[Metric, ...]
    profile: str = "lan"
    relay: tuple[float, float] | None = None
    """Delay and jitter in milliseconds, one way, between any two nodes."""


def deaths(p50_max: float | None, tail_max: float | None = None) -> tuple[Metric, ...]:
    """What is read of a death."""
    return (
        Metric("first_suspect_s", "first suspicion", "s"),
        Metric("first_dead_s", "dead at the first", "s"),
        Metric("all_dead_s", "dead at all survivors", "s", p50_max, tail_max),
        FALSE_DEATHS,
    )


def paused(seconds: float, *, unstalled_max: float | None = None, back_max: float | None = None) -> tuple[Metric, ...]:
    """What is read of a pause: nobody may bury a process whose kernel answers."""
    return (
        Metric("marked_dead_at", f"nodes that bury one stopped for {seconds:g} s", "", 0, 0),
        Metric("not_stalled_at", "nodes that never call it stalled", "", unstalled_max, unstalled_max),
        Metric("back_s", "back at all after it runs on", "s", back_max),
        Metric("accusations", "accusations by the woken", "", 0, 0),
        FALSE_DEATHS,
    )


LEFT = (
    Metric("goodbye_to_all_s", "first word of the leave to all", "s", 0.5, 0.5),
    Metric("request_to_all_s", "request to all (ours moves its units first)", "s"),
    Metric("wrong_words", "deaths of the one that left", "", 0, 0),
    FALSE_DEATHS,
)
EVENT = (Metric("to_all_s", "first reader to all readers", "s", 0.35),)
IDLE = (
    Metric("udp_bps", "sent per node, gossip", "B/s", 600),
    Metric("all_bps", "sent per node, all", "B/s"),
    Metric("packets_ps", "packets per node", "1/s"),
    Metric("cpu_percent", "CPU per node", "% core"),
    Metric("rss_mib", "resident memory per node", "MiB"),
    FALSE_DEATHS,
)
LOSS = (FALSE_DEATHS, Metric("suspicions", "suspicions written (serf: by the prober only)", ""))
FLAP = (Metric("death_events", "deaths of the four announced", "", 76, 76), FALSE_DEATHS)
# The four see few of each other's returns, and may announce each other once in 30 s.
FLAP_CUT = (Metric("death_events", "deaths of the four announced", "", 76, 100), FALSE_DEATHS)
CUT = Spec(80, is_cut=True)
JOIN = (
    Metric("from_contact_s", "the last has met one to all know all", "s"),
    Metric("from_listen_s", "all listen to all know all", "s", 0.4),
    Metric("from_start_s", "first start to all know all", "s"),
)
HEAL = (Metric("heal_s", "healed to all alive again", "s", 1.0, 5.0),)

STOP20 = paused(20, unstalled_max=0, back_max=0.2)

KILL, SILENCE, LEAVE = map(together, (rounds.kill, rounds.silence, rounds.leave))
# A command line of ours costs more than the event itself: it must not run beside the other side's event.
USER_EVENT = in_turn(rounds.event)

SCENARIOS: tuple[Scenario, ...] = (
    Scenario("kill-5", "kill -9, 5 nodes", 5, 20, 40, 7.2, KILL, Spec(), deaths(0.7, 1.2)),
    Scenario("kill-10", "kill -9, 10 nodes", 10, 20, 40, 7.2, KILL, Spec(), deaths(0.7, 1.2)),
    Scenario("kill-loss-10", "kill -9 at 20 % loss", 10, 4, 20, 7.5, KILL, Spec(loss=20), deaths(0.9)),
    Scenario("silence-10", "a host falls silent, 10 nodes", 10, 3, 20, 7, SILENCE, Spec(), deaths(5.0)),
    Scenario("event-10", "user event, 10 nodes", 10, 3, 20, 1, USER_EVENT, Spec(limit_s=10, event=True), EVENT),
    Scenario("idle-10", "nothing happens, 10 nodes", 10, 1, 10, 27, rounds.idle, Spec(20), IDLE),
    Scenario("stop5-10", "SIGSTOP for 5 s", 10, 1, 10, 17, rounds.pause, Spec(5), paused(5)),
    Scenario("stop20-10", "SIGSTOP for 20 s", 10, 1, 10, 32, rounds.pause, Spec(20), STOP20),
    Scenario("leave-10", "graceful leave, 10 nodes", 10, 3, 50, 6, LEAVE, Spec(limit_s=20), LEFT),
    Scenario("partition-10", "5 and 5 apart, then healed", 10, 1, 20, 35, rounds.partition, Spec(20), HEAL),
    Scenario("kill-4", "kill -9, three survive", 4, 4, 20, 8, KILL, Spec(), deaths(0.7)),
    Scenario("kill-busy-4", "kill -9, 2 busy processes a core", 4, 3, 20, 8, KILL, Spec(is_busy=True), deaths(0.7)),
    Scenario("join-20", "19 join one at once", 20, 1, 10, 30, None, Spec(), JOIN),
    Scenario("kill-20", "kill -9, 20 nodes", 20, 20, 30, 8.5, KILL, Spec(), deaths(0.7, 1.2)),
    Scenario("silence-20", "a host falls silent, 20 nodes", 20, 3, 20, 10, SILENCE, Spec(), deaths(5.0)),
    Scenario("loss20-10", "20 % loss, 10 nodes", 10, 0, 10, 62, rounds.endure, Spec(60, loss=20), LOSS),
    Scenario("loss40-10", "40 % loss, 10 nodes", 10, 0, 10, 62, rounds.endure, Spec(60, loss=40), LOSS),
    Scenario("kill-3", "kill -9, two survive", 3, 0, 20, 10, KILL, Spec(), deaths(0.7)),
    Scenario("leave-4", "graceful leave, 4 nodes", 4, 0, 50, 16, LEAVE, Spec(limit_s=20), LEFT),
    Scenario("idle-20", "nothing happens for 10 minutes, 20 nodes", 20, 0, 1, 610, rounds.idle, Spec(600), IDLE),
    Scenario("flap-20", "4 of 20 stop 8 s, run 0.5 s, for 80 s", 20, 0, 3, 90, rounds.flap, Spec(80), FLAP),
    Scenario("flap-cut-20", "4 of 20 cut off 8 s, back 0.5 s, for 80 s", 20, 0, 3, 100, rounds.flap, CUT, FLAP_CUT),
    Scenario(
        "wan-5", "kill -9, 40 +- 20 ms apart", 5, 0, 5, 75, KILL, Spec(limit_s=120), deaths(None), "wan", (40.0, 20.0)
    ),
)
