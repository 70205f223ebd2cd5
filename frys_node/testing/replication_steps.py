"""How long steps of the ring take in a run of the replication scenario.

Sans-I/O.
"""

from __future__ import annotations

from balancer.record import JOINING, STABLE, TopologyRecord


class StepWatch:
    """Measures steps from the first ``joining`` record to the stable record of the next sets, aborts in between or not.

    A step that is aborted and begun again counts as one: what an operator asked for took so long.
    """

    def __init__(self) -> None:
        self.lengths_s: list[float] = []
        """Of the steps that ended."""
        self._began_s: float | None = None
        self._joint: TopologyRecord | None = None

    def signed(self, record: TopologyRecord, now_s: float) -> None:
        """Take the next record in the order in which they were signed."""
        if record.phase == JOINING and self._began_s is None:
            self._began_s = now_s
        if record.phase != STABLE:
            self._joint = record
        elif self._began_s is not None and self._joint is not None and record.ring == self._joint.next_ring:
            self.lengths_s.append(now_s - self._began_s)
            self._began_s = None

    def open_s(self, now_s: float) -> float:
        """Return for how long the step under way has been tried, 0 without one."""
        return 0.0 if self._began_s is None else now_s - self._began_s
