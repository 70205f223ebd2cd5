"""The cluster of `bench move`: four node processes on loopback, filled until one of them holds what was asked for."""

from __future__ import annotations

import itertools
import json
import random
import re
import time
from collections.abc import Callable
from pathlib import Path

from frys_node.base.errors import FrysError, NodeUnreachable
from frys_node.base.units import point_key, slot_of
from frys_node.bench.move_load import Span
from frys_node.bench.runner import cpu_s, tell
from frys_node.client.calls import Place
from frys_node.client.table import Table
from frys_node.demo.cluster import NodeProcess
from frys_node.demo.console import DemoFailed

DIMENSION = 32
BATCH = 500
TELL_BATCHES = 20
VALUE = b"v" * 200
COLLECTION = "move"
SPACE = "bench"

LIMIT_S = 900.0
"""After this a leave or a join has failed."""

POLL_S = 0.1

QUIET_SHARE = 0.25
"""Of one core, all nodes together: below this they do nothing but idle."""

QUIET_WINDOW_S = 2.0
QUIET_LIMIT_S = 300.0

SETTINGS = {"FRYS_PLUGINS_CACHE_MEMORY_BYTES_MAX": str(512 << 20)}

_TRANSFERRED = re.compile(r'^frys_snapshots_transfer_bytes_total\{direction="received"\} (\S+)$', re.MULTILINE)
_POINTS = re.compile(r"^frys_vector_points (\S+)$", re.MULTILINE)
_ENTRIES = re.compile(r"^frys_cache_entries (\S+)$", re.MULTILINE)


