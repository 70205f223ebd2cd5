"""What survived: judges the history of a run against what the cluster answers at the end.

Pure functions over plain data, so that planted violations can test the checker itself. The rules:

1. *Nothing acknowledged is lost.* A point whose write was acknowledged is found by a quorum read, at that version or
   a newer one that somebody attempted. A write whose outcome is unknown may take effect at any later time (its request
   may sit in a paused node), so its version is allowed too, even over a newer one.
2. *Reads do not go back.* A quorum read that began after an acknowledgement returns such a version. What a delete took
   away, and nobody wrote again, stays away.
3. *Nothing is made up.* A value that nobody wrote never appears. For the cache this is the whole promise but one:
   entries may vanish, but an older value than an acknowledged one never comes back.
4. *Everybody agrees who is here*, nobody who lives is called dead, and no process has ended by itself.
5. *The run meant something*: enough operations were acknowledged and the faults were really injected.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Self

VIOLATIONS_SHOWN_MAX = 20


@dataclass(frozen=True)
class Operation:
    """One request of the load. Instants are seconds of one monotonic clock.

    `version` is what was written, or what a read returned (None: nothing there). `is_acknowledged` False means that the
    outcome of a write is unknown, not that it failed; such reads are not recorded.
    """

    kind: str
    """``write`` or ``read``."""
    store: str
    """``point`` or ``cache``."""
    key: int
    version: int | None
    begun_s: float
    ended_s: float
    is_acknowledged: bool
    node: str
    is_delete: bool = False
    """A write that takes the key away; its version says where it stands among the others."""


class Violation(str):  # noqa: SLOT000 (a string that knows its kind)
    """What is wrong, in words; `kind` is ``lost``, ``resurrected``, ``stale``, ``invented`` or ``unequal``."""

    kind: str

    def __new__(cls, kind: str, text: str) -> Self:
        """Make one."""
        made = super().__new__(cls, text)
        made.kind = kind
        return made

    def __getnewargs__(self) -> tuple[str, str]:
        """Say how to make the same again."""
        return self.kind, str(self)

    def at(self, where: str) -> Violation:
        """Return the same, with where it was seen before it."""
        return Violation(self.kind, f"{where}: {self}")


@dataclass
class Verdict:
    """The outcome of a run."""

    scenario: str
    violations: list[str] = field(default_factory=list)
    counts: dict[str, float] = field(default_factory=dict)
    code: dict[str, str] = field(default_factory=dict)
    """Which code ran, as `Revision.told` says it."""

    @property
    def is_good(self) -> bool:
        """True if no rule was broken."""
        return not self.violations

    def report(self) -> dict[str, object]:
        """Return the verdict as plain data; a flood of violations is cut, its count is not."""
        shown = asdict(self) | {"good": self.is_good, "violation_count": len(self.violations)}
        shown["violations"] = self.violations[:VIOLATIONS_SHOWN_MAX]
        return shown

    def write(self, path: Path) -> None:
        """Write the report as JSON."""
        path.write_text(json.dumps(self.report(), indent=2) + "\n", encoding="utf-8")


Key = tuple[str, int]


class Ledger:
    """The writes of a history by key: what was attempted, and what had been acknowledged when."""

    def __init__(self, history: Iterable[Operation]) -> None:
        self._attempted: dict[Key, set[int]] = {}
        self._unknown: dict[Key, set[int]] = {}
        self._deletes: dict[Key, dict[int, float]] = {}
        acknowledged: dict[Key, list[tuple[float, int]]] = {}
        for operation in history:
            if operation.kind != "write" or operation.version is None:
                continue
            key = (operation.store, operation.key)
            if operation.is_delete:
                self._deletes.setdefault(key, {})[operation.version] = operation.begun_s
            else:
                self._attempted.setdefault(key, set()).add(operation.version)
            if not operation.is_acknowledged:
                self._unknown.setdefault(key, set()).add(operation.version)
            else:
                acknowledged.setdefault(key, []).append((operation.ended_s, operation.version))
        self._instants: dict[Key, list[float]] = {}
        self._highest: dict[Key, list[int]] = {}
        for key, pairs in acknowledged.items():
            pairs.sort()
            highest = 0
            self._instants[key] = [instant for instant, _ in pairs]
            self._highest[key] = [highest := max(highest, version) for _, version in pairs]

    def keys(self, store: str) -> list[int]:
        """Keys of a store with an acknowledged write, sorted."""
        return sorted(key for name, key in self._highest if name == store)

    def acknowledged(self, key: Key, before_s: float = float("inf")) -> int | None:
        """Return the highest version acknowledged up to the instant, None if there was none."""
        index = bisect_right(self._instants.get(key, []), before_s)
        return self._highest[key][index - 1] if index else None

    def is_unknown(self, key: Key, version: int) -> bool:
        """True if nobody knows when, or whether, that write takes effect."""
        return version in self._unknown.get(key, ())

    def is_delete(self, key: Key, version: int | None) -> bool:
        """True if that version took the key away."""
        return version in self._deletes.get(key, ())

    def may_be_deleted(self, key: Key, wanted: int, until_s: float) -> bool:
        """True if a delete may have taken effect by an instant: a later one, or one whose outcome nobody knows."""
        unknown = self._unknown.get(key, ())
        deletes = self._deletes.get(key, {}).items()
        return any(begun_s <= until_s and (version > wanted or version in unknown) for version, begun_s in deletes)

    def deleted_between(self, key: Key, older: int, newer: int) -> int | None:
        """Return the highest acknowledged delete above one version and up to another."""
        deletes = self._deletes.get(key, {}).keys() - self._unknown.get(key, set())
        return max((version for version in deletes if older < version <= newer), default=None)

    def is_attempted(self, key: Key, version: int) -> bool:
        """True if somebody wrote that version, whatever the answer was."""
        return version in self._attempted.get(key, ())


def judge_value(
    ledger: Ledger,
    key: Key,
    seen: int | None,
    before_s: float,
    *,
    may_vanish: bool,
    until_s: float = float("inf"),
) -> Violation | None:
    """Say what is wrong with a value that was read between two instants, or None if nothing is."""
    wanted = ledger.acknowledged(key, before_s)
    name = f"{key[0]} {key[1]}"
    if seen is None:
        if wanted is None or may_vanish or ledger.is_delete(key, wanted):
            return None
        if ledger.may_be_deleted(key, wanted, until_s):
            return None
        return Violation("lost", f"{name}: lost, version {wanted} was acknowledged")
    if not ledger.is_attempted(key, seen):
        return Violation("invented", f"{name}: version {seen} was never written")
    if wanted is None or seen >= wanted or ledger.is_unknown(key, seen):
        return None
    deleted = ledger.deleted_between(key, seen, wanted)
    if deleted is not None:
        return Violation("resurrected", f"{name}: version {seen} came back, {deleted} had deleted it")
    return Violation("stale", f"{name}: version {seen} came back, {wanted} was acknowledged")


def check_reads(history: Sequence[Operation], ledger: Ledger) -> list[Violation]:
    """Rules 2 and 3 over the reads that were made during the run."""
    wrong: list[Violation] = []
    for operation in history:
        if operation.kind != "read" or not operation.is_acknowledged:
            continue
        key = (operation.store, operation.key)
        fault = judge_value(
            ledger,
            key,
            operation.version,
            operation.begun_s,
            may_vanish=operation.store == "cache",
            until_s=operation.ended_s,
        )
        if fault:
            wrong.append(fault.at(f"read at {operation.node}, t={operation.begun_s:.3f}"))
    return wrong


def check_final(ledger: Ledger, store: str, answers: Mapping[str, Mapping[int, int]]) -> list[Violation]:
    """Rule 1 (and 3): the final quorum reads, by the node that answered them; a missing key is a miss."""
    wrong: list[Violation] = []
    for node, found in sorted(answers.items()):
        for key in ledger.keys(store):
            fault = judge_value(ledger, (store, key), found.get(key), float("inf"), may_vanish=store == "cache")
            if fault:
                wrong.append(fault.at(f"final read at {node}"))
    return wrong


def vanished(ledger: Ledger, store: str, found: Mapping[int, int]) -> int:
    """Count what a final read does not find and would have to, if the store were one that may not forget."""
    missing = [(store, key) for key in ledger.keys(store) if key not in found]
    return sum(judge_value(ledger, key, None, float("inf"), may_vanish=False) is not None for key in missing)


def check_equal(
    roots: Mapping[str, Mapping[str, str]], held_by: Mapping[str, Sequence[str]] | None = None
) -> list[Violation]:
    """After healing all replicas of a unit are equal, and all of them were compared.

    Args:
        roots: Unit -> name of each node that told what it holds -> hash of that.
        held_by: Unit -> names of the nodes that are to hold it; without it at least two have to have told.
    """
    wrong: list[Violation] = []
    for unit in sorted({*roots, *(held_by or ())}):
        by_node = roots.get(unit, {})
        if len(set(by_node.values())) > 1:
            states = len(set(by_node.values()))
            wrong.append(Violation("unequal", f"{unit}: {states} different states: {dict(sorted(by_node.items()))}"))
        wanted = sorted((held_by or {}).get(unit, by_node))
        silent = [name for name in wanted if name not in by_node]
        if silent or len(by_node) < 2:
            told = f"{len(by_node)} of {len(wanted)} replicas compared"
            missing = f", not those of {', '.join(silent)}" if silent else ""
            wrong.append(Violation("uncompared", f"{unit}: {told}{missing}"))
    return wrong


def check_events(tried: int, asked: int, took_effect: int) -> list[str]:
    """A run proves what it says only if it made all the faults that were asked for, and most of them took effect."""
    wrong = []
    if tried < asked:
        wrong.append(f"only {tried} of {asked} events in --seconds: the run proves less than it was asked for")
    if took_effect < tried * 0.8:
        wrong.append("too few faults took effect: the run proves too little")
    return wrong


def check_members(views: Mapping[str, Mapping[str, str]], living: Iterable[str]) -> list[str]:
    """Rule 4: every living node sees the same members, and every living one as alive.

    Args:
        views: Name of the observer -> (name of the member -> status).
        living: Names of the nodes whose processes run.
    """
    expected = sorted(living)
    wrong = [f"{name} answers no question about members" for name in expected if not views.get(name)]
    for observer, view in sorted(views.items()):
        for name in expected:
            status = view.get(name, "unknown")
            if view and status != "alive":
                wrong.append(f"{observer} sees the living {name} as {status}")
    distinct = {tuple(sorted(view.items())) for observer, view in views.items() if view and observer in expected}
    if len(distinct) > 1:
        wrong.append(f"{len(distinct)} different views of the members among {len(expected)} nodes")
    return wrong


def longest_gap_s(history: Sequence[Operation], started_s: float, ended_s: float) -> float:
    """Return the longest time without an acknowledgement between two instants."""
    instants = sorted({op.ended_s for op in history if op.is_acknowledged and started_s <= op.ended_s <= ended_s})
    points = [started_s, *instants, ended_s]
    return max(later - earlier for earlier, later in pairwise(points))


def judge(
    scenario: str,
    history: Sequence[Operation],
    *,
    answers: Mapping[str, Mapping[str, Mapping[int, int]]],
    views: Mapping[str, Mapping[str, str]],
    nodes: Sequence[str],
    living: Sequence[str],
    faults: int,
    faults_min: int,
    acknowledged_min: int,
) -> Verdict:
    """Judge a whole run.

    Args:
        scenario: Name of the run, for the report.
        history: Every operation of the load.
        answers: Store -> node -> key -> version, read at quorum after the faults ended.
        views: What each node says about the members at the end.
        nodes: Names of all nodes that ought to run at the end.
        living: Names of the nodes whose processes run.
        faults: Faults that were seen to take effect.
        faults_min: Faults that the run promised.
        acknowledged_min: Acknowledged points below which the run proves too little.
    """
    ledger = Ledger(history)
    points = len(ledger.keys("point"))
    verdict = Verdict(scenario)
    verdict.violations += check_reads(history, ledger)
    for store, by_node in sorted(answers.items()):
        verdict.violations += check_final(ledger, store, by_node)
    verdict.violations += check_members(views, living)
    verdict.violations += [f"the process of {name} ended by itself" for name in nodes if name not in living]
    if faults < faults_min:
        verdict.violations.append(f"only {faults} of {faults_min} faults were injected: the run proves too little")
    if points < acknowledged_min:
        verdict.violations.append(f"only {points} points were acknowledged, {acknowledged_min} wanted")
    writes = [operation for operation in history if operation.kind == "write"]
    reads = [operation for operation in history if operation.kind == "read"]
    verdict.counts = {
        "faults": faults,
        "points_acknowledged": points,
        "cache_keys_acknowledged": len(ledger.keys("cache")),
        "writes_acknowledged": sum(operation.is_acknowledged for operation in writes),
        "writes_unknown": sum(not operation.is_acknowledged for operation in writes),
        "reads_checked": sum(operation.is_acknowledged for operation in reads),
        "longest_gap_s": round(
            longest_gap_s(history, min(o.begun_s for o in history), max(o.ended_s for o in history)), 3
        )
        if history
        else 0.0,
    }
    return verdict
