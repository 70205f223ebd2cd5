"""What the balancer counts."""

from __future__ import annotations

from balancer.topology import TopologyMachine
from frys_node.observe.metrics import Metrics


def measure(metrics: Metrics, machine: TopologyMachine) -> None:
    """Show how steps fare."""
    steps = machine.steps
    metrics.counter(
        "frys_balancer_step_aborts_total",
        "Steps that this node, as the issuer, took back",
        source=lambda: float(steps.abort_count),
    )
    metrics.gauge(
        "frys_balancer_changes_waiting",
        "Joins, leaves and removals that wait at the issuer",
        source=lambda: float(len(steps.waiting)),
    )
    metrics.gauge(
        "frys_balancer_members_bypassed",
        "Members that were dead when the ring changed and have not got their places back",
        source=lambda: float(len(machine.record.bypassed) if machine.record else 0),
    )
    metrics.gauge(
        "frys_balancer_frozen",
        "1 after two records with one key were seen: no record of that term is taken any more",
        source=lambda: float(machine.frozen is not None),
    )
    metrics.gauge(
        "frys_balancer_ring_epoch",
        "Sequence number of the record in force",
        source=lambda: float(machine.epoch.seq if machine.epoch else 0),
    )