class Cluster:
    """The nodes, and what was put into them."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.nodes: dict[str, NodeProcess] = {}
        self.points = 0
        self.entries = 0
        self.leaver = ""
        """The node that will leave: of those that did not found the cluster the one with most shards."""
        self.table: Table
        """Who holds what, before anything moves."""
        self._rng = random.Random(1)

    # ------------------------------------------------------------------ nodes

    def start(self, name: str) -> NodeProcess:
        """Start a node and return it; the first founds the cluster."""
        node = self.nodes[name] = NodeProcess(name, self.home / name, settings=SETTINGS)
        node.start([self.nodes["a"].bind] if len(self.nodes) > 1 else [])
        return node

    def wait(self, what: str, probe: Callable[[], bool], limit_s: float = LIMIT_S) -> None:
        """Wait until something is so.

        Raises:
            DemoFailed: It is not so within the limit.
        """
        end_s = time.monotonic() + limit_s
        while time.monotonic() < end_s:
            try:
                if probe():
                    return
            except DemoFailed:
                raise
            except FrysError:
                pass
            time.sleep(POLL_S)
        logs = "\n".join(f"--- {name}\n{node.log_tail(5)}" for name, node in self.nodes.items())
        raise DemoFailed(f"{what}: not within {limit_s:g} s\n{logs}")

    def settled(self, count: int) -> bool:
        """Return whether so many nodes are on a ring that is stable and settled at the issuer."""
        topology = self.nodes["a"].call("GET", "/v1/topology")
        is_stable = topology["phase"] == "stable" and topology["settled"] and not topology["queued"]
        return bool(is_stable and len(topology["members"]) == count)

    def form(self, names: str) -> None:
        """Start the nodes one after another and wait for the ring."""
        for name in names:
            node = self.start(name)
            self.wait(f"node {name} ready", lambda n=node: _is_up(n), 120.0)  # type: ignore[misc]
        self.wait("the ring", lambda: self.settled(len(names)), 120.0)

    def quieten(self) -> None:
        """Wait until the nodes are done with what was put into them: graphs over new vectors, syncs, hash trees.

        What is measured next is compared with the time before it, which must not be one of hard work.
        """
        end_s = time.monotonic() + QUIET_LIMIT_S
        while time.monotonic() < end_s:
            before_s, begun_s = self._cpu_s(), time.monotonic()
            time.sleep(QUIET_WINDOW_S)
            if (self._cpu_s() - before_s) / (time.monotonic() - begun_s) < QUIET_SHARE:
                return
        tell(f"the nodes are still at work after {QUIET_LIMIT_S:g} s: the figures before are those of a busy cluster")

    def _cpu_s(self) -> float:
        return sum(cpu_s(node.process.pid) for node in self.nodes.values() if node.process is not None)

    def stop(self) -> None:
        """Stop every node, the founder last."""
        for node in reversed(list(self.nodes.values())):
            node.stop()

    # ------------------------------------------------------------------ data

    def fill(self, held: int) -> None:
        """Put vectors and entries there until the leaver has to hold `held` of each."""
        a = self.nodes["a"]
        a.call("PUT", f"/collections/{COLLECTION}", {"vectors": {"size": DIMENSION, "distance": "Cosine"}})
        self.table = Table(json.dumps(a.call("GET", "/v1/placement")).encode())
        self.leaver = max(
            (name for name in self.nodes if name != "a"),
            key=lambda name: sum(self.holds(name, point_place(n)) for n in range(BATCH)),
        )
        points = entries = 0
        for batch in itertools.count(1):
            if points >= held and entries >= held:
                break
            if points < held:
                points += self._put_points(range(self.points, self.points + BATCH))
            if entries < held:
                entries += self._put_entries(range(self.entries, self.entries + BATCH))
            if batch % TELL_BATCHES == 0:
                tell(f"{self.points:,} vectors and {self.entries:,} entries, {points:,} and {entries:,} at the leaver")
        tell(f"filled: {self.points:,} vectors and {self.entries:,} entries, three copies of each")

    def _put_points(self, numbers: range) -> int:
        points = [{"id": n, "vector": self.vector(), "payload": {"n": n}} for n in numbers]
        self.nodes["a"].call("PUT", f"/collections/{COLLECTION}/points?wait=true", {"points": points})
        self.points = numbers.stop
        return sum(self.holds(self.leaver, point_place(n)) for n in numbers)

    def _put_entries(self, numbers: range) -> int:
        entries = [{"key": filled_key(n), "value": VALUE.decode()} for n in numbers]
        self.nodes["a"].call("POST", f"/v1/cache/{SPACE}", {"put": entries})
        self.entries = numbers.stop
        return sum(self.holds(self.leaver, key_place(filled_key(n))) for n in numbers)

    def vector(self) -> list[float]:
        """Return a random vector."""
        return [round(self._rng.uniform(-1, 1), 4) for _ in range(DIMENSION)]

    def holds(self, name: str, place: Place) -> bool:
        """Return whether a node holds what lives there, before anything moves."""
        return any(server.name == name for server in self.table.holders(place))

    def leads(self, name: str, place: Place) -> bool:
        """Return whether a node is the first of those that hold it: whom the shipped client asks."""
        return next((server.name == name for server in self.table.holders(place)), False)

    # ------------------------------------------------------------------ what nodes say

    def held(self, name: str) -> tuple[int, int]:
        """Return how many vectors and cache entries a node says that it holds."""
        text = self.nodes[name].request("GET", "/metrics")[1].decode()
        points, entries = _POINTS.search(text), _ENTRIES.search(text)
        if points is None or entries is None:
            raise DemoFailed(f"node {name} does not tell what it holds")
        return int(float(points[1])), int(float(entries[1]))

    def received_bytes(self) -> float:
        """Return the bytes of chunks that the running nodes have taken."""
        total = 0.0
        for node in self.nodes.values():
            if node.is_running:
                try:
                    text = node.request("GET", "/metrics")[1]
                except NodeUnreachable:
                    continue
                total += sum(float(found) for found in _TRANSFERRED.findall(text.decode()))
        return total

    # ------------------------------------------------------------------ what happens

    def leave(self) -> Span:
        """Have the leaver leave, and wait until the ring is settled without it."""
        begun_s = time.monotonic()
        node, count = self.nodes[self.leaver], len(self.nodes) - 1
        command = node.command_line("leave", "--data-dir", str(node.data_dir))
        self.wait(f"{self.leaver} has left", lambda: not node.is_running and self.settled(count))
        command.wait()
        return Span(begun_s, time.monotonic())

    def join(self, name: str) -> Span:
        """Have a node join, and wait until the ring is settled with it."""
        begun_s = time.monotonic()
        count = sum(node.is_running for node in self.nodes.values()) + 1
        self.start(name)
        self.wait(f"{name} has joined", lambda: self.settled(count))
        return Span(begun_s, time.monotonic())


def _is_up(node: NodeProcess) -> bool:
    """Return whether a node that was started is ready; waiting for one that has ended would be in vain."""
    if not node.is_running:
        raise DemoFailed(f"node {node.name} has ended:\n{node.log_tail(5)}")
    return node.is_ready


def filled_key(number: int) -> str:
    """Return the key of an entry that was filled in."""
    return f"filled:{number}"


def key_place(key: str) -> Place:
    """Return where a cache key lives."""
    return ("cache", slot_of(key.encode()))


def point_place(number: int) -> Place:
    """Return where a point of the collection lives."""
    return ("point", COLLECTION, point_key(number))
