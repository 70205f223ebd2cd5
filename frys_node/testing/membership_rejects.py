"""Filters that refuse and cut connections, quick restarts, many ends at once: crash evidence that must not kill.

Sans-I/O. One act after the other, with other victims each seed: a filter closes a member's port to everybody while
packets pass; a stopped member is refused to all its watchers, or to all others but one watcher, and their connections
are cut; a process is back before its end has been judged; more than a quarter of the members end at once. Nobody who
runs is called dead.
"""

from __future__ import annotations

from frys_node.testing.membership_cluster import Cluster, dead_count
from frys_node.testing.scenario import ScenarioResult

FILTER_S = 8.0
"""How long a filter stands: longer than a suspicion of a crash lasts, much longer than one of silence without acks."""

QUICK_RESTARTS = 3
RESTART_S_MAX = 0.3
"""Longest gap of a quick restart; each of them is drawn from its own part of that time."""

MASS_SHARE = 0.4
"""Of the members that end at once; more than a quarter is no crash of each."""


class _Acts:
    """What is done to the victims."""

    def __init__(self, cluster: Cluster, calm_s: float) -> None:
        assert cluster.lifelines is not None
        self._cluster = cluster
        self._lines = cluster.lifelines
        self._calm_s = calm_s

    def _victim(self) -> tuple[str, list[str]]:
        """A member and all others, its watchers first: they follow it in the circle."""
        names = self._cluster.names
        at = self._cluster.rng.randrange(len(names))
        return names[at], [names[(at + step) % len(names)] for step in range(1, len(names))]

    def _filter(self, subject: str, watchers: list[str]) -> None:
        self._lines.reject(watchers, subject)
        for watcher in watchers:
            self._lines.cut_line(watcher, subject)

    def _whole(self) -> None:
        self._lines.accept()
        self._cluster.agree(self._cluster.detection_bound_s(), "M6: the views do not agree")
        self._cluster.run(self._calm_s)

    def close_a_port(self) -> None:
        """Everybody's connections are refused, packets pass: the member answers for itself."""
        victim, others = self._victim()
        self._filter(victim, others)
        self._cluster.run(FILTER_S)
        self._whole()

    def spare_one_watcher(self) -> None:
        """A stopped member: all but one watcher are refused, whose lifeline speaks for its kernel."""
        victim, others = self._victim()
        spared = others[self._cluster.config.watchers - 1]
        self._stop_behind_a_filter(victim, [name for name in others if name != spared])

    def refuse_all_watchers(self) -> None:
        """A stopped member: all watchers are refused, and helpers that look at its port speak for its kernel."""
        victim, others = self._victim()
        self._stop_behind_a_filter(victim, others[: self._cluster.config.watchers])

    def _stop_behind_a_filter(self, victim: str, refused: list[str]) -> None:
        self._cluster.simulator.pause(victim)
        self._filter(victim, refused)
        self._cluster.run(FILTER_S)
        self._cluster.simulator.resume(victim)
        self._whole()

    def restart_quickly(self) -> None:
        """The next life is met before the last one's end is proven."""
        for part in range(QUICK_RESTARTS):
            victim, _ = self._victim()
            self._restart(victim, RESTART_S_MAX * (part + self._cluster.rng.random()) / QUICK_RESTARTS)
            self._whole()

    def restart_unheard(self) -> None:
        """The same, and its watchers hear none of its packets: they meet the next life by their connections alone."""
        victim, others = self._victim()
        watchers = others[: self._cluster.config.watchers]
        cut = self._cluster.simulator.partition([victim], watchers)
        self._lines.spare(watchers, victim)
        self._restart(victim, self._cluster.rng.uniform(0.0, RESTART_S_MAX))
        self._cluster.run(FILTER_S)
        self._cluster.simulator.heal(cut)
        self._whole()

    def _restart(self, victim: str, gap_s: float) -> None:
        self._cluster.simulator.crash(victim)
        self._cluster.run(gap_s)
        self._cluster.simulator.restart(victim)

    def end_many(self) -> None:
        """What so many have in common is no crash: judged as silence, and still known in time (M1)."""
        cluster = self._cluster
        victims = cluster.rng.sample(cluster.names, round(MASS_SHARE * len(cluster.names)))
        for name in victims:
            cluster.simulator.crash(name)
        text = "M1: not everybody knows that the crashed nodes are dead"
        took_s = cluster.wait(
            lambda: all(dead_count(node) == len(victims) for node in cluster.up()), cluster.detection_bound_s(), text
        )
        cluster.measure("mass_dead_at_all_s", [took_s])
        for name in victims:
            cluster.simulator.restart(name)
        self._whole()


def run_scenario(nodes: int, seconds: float, seed: int, faults: str) -> ScenarioResult:
    """Run one seed: `seconds` of calm before each act."""
    cluster = Cluster("rejects", nodes, seconds, seed, faults, starts=False)
    acts = _Acts(cluster, seconds)

    def begin() -> None:
        cluster.start_acquainted()
        cluster.run(seconds)

    def count() -> None:
        cluster.measure("false_deaths", [float(cluster.verdicts.counts["false_dead"])])

    return cluster.report(
        [
            begin,
            acts.close_a_port,
            acts.spare_one_watcher,
            acts.refuse_all_watchers,
            acts.restart_quickly,
            acts.restart_unheard,
            acts.end_many,
            count,
            cluster.merge_all,
        ]
    )
