"""Looks at every node's topology record, many times a second, while nodes are hurt.

What a node has adopted is in its directory, written whole and before the node works under it. That is read, and no
route: it shows the record itself and not its number alone, and it is there while the node is paused, cut off or dead.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path

from balancer.record import RECORD, TopologyRecord
from balancer.register import REGISTER_PATH
from balancer.saved import ADOPTED_PATH, FROZEN_PATH
from balancer.topology_messages import SIGNED_RECORD
from chaos.cluster import Cluster, HurtNode, Setback
from chaos.records import Records
from frys_node.base.errors import FrysError
from frys_node.base.types import Epoch, NodeId
from frys_node.secure.stored import IDENTITY_PATH
from frys_node.wire.codec import Codec

LOOK_S = 0.02
"""Pause between looks: a record is in force for longer than that nearly always."""

_EPOCH: Codec[Epoch] = Codec(Epoch)


def record_of(node: HurtNode) -> TopologyRecord | None:
    """Return the record that a node has adopted durably, None before its first."""
    data = _signed(node.data_dir / ADOPTED_PATH)
    return None if data is None else RECORD.decode(data)


def id_of(node: HurtNode) -> NodeId:
    """Return the id of a node that has joined."""
    stored = json.loads((node.data_dir / IDENTITY_PATH).read_bytes())
    return NodeId(stored["node_id"])


def _signed(path: Path) -> bytes | None:
    try:
        return SIGNED_RECORD.decode(path.read_bytes()).data
    except FileNotFoundError:
        return None


class Watch:
    """Collects the records of a cluster's nodes in a thread; `records` is complete once `stop` has returned."""

    def __init__(self, cluster: Cluster) -> None:
        self.records = Records()
        self.ids: dict[str, NodeId] = {}
        self._cluster = cluster
        self._read: dict[Path, tuple[int, int]] = {}
        """Inode and time of each file when it was read last."""
        self._stop = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="watch")

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look once more and end.

        Raises:
            Setback: A record could not be read, so the looks ended early.
        """
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._error is not None:
            raise Setback(f"the looks at the records ended: {self._error!r}")
        self.look()

    def _run(self) -> None:
        try:
            while not self._stop.wait(LOOK_S):
                self.look()
        except (FrysError, OSError, KeyError, ValueError) as error:
            self._error = error

    def look(self) -> None:
        """Read what has changed at any node since the last look."""
        for node in list(self._cluster.nodes):
            adopted, register = node.data_dir / ADOPTED_PATH, node.data_dir / REGISTER_PATH
            if self._has_changed(adopted) and (data := _signed(adopted)) is not None:
                self.records.adopted(node.name, data)
                self.ids.setdefault(node.name, id_of(node))
            if self._has_changed(register) and (data := _signed(register)) is not None:
                self.records.written(node.name, data)
            frozen = node.data_dir / FROZEN_PATH
            if self._has_changed(frozen):
                self.records.alarm(node.name, _EPOCH.decode(frozen.read_bytes()))
        self.records.looks += 1

    def _has_changed(self, path: Path) -> bool:
        try:
            found = path.stat()
        except FileNotFoundError:
            return False
        stamp = (found.st_ino, found.st_mtime_ns)
        has_changed = self._read.get(path) != stamp
        self._read[path] = stamp
        return has_changed

    def is_agreed(self) -> bool:
        """True if every running node works under one and the same record, by its own word and by its disk."""
        running = [node for node in self._cluster.nodes if node.is_running]
        try:
            told = {node.call("GET", "/v1/ring")["epoch"] for node in running}
        except FrysError:
            return False
        held = {_signed(node.data_dir / ADOPTED_PATH) for node in running}
        epochs = {str(RECORD.decode(data).epoch) for data in held if data is not None}
        return len(held) == 1 and told == epochs
