"""A cluster of real `frys-node` processes to be hurt: on loopback, or each in its own network namespace.

Only processes that this module started are ever signalled, by their own handle. Namespaces are made inside the private
network that the caller entered first (`frys_node.bench.namespaces.enter`), so interfaces, firewall and `/run` of the
machine are never touched, and everything vanishes with the process.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from chaos.load import Endpoint
from frys_node.base.errors import FrysError
from frys_node.bench import namespaces
from frys_node.demo.cluster import NodeProcess

READY_S_MAX = 60.0
AGREE_S_MAX = 90.0
POLL_S = 0.1


class Setback(Exception):
    """The cluster did not come to the state that the run needs; the message says which, with the end of a log."""


def say(text: str) -> None:
    """Print a line of progress."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def until(what: str, probe: Callable[[], Any], seconds_max: float) -> Any:
    """Poll until the probe is true.

    Raises:
        Setback: It was not true in time.
    """
    deadline = time.monotonic() + seconds_max
    while time.monotonic() < deadline:
        value = probe()
        if value:
            return value
        time.sleep(POLL_S)
    raise Setback(f"waited {seconds_max:.0f} s for {what}")


class HurtNode(NodeProcess):
    """A node that can be paused, and that may live in a namespace of its own."""

    def __init__(self, name: str, home: Path, *, namespace: str | None = None, host: str = "127.0.0.1") -> None:
        super().__init__(name, home)
        self.namespace = namespace
        self.host = host
        self.token_file: Path | None = None
        if namespace is not None:
            self.http_host, self.http_port = host, 8080
            self.bind = f"{host}:7946"
            # The harness reaches the node over its bridge, not over loopback; nobody else can.
            (home / "frys.toml").write_text("[plugins.network]\ninsecure = true\n", encoding="utf-8")

    @property
    def endpoint(self) -> Endpoint:
        """Where the load finds this node."""
        return Endpoint(self.name, self.http_host, self.http_port)

    def command(self, seeds: Sequence[str] = ()) -> list[str]:
        """Return the command line, inside the node's namespace if it has one."""
        line = super().command(seeds)
        if seeds and self.token_file is not None:
            line += ["--token-file", str(self.token_file)]
        return namespaces.inside(self.namespace, *line) if self.namespace else line

    @property
    def is_member(self) -> bool:
        """True if its directory has an identity: then it is started and not joined."""
        return (self.data_dir / "identity" / "identity.json").exists()

    @property
    def has_left(self) -> bool:
        """True if the process has ended because the node left, or was removed: its directory is not started again."""
        marks = (self.data_dir / "identity" / "left", self.data_dir / "topology" / "removed")
        return not self.is_running and any(mark.exists() for mark in marks)

    def kill_soon(self) -> None:
        """Send SIGKILL and do not wait for the end; `reap` does."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)

    def reap(self) -> None:
        """Wait for the end of a killed process."""
        if self.process is not None:
            self.process.wait()

    def pause(self) -> None:
        """Stop the process without ending it."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    @property
    def is_paused(self) -> bool:
        """True if the kernel says that the process is stopped."""
        assert self.process is not None
        return Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    def resume(self) -> None:
        """Let a paused process run on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)


class Cluster:
    """Nodes n1, n2, ...: n1 starts the cluster (and keeps its authority key), the others join it."""

    def __init__(self, folder: Path, nodes: list[HurtNode], subnet: namespaces.Subnet | None = None) -> None:
        self.folder = folder
        self.nodes = nodes
        self._subnet = subnet

    @classmethod
    def on_loopback(cls, folder: Path, count: int) -> Cluster:
        """Make nodes that share 127.0.0.1."""
        return cls(folder, [HurtNode(f"n{i}", folder / f"n{i}") for i in range(1, count + 1)])

    @classmethod
    def in_namespaces(cls, folder: Path, count: int) -> Cluster:
        """Make nodes with a namespace each, joined by a bridge; enter the private network first."""
        subnet = namespaces.Subnet("n", 0)
        subnet.grow(count)
        nodes = [
            HurtNode(f"n{i}", folder / f"n{i}", namespace=subnet.namespace(i), host=subnet.host(i))
            for i in range(1, count + 1)
        ]
        return cls(folder, nodes, subnet)

    def add(self) -> HurtNode:
        """Make one more node with a namespace of its own; it is not started."""
        assert self._subnet is not None, "only clusters in namespaces grow"
        number = self._subnet.count + 1
        self._subnet.grow(number)
        host, namespace = self._subnet.host(number), self._subnet.namespace(number)
        node = HurtNode(f"n{number}", self.folder / f"n{number}", namespace=namespace, host=host)
        node.admin_token = self.nodes[0].admin_token
        node.token_file = self.nodes[0].data_dir / "join-token"
        self.nodes.append(node)
        return node

    @property
    def endpoints(self) -> list[Endpoint]:
        """Where the load finds the nodes."""
        return [node.endpoint for node in self.nodes]

    def start(self) -> None:
        """Start every node and wait until all agree that all are alive and the ring is stable."""
        first, *others = self.nodes
        say(f"starting {len(self.nodes)} nodes in {self.folder}")
        first.start()
        self.wait_ready(first)
        token = (first.data_dir / "admin-token").read_text(encoding="utf-8").strip()
        first.admin_token = token
        for node in others:
            node.admin_token = token
            node.token_file = first.data_dir / "join-token"
            node.start([first.bind])
            self.wait_ready(node)
        self.wait_agreed()
        until("a stable ring of all nodes", self.is_stable, AGREE_S_MAX)

    def restart(self, node: HurtNode) -> None:
        """Start a node again in its data directory and wait until everybody sees it."""
        node.start()
        self.wait_ready(node)
        self.wait_agreed()

    def start_again(self, node: HurtNode) -> None:
        """Start a killed node; one that had not come so far as to have an identity joins anew."""
        others = [other.bind for other in self.nodes if other is not node]
        node.start(() if node.is_member else others)

    def revive(self, node: HurtNode) -> None:
        """Start a killed node and wait until it is ready, whatever the others think of it."""
        self.start_again(node)
        self.wait_ready(node)

    def wait_ready(self, node: HurtNode) -> None:
        """Wait for a node's `/readyz`.

        Raises:
            Setback: It ended, or is not ready in time; with the end of its log.
        """

        def probe() -> bool:
            if not node.is_running:
                raise Setback(f"{node.name} ended by itself:\n{node.log_tail(30)}")
            return node.is_ready

        try:
            until(f"{node.name} to be ready", probe, READY_S_MAX)
        except Setback as setback:
            raise Setback(f"{setback}\n{node.log_tail(30)}") from setback

    def views(self) -> dict[str, dict[str, str]]:
        """Return what each running node says about the members."""
        return {node.name: node.statuses() for node in self.nodes if node.is_running}

    def living(self) -> list[str]:
        """Names of the nodes whose processes run."""
        return [node.name for node in self.nodes if node.is_running]

    def wait_agreed(self) -> None:
        """Wait until every running node sees every running node alive."""
        names = self.living()

        def probe() -> bool:
            views = self.views()
            return all(views.get(name, {}).get(other) == "alive" for name in names for other in names)

        try:
            until("all nodes to see each other alive", probe, AGREE_S_MAX)
        except Setback as setback:
            raise Setback(f"{setback}: {self.views()}") from setback

    def is_stable(self) -> bool:
        """True if every running node has adopted a stable record with all nodes in it."""
        try:
            rings = [node.call("GET", "/v1/ring") for node in self.nodes if node.is_running]
        except FrysError:
            return False
        return all(ring["phase"] == "stable" and len(ring["members"]) == len(self.nodes) for ring in rings)

    def stop(self) -> None:
        """End every process that this cluster started."""
        for node in self.nodes:
            if node.is_running:
                with contextlib.suppress(ProcessLookupError):
                    node.resume()
        for node in self.nodes:
            node.stop()


@contextlib.contextmanager
def running(cluster: Cluster) -> Iterator[Cluster]:
    """Start a cluster and stop it afterwards, whatever happened."""
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def split(side: Sequence[HurtNode], others: Sequence[HurtNode], *, one_way: bool = False) -> None:
    """Drop everything between two groups of nodes; with `one_way` only what `side` sends."""
    for node in side:
        assert node.namespace is not None
        namespaces.cut(
            node.namespace, [far.host for far in others], hooks=["output"] if one_way else ["output", "input"]
        )


def heal(side: Sequence[HurtNode]) -> int:
    """Take the drops of `split` away; returns how many packets they dropped."""
    dropped = 0
    for node in side:
        assert node.namespace is not None
        dropped += namespaces.dropped(node.namespace)
        namespaces.forget(node.namespace, namespaces.CUT)
    return dropped
