"""The plug: every process is killed at once while nodes come and go, and started again.

What is under way at that moment is one of `KINDS`: a planned leave and a join, each as far as it has come; or the
removal of a dead node and a join, both in the record that is in force. For these to be in one record the issuer must
have both wishes when it plans a step, so an earlier join is held up: its node is stopped (SIGSTOP) with its step under
way, the wishes come in, and it goes on.
"""

from __future__ import annotations

import contextlib
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable

from balancer.changes import changed_nodes
from balancer.record import JOINING, JOINT, STABLE, TopologyRecord, weight_of
from chaos.cluster import Cluster, HurtNode, Setback, say, until
from chaos.turnover import Change, Turnover
from chaos.watch import id_of, record_of
from frys_node.base.errors import FrysError
from frys_node.base.types import NodeId

KINDS = ("removal", "leave", "nothing")

TOO_LATE = "too late for both"
"""The step was over before all were dead: nothing is proven."""

BEFORE_S = (0.5, 3.0)
"""Pause before a plug with nothing under way."""

HOLD_TRIES_MAX = 3
STEP_S_MAX = 60.0
STEP_POLL_S = 0.005
"""A phase of a step may take a tenth of a second only."""

COMMAND_S_MAX = 30.0
WAITING = re.compile(r"^frys_balancer_changes_waiting (\S+)$", re.MULTILINE)


class Plug:
    """Pulls the plug; `pulled` counts by what the record showed on the issuer's disk when all were dead."""

    def __init__(self, cluster: Cluster, turnover: Turnover, rng: random.Random) -> None:
        self._cluster = cluster
        self._turnover = turnover
        self._rng = rng
        self.pulled: Counter[str] = Counter()

    def pull(self, kind: str) -> None:
        """Begin what is to be under way, kill all, start all again but the dead, and see everything through."""
        under_way = self._begin(kind)
        say("pulling the plug")
        for node in self._cluster.nodes:
            if node.is_running:
                node.kill_soon()
        for node in self._cluster.nodes:
            node.reap()
        self.pulled[self._shown(kind, under_way)] += 1
        for node in self._cluster.nodes:
            if not node.has_left and node not in self._turnover.dead:
                self._cluster.start_again(node)
        changing = {change.node for change in under_way} | self._turnover.leaving
        for node in self._cluster.nodes:
            if node not in changing:
                self._cluster.wait_ready(node)
        say("every node is back")
        for change in under_way:
            self._turnover.finish(change)

    def _begin(self, kind: str) -> list[Change]:
        if kind == "removal":
            return self._replace()
        if kind == "leave":
            return self._leave_and_join()
        time.sleep(self._rng.uniform(*BEFORE_S))
        return []

    def _leave_and_join(self) -> list[Change]:
        """Have one node leave and another join; returns when a step of one of them, or of both, has come to a phase."""
        begun = [self._turnover.leave(), self._turnover.join()]
        leaver = id_of(begun[0].node)
        phase = self._rng.choice((JOINING, JOINT))

        def is_shown(record: TopologyRecord) -> bool:
            return record.phase == phase or not weight_of(record.ring, leaver)

        self._wait_for(f"a {phase} record of a leave or a join", is_shown)
        return begun

    def _shown(self, kind: str, under_way: list[Change]) -> str:
        """Say what was under way when all were dead, for the count: from the record on the issuer's disk."""
        if kind == "nothing":
            return "plug"
        if kind == "leave":
            record = record_of(self._cluster.nodes[0])
            assert record is not None
            leaving, joining = under_way
            joiner = id_of(joining.node) if joining.node.is_member else None
            return f"plug, {leave_and_join(record, id_of(leaving.node), joiner)}"
        record = record_of(self._cluster.nodes[0])
        assert record is not None
        is_removal = any(is_removed(record, id_of(node)) for node in self._turnover.dead)
        shown = "removal and join" if is_removal and newcomers(record) else TOO_LATE
        return f"plug, {shown} in {record.phase}"

    # ------------------------------------------------------------------ a removal and a join in one record

    def _replace(self) -> list[Change]:
        """Have a dead node removed and another join; returns when the record says both."""
        issuer, turnover = self._cluster.nodes[0], self._turnover
        # A second one that looks dead, because it has only just come back, would forbid the removal.
        self._cluster.wait_agreed()
        victim = turnover.choose()
        say(f"{victim.name} dies and is to be removed")
        turnover.dead.add(victim)
        victim.kill()
        until(f"the death of {victim.name}", lambda: issuer.statuses().get(victim.name) == "dead", STEP_S_MAX)
        held = self._hold_up()
        issuer.call("POST", f"/v1/members/{victim.name}/remove", {"accept_loss": False})
        waiting = _changes_waiting(issuer)
        joining = turnover.join()
        until(f"{joining.node.name} to wait for its turn", lambda: _changes_waiting(issuer) > waiting, STEP_S_MAX)
        phase = self._rng.choice((JOINING, JOINT))
        held[-1].node.resume()
        node = id_of(victim)

        def is_shown(record: TopologyRecord) -> bool:
            is_both = is_removed(record, node) and id_of(joining.node) in newcomers(record)
            is_through = not weight_of(record.ring, node)
            return is_through or (is_both and record.phase == phase)

        self._wait_for(f"a {phase} record with the removal and the join", is_shown)
        return [*held, joining, Change(victim, lambda: self._finish_removal(victim))]

    def _hold_up(self) -> list[Change]:
        """Have a node join and stop it in the middle, so that what is wanted now has to wait for its step."""
        begun: list[Change] = []
        for _ in range(HOLD_TRIES_MAX):
            begun.append(self._turnover.join())
            if self._is_held(begun[-1].node):
                return begun
        raise Setback(f"{HOLD_TRIES_MAX} joins were through before they could be held up")

    def _is_held(self, newcomer: HurtNode) -> bool:
        until(f"{newcomer.name} to have an id", lambda: newcomer.is_member, STEP_S_MAX)
        node = id_of(newcomer)
        self._wait_for(f"{newcomer.name} on the ring", lambda record: weight_of(record.next_ring, node) is not None)
        newcomer.pause()
        record = record_of(self._cluster.nodes[0])
        if record is not None and record.phase != STABLE:
            return True
        newcomer.resume()
        return False

    def _wait_for(self, what: str, is_met: Callable[[TopologyRecord], bool]) -> None:
        """Wait until the issuer's disk has such a record."""
        deadline_s = time.monotonic() + STEP_S_MAX
        while time.monotonic() < deadline_s:
            record = record_of(self._cluster.nodes[0])
            if record is not None and is_met(record):
                return
            time.sleep(STEP_POLL_S)
        raise Setback(f"waited {STEP_S_MAX:.0f} s for {what}")

    # ------------------------------------------------------------------ the end of a removal

    def _finish_removal(self, victim: HurtNode) -> bool:
        """Run the command that removes it, then let its disk come back: it hands over what only it has, and ends."""
        done = self._turnover.until(f"the removal of {victim.name}", lambda: self._is_removed(victim))
        if not done:
            return False
        self._turnover.dead.discard(victim)
        self._turnover.leaving.add(victim)
        if not victim.is_running and not victim.has_left:
            victim.start()
        done = self._turnover.until(f"the end of {victim.name}", lambda: self._is_gone(victim))
        self._turnover.removed += done
        if done:
            self._turnover.leaving.discard(victim)
            self._turnover.forget(victim)
        return done

    def _is_removed(self, victim: HurtNode) -> bool:
        """Ask again unless the step is under way or over, and have the command say so at the end.

        By its id: after a start of all nodes nobody remembers the name of one that is dead.
        """
        issuer, node = self._cluster.nodes[0], id_of(victim)
        record = record_of(issuer)
        if record is None or record.phase != STABLE:
            return False
        if weight_of(record.ring, node):
            with contextlib.suppress(FrysError):
                issuer.call("POST", f"/v1/members/{node}/remove", {"accept_loss": False})
            return False
        command = [sys.executable, "-m", "frys_node", "node", "remove", node, "--json"]
        command += ["--data-dir", str(issuer.data_dir), "--timeout", f"{COMMAND_S_MAX:g}s"]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode != 0:
            say(f"node remove {victim.name}: {done.stderr.strip()}")
        return done.returncode == 0

    def _is_gone(self, victim: HurtNode) -> bool:
        record = record_of(self._cluster.nodes[0])
        is_off = record is not None and record.phase == STABLE and id_of(victim) not in record.members()
        return is_off and victim.has_left


