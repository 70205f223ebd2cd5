"""What the fault scripts share: arguments, the run around the faults, and the verdict.

Exit codes: 0 the verdict is good, 1 it is not (or the cluster did not come up), 2 usage, 77 this machine cannot run it.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from chaos import checker
from chaos.cluster import AGREE_S_MAX, Cluster, Setback, running, say, until
from chaos.load import Load, Unanswered, create_collection, read_back
from frys_node.bench.namespaces import ToolFailed, Unavailable
from frys_node.testing.revision import Revision

SKIPPED = 77
TOP_UP_S_MAX = 600.0

Faults = Callable[[Cluster, Load, random.Random, argparse.Namespace], int]


def parser(description: str, *, nodes: int, rounds: int) -> argparse.ArgumentParser:
    """Return the arguments that every fault script has."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--nodes", type=int, default=nodes, help=f"nodes of the cluster (default {nodes})")
    made.add_argument("--rounds", type=int, default=rounds, help=f"faults to inject (default {rounds})")
    made.add_argument("--points", type=int, default=10_000, help="points to acknowledge at least (default 10000)")
    made.add_argument("--rate", type=float, default=20.0, help="batches a second over all writers (default 20)")
    made.add_argument("--seed", type=int, default=1, help="seed of victims and load (default 1)")
    made.add_argument("--report", type=Path, help="write the verdict as JSON here")
    made.add_argument("--dir", type=Path, help="keep the nodes' directories here")
    return made


def run(name: str, arguments: argparse.Namespace, make: Callable[[Path, int], Cluster], faults: Faults) -> int:
    """Start a cluster, load it, inject the faults, read everything back and judge."""
    folder = arguments.dir or Path(tempfile.mkdtemp(prefix=f"frys-chaos-{name}-"))
    folder.mkdir(parents=True, exist_ok=True)
    # The list of this user's own nodes is kept out of their home.
    os.environ["XDG_STATE_HOME"] = str(folder / "state")
    revision = Revision()
    try:
        with running(make(folder, arguments.nodes)) as cluster:
            verdict = _injured(name, cluster, faults, arguments)
    except Unavailable as reason:
        say(f"skipped: {reason}")
        return SKIPPED
    except (Setback, ToolFailed, Unanswered) as setback:
        say(f"no verdict: {setback}\nthe nodes' files are in {folder}")
        return 1
    verdict.code = revision.told()
    return _conclude(verdict, arguments, folder)


def _injured(name: str, cluster: Cluster, faults: Faults, arguments: argparse.Namespace) -> checker.Verdict:
    create_collection(cluster.nodes[0].endpoint, replicas=min(3, len(cluster.nodes)))
    load = Load(cluster.endpoints, rate_hz=arguments.rate, seed=arguments.seed)
    load.start()
    try:
        until("the first acknowledged points", lambda: load.acknowledged_points, 60)
        done = faults(cluster, load, random.Random(arguments.seed), arguments)
        deadline = time.monotonic() + TOP_UP_S_MAX
        while load.acknowledged_points < arguments.points and time.monotonic() < deadline:
            say(f"{load.acknowledged_points} of {arguments.points} points acknowledged")
            time.sleep(2)
    finally:
        history = load.stop()
    say(f"load ended: {len(history)} operations; waiting for agreement")
    cluster.wait_agreed()
    ledger = checker.Ledger(history)
    answers: dict[str, dict[str, dict[int, int]]] = {"point": {}, "cache": {}}
    for node in cluster.nodes:
        if node.is_running:
            say(f"reading everything back at quorum through {node.name}")
            for store, by_node in answers.items():
                by_node[node.name] = read_back(node.endpoint, store, ledger.keys(store))
    views = _settled_views(cluster)
    return checker.judge(
        name,
        history,
        answers=answers,
        views=views,
        nodes=[node.name for node in cluster.nodes],
        living=cluster.living(),
        faults=done,
        faults_min=arguments.rounds,
        acknowledged_min=arguments.points,
    )


def _settled_views(cluster: Cluster) -> dict[str, dict[str, str]]:
    """Wait for one view; if it does not come, the checker says what differed."""
    living = cluster.living()
    deadline = time.monotonic() + AGREE_S_MAX
    views = cluster.views()
    while checker.check_members(views, living) and time.monotonic() < deadline:
        time.sleep(0.5)
        views = cluster.views()
    return views


def _conclude(verdict: checker.Verdict, arguments: argparse.Namespace, folder: Path) -> int:
    if arguments.report:
        verdict.write(arguments.report)
    report = verdict.report()
    print(f"{verdict.scenario}: {'good' if verdict.is_good else 'BROKEN'}")
    for key, value in (verdict.code | verdict.counts).items():
        print(f"  {key:<26} {value}")
    for violation in report["violations"] if isinstance(report["violations"], list) else []:
        print(f"  VIOLATION {violation}")
    if verdict.is_good and not arguments.dir:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        print(f"  the nodes' files are in {folder}")
    sys.stdout.flush()
    return 0 if verdict.is_good else 1
