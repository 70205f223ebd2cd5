"""Every scenario by name: what it claims, its size, what a batch of its seeds must show, and the plan of them all.

Sans-I/O.
"""

from __future__ import annotations

from typing import NamedTuple

from frys_node.testing.scenario import Scenario, Target

SCENARIOS: dict[str, Scenario] = {
    "membership": Scenario(
        module="membership_scenario",
        claim="under every fault M1-M9 hold, and all views agree again afterwards",
        faults="chaos",
        must_reach=(
            "refutation",
            "refuted_death",
            "saved_by_helper",
            "confirmation",
            "restart_with_higher_boot",
            "returned",
            "pause",
            "death",
            "crash_proven",
            "accused_gone",
            "vouch_kernel",
            "accused_in_brief",
        ),
        reach_seeds=60,
    ),
    "lifeguard": Scenario(
        module="membership_lifeguard",
        claim="stalled members cost the healthy almost nothing: Lifeguard against our own SWIM on equal seeds",
        nodes=128,
        seconds=120.0,
        must_reach=("refutation", "refuted_death", "confirmation", "death"),
        reach_seeds=1,
        targets=(
            Target("lifeguard/FP", "sum", 0.02, per="swim/FP"),
            Target("lifeguard/FP-", "sum", 0.02, per="swim/FP-"),
            Target("lifeguard/messages", "sum", 1.2, per="swim/messages"),
            Target("lifeguard/first_s", "p50", 1.05, per="swim/first_s"),
        ),
    ),
    "scale": Scenario(
        module="membership_scale",
        claim="a thousand members: crashes known within SWIM's bound, load independent of the size",
        nodes=1_000,
        must_reach=("death", "confirmation", "restarted"),
        reach_seeds=1,
    ),
    "starved": Scenario(
        module="membership_starved",
        claim="200 nodes that start on a starved machine call next to nobody dead",
        nodes=200,
        must_reach=("pause",),
        reach_seeds=1,
        targets=(Target("false_deaths", "max", 10.0),),
    ),
    "loss": Scenario(
        module="membership_loss",
        claim="ten minutes of steady loss: nobody who runs is called dead",
        nodes=30,
        seconds=600.0,
        faults="loss20",
        must_reach=("saved_by_helper", "refutation", "suspicion"),
        reach_seeds=1,
        targets=(Target("false_deaths", "max", 0.0),),
    ),
    "links": Scenario(
        module="membership_links",
        claim="deaf, mute and flipping links: the healthy do not call the healthy dead",
        nodes=20,
        must_reach=(
            *("link_deaf", "link_mute", "link_both", "link_pair", "link_flips", "link_steady", "refutation"),
            *("accusation_withheld", "isolated", "rejoined"),
        ),
        targets=(Target("false_deaths_at_healthy", "max", 0.0),),
    ),
    "restarts": Scenario(
        module="membership_restarts",
        claim="rolling and mass restarts: the cluster is whole again by itself",
        nodes=10,
        seconds=5.0,
        must_reach=("rolled", "blacked_out", "restart_with_higher_boot"),
        reach_seeds=4,
        targets=(Target("false_deaths", "max", 0.0), Target("whole_s", "max", 5.0)),
    ),
    "clocks": Scenario(
        module="membership_clocks",
        claim="wall clocks that step change nothing; who restarts with a clock stepped back is believed after a minute",
        nodes=10,
        must_reach=("edge_refused_after_step_back", "edge_after_step_back", "edge_forgotten_after_step_back"),
        reach_seeds=2,
        # `membership.edges.EDGE_TTL_S`, and 15 s for probes and gossip.
        targets=(Target("false_deaths", "max", 0.0), Target("edge_settled_s", "max", 75.0)),
    ),
    "idle": Scenario(
        module="membership_idle",
        claim="a day without work: no false death, small traffic",
        nodes=20,
        seconds=86_400.0,
        faults="lan",
        targets=(Target("false_deaths", "max", 0.0), Target("bytes_per_node_s", "max", 600.0)),
    ),
    "heal": Scenario(
        module="membership_heal",
        claim="halves that were apart for 40 s are one cluster within a second, five at worst",
        nodes=10,
        seconds=40.0,
        must_reach=("half_called_dead", "refuted_death", "returned"),
        targets=(Target("heal_s", "p50", 1.0), Target("heal_s", "p99", 5.0)),
    ),
    "flapping": Scenario(
        module="membership_flapping",
        claim="4 of 20 stop, are cut off or crash over and over: a steady observer publishes each death once",
        nodes=20,
        seconds=80.0,
        must_reach=("flap_stop", "flap_cut", "flap_crash", "pause", "vouch_kernel", "damped", "change_damped"),
        reach_seeds=3,
        targets=(
            Target("dead_events_stop", "max", 0.0),
            # Once at each of the 16 others; at the 4 themselves, who see the other 3, once in each of 3 times 30 s.
            Target("dead_events_at_steady_cut", "max", 64.0),
            Target("dead_events_cut", "max", 100.0),
            # A flapper in a crash loop remembers nothing: only what the 16 say is bounded by their number.
            Target("dead_events_at_steady_crash", "max", 64.0),
            Target("false_deaths_at_healthy", "max", 0.0),
        ),
    ),
    "rejects": Scenario(
        module="membership_rejects",
        claim="refusing filters, cut lifelines, quick restarts, mass ends: nobody who runs is called dead",
        nodes=10,
        seconds=5.0,
        must_reach=(
            *("veto_datagram", "veto_helper", "veto_lifeline", "vouch_port", "vouch_kernel", "edge_down"),
            *("crash_observed", "crash_replaced", "crash_mass"),
        ),
        reach_seeds=5,
        targets=(Target("false_deaths", "max", 0.0),),
    ),
    "hostloss": Scenario(
        module="membership_hostloss",
        claim="a host that vanishes without a word is known to all in five seconds",
        nodes=20,
        seconds=15.0,
        must_reach=("death", "confirmation"),
        targets=(Target("dead_at_all_s", "p50", 5.0), Target("false_deaths", "max", 0.0)),
    ),
    "leave": Scenario(
        module="membership_goodbye",
        claim="a leave is LEFT at all within half a second, in clusters of 2 to 20",
        nodes=20,
        seconds=5.0,
        must_reach=("left_a_small_cluster",),
        targets=(Target("left_at_all_s", "max", 0.5),),
    ),
    "join": Scenario(
        module="membership_join",
        claim="20 nodes that start together all know all within 0.4 s",
        nodes=20,
        seconds=20.0,
        targets=(Target("join_s", "max", 0.4),),
    ),
    "insider": Scenario(
        module="membership_insider",
        claim="one lying member buries, moves and silences nobody, whatever it forges",
        nodes=7,
        seconds=60.0,
        must_reach=(
            *("lie_accused", "lie_accused_by_another", "lie_dead", "lie_dead_twice_by_one", "lie_used_up"),
            *("lie_dead_at_a_later_incarnation", "lie_moved", "lie_left", "lie_let_go", "lie_rebooted"),
            *("lie_crashed", "lie_vouched", "lie_event", "lie_all_dead", "lie_all_dead_and_gone", "refutation"),
        ),
        targets=(Target("false_deaths", "max", 0.0),),
    ),
    "gossip": Scenario(
        module="gossip_scenario",
        claim="every event once at every member, every query answered, state equal everywhere",
        nodes=20,
        seconds=40.0,
        faults="chaos",
        must_reach=("event_cut_off", "state_cut_off", "state_gap", "event_known", "digest_differs"),
    ),
    "replication": Scenario(
        module="replication_scenario",
        claim="no acknowledged write is lost, no delete comes back, no two moves at once, and all replicas agree",
        faults="chaos",
        must_reach=(
            "aborted",
            "asked_factor",
            "asked_hand_over",
            "asked_promote",
            "asked_remove",
            "clock_far_off",
            "copied_by_chunks",
            "copy_held_back",
            "dead_passed_over",
            "ended_dark",
            "evicted",
            "log_removed",
            "log_rotted",
            "purge_agreed",
            "refused_by_epoch",
            "refused_clock_drift",
            "refused_too_old",
            "restamped",
            "signed_joint",
            "taken_over",
            "tombstones_freed",
            "unit_lost",
        ),
        reach_seeds=200,
        sums=("acked", "reads", "scans", "failed"),
    ),
    "swarm": Scenario(
        module="swarm_scenario", claim="the simulator itself: durable counters that gossip", faults="chaos"
    ),
}


