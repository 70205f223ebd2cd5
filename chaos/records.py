"""Which topology records the nodes of a run held, and whether these were one history.

Pure functions over what was read. What the letters (e) and (f) of the simulator's checker forbid is counted:

* *Forked epochs* (f): one epoch (term and number) under which two different records were seen, at any nodes and times;
  also one of which a node itself says that it has met two. And a node's record never goes back.
* *Double moves* (e), judged by the very code of `frys_node.testing.replication_checker`: two records under each of
  which something may have been acknowledged (of some unit a majority of the current set, in ``joint`` of the next one
  as well, has adopted it), and neither of which follows from the other by its parents. With one issuer parents can
  hardly show that, so a record is one too if it moves a unit from or to other nodes than its parent, which moves it.

A record that no look has met is taken to follow the one before it. Within a term that hides nothing, for numbers there
are consecutive: a fork would be two records under one number.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

from balancer.placement import Placement
from balancer.record import JOINT, RECORD, STABLE, TopologyRecord
from balancer.work import MOVED_KINDS, kind_of
from chaos.checker import Violation
from frys_node.base.types import Epoch, NodeId, UnitId
from frys_node.testing.replication_checker import Checker


class Judged(NamedTuple):
    """What is wrong with the records, and how many there were."""

    violations: list[Violation]
    counts: dict[str, float]


class Records:
    """Every record that was seen, by whom it was held."""

    def __init__(self) -> None:
        self.looks = 0
        """Looks at all nodes."""
        self._records: dict[Epoch, dict[bytes, TopologyRecord]] = {}
        self._holders: dict[tuple[Epoch, bytes], dict[str, None]] = {}
        self._adopted: dict[str, list[tuple[Epoch, bytes]]] = {}
        """What each node had adopted, one after the other."""
        self._alarms: dict[Epoch, dict[str, None]] = {}

    def adopted(self, node: str, data: bytes) -> TopologyRecord:
        """A node, by its name, has adopted a record durably."""
        record = self.written(node, data)
        adopted = self._adopted.setdefault(node, [])
        if not adopted or adopted[-1] != (record.epoch, data):
            adopted.append((record.epoch, data))
        return record

    def written(self, node: str, data: bytes) -> TopologyRecord:
        """A node, by its name, has written a record; that alone does not put it in force anywhere."""
        record = RECORD.decode(data)
        self._records.setdefault(record.epoch, {}).setdefault(data, record)
        self._holders.setdefault((record.epoch, data), {})[node] = None
        return record

    def alarm(self, node: str, epoch: Epoch) -> None:
        """A node says that it has met two records under that epoch."""
        self._alarms.setdefault(epoch, {})[node] = None

    def judge(self, ids: Mapping[str, NodeId]) -> Judged:
        """Say what is wrong; `ids` are those of the nodes by name."""
        placements = {
            (epoch, data): Placement(record)
            for epoch, by_data in sorted(self._records.items())
            for data, record in by_data.items()
        }
        forks, back = self._forks(), self._went_back()
        checker = self._in_force(placements, ids)
        double = [Violation("double", text) for text in checker.violations] + self._moved_twice(placements)
        counts: dict[str, float] = {
            "record_looks": self.looks,
            "records_compared": sum(len(holders) for holders in self._holders.values()),
            "epochs_seen": len(self._records),
            "epochs_unseen": self._unseen(),
            "epochs_in_force": checker.counts["effective"],
            "forked_epochs": len(forks),
            "epochs_gone_back": len(back),
            "double_moves": len(double),
        }
        return Judged([*forks.values(), *back, *double], counts)

    def _forks(self) -> dict[Epoch, Violation]:
        found = {}
        for epoch, by_data in sorted(self._records.items()):
            if len(by_data) > 1:
                held = "; ".join(f"one at {', '.join(self._holders[epoch, data])}" for data in by_data)
                found[epoch] = Violation("forked", f"epoch {epoch}: {len(by_data)} different records, {held}")
        for epoch, nodes in sorted(self._alarms.items()):
            text = f"epoch {epoch}: {', '.join(nodes)} met two different records"
            found.setdefault(epoch, Violation("forked", text))
        return found

    def _went_back(self) -> list[Violation]:
        return [
            Violation("back", f"{node} went back from epoch {before} to {after}")
            for node, adopted in sorted(self._adopted.items())
            for (before, _), (after, _) in pairwise(adopted)
            if after < before
        ]

    def _in_force(self, placements: Mapping[tuple[Epoch, bytes], Placement], ids: Mapping[str, NodeId]) -> Checker:
        """Have the simulator's own checker judge rule (e); it names 20 pairs at most."""
        checker = Checker()
        for epoch, by_data in self._records.items():
            for record in by_data.values():
                before = self._before(record)
                if before is not None:
                    checker.signed(epoch, before)
        for node, adopted in self._adopted.items():
            for held in adopted if node in ids else ():
                checker.in_force(ids[node], placements[held], replicated(placements[held]))
        return checker

    def _moved_twice(self, placements: Mapping[tuple[Epoch, bytes], Placement]) -> list[Violation]:
        """Records that move a unit otherwise than their parents, which had not ended its move."""
        found = []
        for (epoch, _), placement in placements.items():
            parent = placement.record.parent
            parents = [held for key, held in placements.items() if key[0] == parent]
            for units in filter(None, (moved_otherwise(held, placement) for held in parents)):
                named = f"{units[0]} and {len(units) - 1} more units" if units[1:] else units[0]
                text = f"{epoch} moves {named} otherwise than {parent}, which had not ended that move"
                found.append(Violation("double", text))
        return found

    def _before(self, record: TopologyRecord) -> Epoch | None:
        """Return the epoch of the record that this one was made from, or the nearest one below it that was seen."""
        parent = record.parent
        if parent is None:
            return None
        if record.phase == JOINT and parent.term != record.epoch.term:
            # Who takes a joint record over keeps its parent; the content is that of the joint record.
            parent = max((epoch for epoch in self._records if self._is_joint_after(epoch, record)), default=parent)
        if parent in self._records:
            return parent
        return max((epoch for epoch in self._records if epoch < min(parent, record.epoch)), default=None)

    def _is_joint_after(self, epoch: Epoch, record: TopologyRecord) -> bool:
        held = self._records[epoch].values()
        return epoch < record.epoch and any(each.phase == JOINT and each.parent == record.parent for each in held)

    def _unseen(self) -> int:
        """Count the numbers of each term between the lowest and the highest that were seen, without those."""
        by_term: dict[object, list[int]] = {}
        for epoch in self._records:
            by_term.setdefault(epoch.term, []).append(epoch.seq)
        return sum(max(numbers) - min(numbers) + 1 - len(numbers) for numbers in by_term.values())


def replicated(placement: Placement) -> list[UnitId]:
    """Return the units that have quorums."""
    return [unit for unit in placement.units() if kind_of(unit) not in MOVED_KINDS]


def moved_otherwise(earlier: Placement, later: Placement) -> list[UnitId]:
    """Return the units that two records both move, from or to different nodes."""
    if STABLE in (earlier.record.phase, later.record.phase):
        return []
    moved = []
    for unit in replicated(earlier):
        if unit in later:
            before, after = earlier.sets(unit), later.sets(unit)
            is_moved = set(before.current) != set(before.next) and set(after.current) != set(after.next)
            if is_moved and (set(before.current), set(before.next)) != (set(after.current), set(after.next)):
                moved.append(unit)
    return moved
