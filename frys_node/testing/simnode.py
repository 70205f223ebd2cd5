"""What runs in the simulator, and what it runs on: `SimNode` is yours to write, `SimHost` is handed to it."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from frys_node.testing.disk import FakeDisk

if TYPE_CHECKING:
    from frys_node.testing.simulator import Simulator

UNIX_START_MS = 1_750_000_000_000
"""Wall time at simulated second 0."""


class Packet(NamedTuple):
    """Bytes for another node, by name."""

    destination: str
    payload: bytes


class SimNode(Protocol):
    """A node as the simulator sees it: usually a thin shell around one or more machines."""

    def start(self, now_s: float) -> Sequence[Packet]:
        """Begin; called once per boot, with whatever the disk still holds."""
        ...

    def receive(self, payload: bytes, source: str, now_s: float) -> Sequence[Packet]:
        """Take a packet."""
        ...

    def advance(self, now_s: float) -> Sequence[Packet]:
        """Do what is due; `next_deadline_s` must move on."""
        ...

    def wake(self, token: object, now_s: float) -> Sequence[Packet]:
        """Take what `SimHost.schedule` promised, e.g. a finished fsync."""
        ...

    @property
    def next_deadline_s(self) -> float:
        """When `advance` wants to be called, `math.inf` for never."""
        ...


class SimEvent(NamedTuple):
    """One input that a node has just taken, for checkers. `payload` is empty unless `kind` is ``mail``."""

    at_s: float
    node: str
    kind: str
    source: str
    payload: bytes
    sent: Sequence[Packet]


class SimHost:
    """A machine in the simulation: what outlives the node's process, and its way to schedule."""

    def __init__(self, simulator: Simulator, name: str, index: int) -> None:
        self.name = name
        self.index = index
        self.disk = FakeDisk()
        self.boot = 0
        """Boots so far; 1 in the first."""
        self.rng = random.Random(f"{simulator.seed}/{name}/0")
        """The node's own generator, a fresh one for each boot."""
        self.resumed_s = -math.inf
        """When a pause of this boot last ended."""
        self.wall_offset_ms = 0.0
        self.wall_drift = 0.0
        self._simulator = simulator

    def schedule(self, delay_s: float, token: object) -> None:
        """Call the node's `wake(token, now_s)` later; lost at a crash, held during a pause."""
        self._simulator.wake_later(self.name, delay_s, token)

    def unix_ms(self, now_s: float) -> int:
        """This machine's wall clock, with its steps and drift."""
        return UNIX_START_MS + int(now_s * 1000.0 * (1.0 + self.wall_drift) + self.wall_offset_ms)

    def wall_ms(self) -> int:
        """What this machine's wall clock shows at this instant."""
        return self.unix_ms(self._simulator.now_s)