class Entry(NamedTuple):
    """One batch of the plan. None is the scenario's own."""

    scenario: str
    seeds: int
    budget_s: float
    nodes: int | None = None
    seconds: float | None = None
    faults: str | None = None


PLAN = (
    Entry("membership", 400, 1_200.0, nodes=7),
    Entry("membership", 60, 600.0, nodes=20),
    Entry("membership", 30, 300.0, nodes=7, faults="none"),
    Entry("membership", 60, 3_600.0, nodes=100),
    Entry("lifeguard", 2, 1_800.0),
    Entry("scale", 1, 120.0),
    Entry("starved", 1, 300.0),
    Entry("loss", 2, 600.0, faults="loss20"),
    Entry("loss", 2, 600.0, faults="loss40"),
    Entry("links", 40, 300.0),
    Entry("restarts", 20, 60.0),
    Entry("clocks", 20, 60.0),
    Entry("idle", 1, 900.0),
    Entry("heal", 100, 120.0),
    Entry("flapping", 12, 400.0),
    Entry("rejects", 40, 120.0),
    Entry("hostloss", 40, 120.0),
    Entry("leave", 100, 120.0),
    Entry("join", 50, 60.0),
    Entry("insider", 40, 600.0),
    Entry("gossip", 50, 900.0),
    Entry("replication", 10_000, 7_200.0, nodes=7, seconds=20.0),
)
"""What `make sim` runs, with the seconds after which a batch begins no further seed."""
