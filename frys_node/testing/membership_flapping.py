"""Some nodes come and go, over and over: how many deaths that costs those who listen.

Sans-I/O. One in five is gone 8 s and there half a second, in one of three ways by the seed. Stopped (``stop``): their
kernels answer, so that nobody calls them dead at all. Cut off (``cut``) or in a crash loop (``crash``): every observer
calls each of them dead at every turn, and rightly so; damping keeps that from the subscribers, who hear of each once.
A flapper is an observer too, and sees few of the others' returns: what holds there, and whatever happens, is the rule
of `membership.damping` that an observer, as long as it lives, publishes a member's death once in 30 s.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from itertools import pairwise

from frys_node.base.types import NodeId
from frys_node.testing.membership_cluster import Cluster
from frys_node.testing.scenario import ScenarioResult

OFF_S, ON_S = 8.0, 0.5
RULE_S = 30.0
"""One death per observer and member in this time, whatever happens."""

ROUNDING_S = 1e-6

KINDS = ("stop", "cut", "crash")


class _Flappers:
    """Lets nodes come and go."""

    def __init__(self, cluster: Cluster, kind: str) -> None:
        self._cluster = cluster
        self._kind = kind
        self._cuts: dict[str, int] = {}

    def go(self, name: str) -> None:
        """Be gone, in the way of this run."""
        simulator = self._cluster.simulator
        if self._kind == "stop":
            simulator.pause(name)
        elif self._kind == "crash":
            simulator.crash(name)
        else:
            self._cuts[name] = simulator.partition([name], [other for other in self._cluster.names if other != name])

    def come(self, name: str) -> None:
        """Be back."""
        simulator = self._cluster.simulator
        verbs: dict[str, Callable[[str], None]] = {"stop": simulator.resume, "crash": simulator.restart}
        if self._kind in verbs:
            verbs[self._kind](name)
        else:
            simulator.heal(self._cuts.pop(name))


def run_scenario(nodes: int, seconds: float, seed: int, faults: str) -> ScenarioResult:
    """Run one seed: one in five flaps for `seconds`."""
    cluster = Cluster("flapping", nodes, seconds, seed, faults, starts=False)
    simulator, verdicts = cluster.simulator, cluster.verdicts
    kind = KINDS[seed % len(KINDS)]
    cluster.summary["kind"] = kind

    def flap() -> None:
        cluster.start_acquainted()
        cluster.run(10.0)
        names = cluster.rng.sample(cluster.names, max(1, nodes // 5))
        verdicts.blamed.update(names)
        flappers = _Flappers(cluster, kind)
        start_s = simulator.now_s
        for name in names:
            at_s = start_s + cluster.rng.uniform(0.0, 1.0)
            while at_s < start_s + seconds:
                simulator.at(at_s, partial(flappers.go, name))
                simulator.at(at_s + OFF_S, partial(flappers.come, name))
                at_s += OFF_S + ON_S
        simulator.run_until(start_s + seconds + OFF_S + 1.0)
        simulator.reach(f"flap_{kind}")
        cluster.measure(f"verdicts_{kind}", [float(verdicts.counts["dead"])])
        steady = {cluster.id_of(name) for name in cluster.names if name not in names}
        at_steady = sum(observer in steady for _, observer, _, _ in verdicts.published)
        cluster.measure(f"dead_events_{kind}", [float(verdicts.counts["dead_published"])])
        cluster.measure(f"dead_events_at_steady_{kind}", [float(at_steady)])
        cluster.measure("false_deaths_at_healthy", [float(verdicts.counts["false_dead_at_healthy"])])

    def keep_the_rule() -> None:
        """No observer, as long as it lives, has published a member's death twice in `RULE_S`."""
        said: dict[tuple[NodeId, int, NodeId], list[float]] = defaultdict(list)
        for at_s, observer, boot, member in verdicts.published:
            said[observer, boot, member].append(at_s)
        for (observer, _, member), times_s in said.items():
            for earlier_s, later_s in pairwise(times_s):
                text = f"{observer} published the death of {member} at {earlier_s:.2f} s and at {later_s:.2f} s"
                simulator.check(later_s - earlier_s >= RULE_S - ROUNDING_S, text)

    def calm() -> None:
        # Damping may keep a flapper suspect for its own good while it settles.
        cluster.measure("settled_s", [cluster.agree(180.0, "M6: the views do not agree")])

    return cluster.report([flap, keep_the_rule, calm, cluster.merge_all])
