"""Changes of the ring while a member is dead for good, in the simulator, with the patience of the product."""

from __future__ import annotations

from balancer.absence import Absence
from balancer.placement import Placement
from balancer.record import TopologyRecord
from balancer.steps import StepConfig, Steps
from balancer.topology import TopologyMachine
from frys_node.base.types import Epoch, NodeId
from frys_node.testing.replication_node import ReplicationNode
from frys_node.testing.replication_plan import mourning
from frys_node.testing.replication_scenario import run_scenario
from frys_node.testing.scenario import ScenarioResult

SECONDS = 40.0
STEP_MAX_S = 12.0
"""On calm wires: a death is seen, seconds of patience with who died under way, and two tries."""

SEEDS = (1, 6, 9, 11)
"""With four members or more, and steps in which the dead member would gain something."""


class Believing(Absence):
    """The issuer plans as if everybody lived."""

    def absent(self, record: TopologyRecord, now_s: float, patience_s: float) -> list[NodeId]:
        return []


class WaitsForTheDead(Steps):
    """Steps as they were: the dead are given units, and waited for."""

    def __init__(self, node: NodeId, config: StepConfig | None = None) -> None:
        super().__init__(node, config)
        self.absence = Believing(node)

    def adopted(self, placement: Placement, settled: Epoch | None, now_s: float) -> None:
        super().adopted(placement, settled, now_s)
        self._taking = {}


class BelievingNode(ReplicationNode):
    """A node with those steps."""

    def make_topology(self) -> TopologyMachine:
        machine = super().make_topology()
        machine.steps = WaitsForTheDead(self.name, machine.config.steps)
        return machine


def mourn(seed: int, node_class: type[ReplicationNode] = ReplicationNode) -> ScenarioResult:
    """Run a seed in which one member dies early and stays dead while others join and leave."""
    return run_scenario(7, SECONDS, seed, "none", shape=mourning, node_class=node_class)


def test_steps_end_within_seconds_while_a_member_stays_dead() -> None:
    """Joins and leaves go on around it, nothing acknowledged is lost, and in the end it has its places back."""
    passed_over = 0
    for seed in SEEDS:
        result = mourn(seed)
        assert result.violations == []
        assert len(result.figures["step_s"]) > 4
        assert max(result.figures["step_s"]) < STEP_MAX_S
        passed_over += result.sometimes.get("dead_passed_over", 0)
    assert passed_over


def test_an_issuer_that_plans_as_if_all_lived_is_caught() -> None:
    """The planted error: its step waits for the dead until the run is over."""
    stuck = [seed for seed in SEEDS if max(mourn(seed, BelievingNode).figures["step_s"]) > STEP_MAX_S]
    assert stuck
