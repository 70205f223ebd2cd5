"""Links that break in one direction or flip on and off: the healthy are not called dead for it.

Sans-I/O. Each seed blames one in ten nodes, and four seeds in a row have their links misbehave in the four ways: deaf
(nothing arrives), mute (nothing leaves), both, or a single pair that does not hear one another; steadily, or flipping
every 1, 5 or 20 seconds (the cases of Suresh et al., "Rapid", ATC 2018). The blamed may be called dead. Nobody else
may, except by the blamed.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from frys_node.testing.membership_cluster import Cluster
from frys_node.testing.scenario import ScenarioResult

KINDS = ("deaf", "mute", "both", "pair")
PERIODS_S = (0.0, 1.0, 5.0, 20.0)
"""How long a link is down, and then up; 0 is down all the time."""


class _Trouble:
    """Cuts and mends the links of the blamed."""

    def __init__(self, cluster: Cluster, end_s: float) -> None:
        self._cluster = cluster
        self._end_s = end_s
        rng, names = cluster.rng, cluster.names
        self.kind = KINDS[cluster.simulator.seed % len(KINDS)]
        self._period_s = rng.choice(PERIODS_S)
        self._bad = rng.sample(names, max(1, len(names) // 10))
        self._good = [name for name in names if name not in self._bad]
        if self.kind == "pair":
            # Everybody else reaches both of them: nobody is to be called dead, so nobody is blamed.
            self._bad, self._good = self._bad[:1], self._good[:1]
        else:
            cluster.verdicts.blamed.update(self._bad)
        cluster.summary["links"] = f"{self.kind} of {','.join(self._bad)}, period {self._period_s:g} s"
        cluster.simulator.reach(f"link_{self.kind}")
        cluster.simulator.reach("link_flips" if self._period_s else "link_steady")

    def _pairs(self) -> Iterator[tuple[list[str], list[str]]]:
        if self.kind in ("deaf", "both"):
            yield self._good, self._bad
        if self.kind in ("mute", "both", "pair"):
            yield self._bad, self._good

    def cut(self) -> None:
        """Break the links, to be mended after a period."""
        simulator = self._cluster.simulator
        if simulator.now_s >= self._end_s:
            return
        numbers = [simulator.partition(a, b, one_way=True) for a, b in self._pairs()]
        if self._period_s:
            simulator.at(simulator.now_s + self._period_s, partial(self._mend, numbers))

    def _mend(self, numbers: list[int]) -> None:
        simulator = self._cluster.simulator
        for number in numbers:
            simulator.heal(number)
        simulator.at(simulator.now_s + self._period_s, self.cut)


def run_scenario(nodes: int, seconds: float, seed: int, faults: str) -> ScenarioResult:
    """Run one seed."""
    cluster = Cluster("links", nodes, seconds, seed, faults, starts=False)

    def trouble() -> None:
        cluster.start_acquainted()
        cluster.run(5.0)
        end_s = cluster.simulator.now_s + seconds
        _Trouble(cluster, end_s).cut()
        cluster.simulator.run_until(end_s)
        cluster.measure("false_deaths_at_healthy", [float(cluster.verdicts.counts["false_dead_at_healthy"])])

    def heal() -> None:
        cluster.simulator.make_whole()
        bound_s = 20.0 * cluster.config.reconnect_interval_s + 2.0 * cluster.spread_s()
        cluster.measure("settled_s", [cluster.agree(bound_s, "M6: the views do not agree")])

    return cluster.report([trouble, heal, cluster.merge_all])