def leave_and_join(record: TopologyRecord, leaver: NodeId, joiner: NodeId | None) -> str:
    """Tell how far a leave and a join are: only asked for, in a phase of a step, or over; `TOO_LATE` if both are over.

    Args:
        record: What the issuer had adopted.
        leaver: The node that leaves.
        joiner: The node that joins, None while it has no id.
    """
    is_left, has_joined = not weight_of(record.ring, leaver), joiner is not None and weight_of(record.ring, joiner)
    leaves = not weight_of(record.next_ring, leaver)
    joins = joiner is not None and weight_of(record.next_ring, joiner)
    leave = "over" if is_left else f"in {record.phase}" if leaves else "asked for"
    join = "over" if has_joined else f"in {record.phase}" if joins else "asked for"
    return TOO_LATE if is_left and has_joined else f"leave {leave}, join {join}"


def is_removed(record: TopologyRecord, node: NodeId) -> bool:
    """True if a step under way removes the node: after it the node holds nothing, or only what is on its disk alone."""
    return node in record.removed and bool(weight_of(record.ring, node)) and not weight_of(record.next_ring, node)


def newcomers(record: TopologyRecord) -> list[NodeId]:
    """Return the nodes that a step under way takes in."""
    return [node for node in changed_nodes(record) if weight_of(record.ring, node) is None]


def _changes_waiting(issuer: HurtNode) -> float:
    """Return how many joins, leaves and removals wait at the issuer or are under way."""
    try:
        status, text = issuer.request("GET", "/metrics")
    except FrysError:
        return 0.0
    found = WAITING.search(text.decode()) if status == 200 and isinstance(text, bytes) else None
    return float(found.group(1)) if found else 0.0
