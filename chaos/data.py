"""Data under every fault at once: ``python -m chaos.data --events 100``, or ``make chaos-data``.

Five real nodes, each in a network namespace of its own, replication factor 3. Writers put, overwrite and delete points
and cache values at quorum through any node, each write under a version of its own, while nodes are killed and started
again, cut off in both directions and in one, and stopped and continued; one node joins and one leaves each minute.
Then the plug is pulled: every process is killed at once, first with one dead node being removed and one joining in the
record of that moment, then with one leaving and one joining, and all are started again. After that everything is read
back at quorum through every node.

It passes if no acknowledged write is lost, nothing that was deleted or overwritten came back, all replicas of every
vector shard are equal, and the topology records of all nodes were one history: no forked epoch, no double move.
(Cache values live in memory and may vanish: `cache_vanished` counts those in the reads through every node, and nothing
judges it. What was overwritten or deleted may not come back.)
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from chaos import checker, scenario
from chaos.churn import Churn
from chaos.cluster import Cluster, HurtNode, Setback, heal, running, say, split, until
from chaos.load import Endpoint, Unanswered, create_collection, read_back
from chaos.plug import KINDS, TOO_LATE, Plug
from chaos.replicas import wait_equal
from chaos.turnover import Turnover
from chaos.watch import Watch
from frys_node.base.errors import FrysError
from frys_node.bench import namespaces
from frys_node.testing.revision import Revision

SHARDS = 8
DOWN_S = (0.2, 2.0)
CUT_S = (1.0, 5.0)
PAUSE_S = (0.5, 5.0)
QUIET_S = (0.1, 0.6)
PAUSES = 0.25
"""Pauses for each kill or cut."""

CHANGE_S = 30.0
"""Between the end of a join and the beginning of a leave, and the other way round: one of each a minute."""

SETTLE_S_MAX = 240.0


class Faults:
    """Hurts a cluster, one fault after the other; `done` counts those that were seen to take effect."""

    def __init__(self, cluster: Cluster, turnover: Turnover, rng: random.Random) -> None:
        self._cluster = cluster
        self._turnover = turnover
        self._rng = rng
        self.done: Counter[str] = Counter()
        self.paused = 0
        """Nodes that stood still; they come on top."""
        self.tried = 0
        self.asked = 0
        """How many were to be done; the time may end before."""

    def one(self, number: int, total: int) -> None:
        """Kill a node or cut some off, and before some of these stop one for a while, which does not count."""
        kinds: list[tuple[str, Callable[[], bool]]] = [
            ("kill", self._kill),
            ("kill", self._kill),
            ("cut", lambda: self._cut(one_way=False)),
            ("cut one way", lambda: self._cut(one_way=True)),
        ]
        if self._rng.random() < PAUSES:
            say(f"before event {number}/{total}: pause")
            self.paused += self._pause()
            time.sleep(self._rng.uniform(*QUIET_S))
        kind, act = self._rng.choice(kinds)
        say(f"event {number}/{total}: {kind}")
        self.tried += 1
        self.done[kind] += act()
        time.sleep(self._rng.uniform(*QUIET_S))

    def _victims(self) -> list[HurtNode]:
        return [node for node in self._cluster.nodes if node.is_running and node not in self._turnover.leaving]

    def _kill(self) -> bool:
        victim = self._rng.choice(self._victims())
        victim.kill()
        time.sleep(self._rng.uniform(*DOWN_S))
        self._cluster.revive(victim)
        return True

    def _cut(self, *, one_way: bool) -> bool:
        nodes = self._victims()
        minority = self._rng.sample(nodes, self._rng.randint(1, max(1, (len(nodes) - 1) // 2)))
        split(minority, [node for node in self._cluster.nodes if node not in minority], one_way=one_way)
        time.sleep(self._rng.uniform(*CUT_S))
        return heal(minority) > 0

    def _pause(self) -> bool:
        victim = self._rng.choice(self._victims())
        victim.pause()
        time.sleep(self._rng.uniform(*PAUSE_S))
        took = victim.is_paused
        victim.resume()
        return took


def parser() -> argparse.ArgumentParser:
    """Return the arguments."""
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    made.add_argument("--nodes", type=int, default=5, help="nodes at the beginning (default 5)")
    made.add_argument(
        "--events", type=int, default=30, help="kills and cuts, with a pause before each fourth (default 30)"
    )
    made.add_argument(
        "--seconds",
        type=float,
        default=900.0,
        help="no new event after so long; what is missing then fails the run (default 900)",
    )
    made.add_argument("--rate", type=float, default=30.0, help="requests to write a second (default 30)")
    made.add_argument("--seed", type=int, default=1, help="seed of victims and load (default 1)")
    text = "what is under way when the plug is pulled, once each (default: removal leave)"
    made.add_argument("--plugs", nargs="*", choices=KINDS, default=["removal", "leave"], help=text)
    text = f"seconds between a join and a leave, and the other way round (default {CHANGE_S:g})"
    made.add_argument("--pace", type=float, default=CHANGE_S, help=text)
    made.add_argument("--no-turnover", action="store_true", help="nobody joins or leaves until the plug is pulled")
    made.add_argument("--json", action="store_true", help="print the verdict as JSON")
    made.add_argument("--report", type=Path, help="write the verdict as JSON here")
    made.add_argument("--dir", type=Path, help="keep the nodes' directories here")
    return made


def endpoints(cluster: Cluster) -> list[Endpoint]:
    """Where the load goes now: to every node whose process runs."""
    return [node.endpoint for node in list(cluster.nodes) if node.is_running]


def injured(cluster: Cluster, arguments: argparse.Namespace) -> checker.Verdict:
    """Load a cluster, hurt it, let it heal, read everything back, compare the replicas, and judge."""
    rng = random.Random(arguments.seed)
    create_collection(cluster.nodes[0].endpoint, shards=SHARDS, replicas=3)
    load = Churn(lambda: endpoints(cluster), rate_hz=arguments.rate, seed=arguments.seed)
    turnover = Turnover(cluster, random.Random(f"{arguments.seed}/turnover"), arguments.pace)
    faults = Faults(cluster, turnover, rng)
    faults.asked = arguments.events
    plug = Plug(cluster, turnover, random.Random(f"{arguments.seed}/plug"))
    watch = Watch(cluster)
    begun_s = time.monotonic()
    watch.start()
    load.start()
    try:
        until("the first acknowledged writes", lambda: load.acknowledged_writes, 60)
        if not arguments.no_turnover:
            turnover.start()
        for number in range(1, arguments.events + 1):
            if time.monotonic() - begun_s > arguments.seconds:
                say(f"--seconds {arguments.seconds:g} are over after {faults.tried} of {arguments.events} events")
                break
            faults.one(number, arguments.events)
        turnover.stop()
        for kind in arguments.plugs:
            plug.pull(kind)
        time.sleep(3.0)
        history = load.stop()
        say(f"load ended: {len(history)} operations; waiting for agreement")
        turnover.settle()
        cluster.wait_agreed()
        until("a stable ring of all nodes", cluster.is_stable, SETTLE_S_MAX)
        until("one record at all nodes", watch.is_agreed, SETTLE_S_MAX)
    finally:
        turnover.stop()
        load.stop()
        watch.stop()
    return judge(cluster, history, Injuries(faults, turnover, plug, watch), begun_s)


class Injuries(NamedTuple):
    """What was done to a cluster, and what was seen of its records meanwhile."""

    faults: Faults
    turnover: Turnover
    plug: Plug
    watch: Watch


def judge(cluster: Cluster, history: list[checker.Operation], injuries: Injuries, begun_s: float) -> checker.Verdict:
    """Read everything back through every node, compare all replicas, and say what is wrong."""
    faults, turnover, plug, watch = injuries
    ledger = checker.Ledger(history)
    verdict = checker.Verdict("data")
    wrong = checker.check_reads(history, ledger)
    cache = Counter(cache_found=0, cache_vanished=0)
    for node in cluster.nodes:
        say(f"reading everything back at quorum through {node.name}")
        for store in ("point", "cache"):
            found = read_back(node.endpoint, store, ledger.keys(store))
            if store == "cache":
                cache.update(cache_found=len(found), cache_vanished=checker.vanished(ledger, store, found))
            wrong += checker.check_final(ledger, store, {node.name: found})
    compared = wait_equal(cluster, SETTLE_S_MAX)
    wrong += checker.check_equal(compared.roots, compared.held_by)
    records = watch.records.judge(watch.ids)
    verdict.violations += [*wrong, *records.violations]
    verdict.violations += checker.check_members(cluster.views(), cluster.living())
    verdict.violations += [f"{name} ended by itself" for name in {n.name for n in cluster.nodes} - {*cluster.living()}]
    verdict.violations += [f"{name} has not joined or left after healing" for name in turnover.stuck]
    verdict.violations += [f"no record of {name} was ever read" for name in cluster.living() if name not in watch.ids]
    kinds = Counter(violation.kind for violation in wrong)
    writes = [operation for operation in history if operation.kind == "write"]
    acked = [operation for operation in writes if operation.is_acknowledged]
    instants = [operation.ended_s for operation in acked] or [begun_s]
    verdict.counts = {
        "seconds": round(time.monotonic() - begun_s, 1),
        **{f"events: {kind}": count for kind, count in sorted((faults.done + plug.pulled).items())},
        "pauses": faults.paused,
        "joins": turnover.joined,
        "leaves": turnover.left,
        "removals": turnover.removed,
        "changes_late": len(turnover.late),
        "slowest_change_s": round(turnover.slowest_s, 1),
        **{
            f"{store}_{what}_acknowledged": sum(o.store == store and o.is_delete is gone for o in acked)
            for store in ("point", "cache")
            for what, gone in (("writes", False), ("deletes", True))
        },
        "writes_unknown": len(writes) - len(acked),
        "reads_checked": sum(operation.kind == "read" for operation in history)
        + len(cluster.nodes) * sum(len(ledger.keys(store)) for store in ("point", "cache")),
        "longest_write_gap_s": round(checker.longest_gap_s(acked, min(instants), max(instants)), 2),
        "units_compared": len(compared.roots),
        "equal_after_s": round(compared.seconds, 1),
        **cache,
        "missing": kinds["lost"],
        "resurrected": kinds["resurrected"],
        "stale": kinds["stale"],
        "invented": kinds["invented"],
        "units_unequal": kinds["unequal"],
        "units_uncompared": kinds["uncompared"],
        **records.counts,
    }
    verdict.violations += checker.check_events(faults.tried, faults.asked, faults.done.total())
    verdict.violations += [f"{shown}: the run proves too little" for shown in plug.pulled if TOO_LATE in shown]
    if len(acked) < 100:
        verdict.violations.append(f"only {len(acked)} writes were acknowledged: the run proves too little")
    return verdict


def main() -> int:
    """Run inside a private network."""
    arguments = parser().parse_args()
    try:
        namespaces.enter(["-m", "chaos.data", *sys.argv[1:]])
    except namespaces.Unavailable as reason:
        say(f"skipped: {reason}")
        return scenario.SKIPPED
    folder = arguments.dir or Path(tempfile.mkdtemp(prefix="frys-chaos-data-"))
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["XDG_STATE_HOME"] = str(folder / "state")
    revision = Revision()
    try:
        with running(Cluster.in_namespaces(folder, arguments.nodes)) as cluster:
            verdict = injured(cluster, arguments)
    except (Setback, FrysError, Unanswered) as setback:
        say(f"no verdict (seed {arguments.seed}): {setback}\nthe nodes' files are in {folder}")
        return 1
    verdict.code = revision.told()
    if arguments.report:
        verdict.write(arguments.report)
    show(verdict, arguments)
    if verdict.is_good and not arguments.dir:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        say(f"seed {arguments.seed}; the nodes' files are in {folder}")
    return 0 if verdict.is_good else 1


def show(verdict: checker.Verdict, arguments: argparse.Namespace) -> None:
    """Print the verdict as a table, or as JSON."""
    if arguments.json:
        print(json.dumps(verdict.report(), indent=2), flush=True)
        return
    print(f"data: {'good' if verdict.is_good else 'BROKEN'}")
    for key, value in (verdict.code | verdict.counts).items():
        print(f"  {key:<42} {value}")
    for violation in verdict.violations[: checker.VIOLATIONS_SHOWN_MAX]:
        print(f"  VIOLATION {violation}")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
