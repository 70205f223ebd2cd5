"""What the tests of lifelines share: the other end of a connection, and a channel and lines by hand."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable

import trio
import trio.testing
from membership_hands import BOOT, B, C, machine

from frys_node.base.ports import Network, Stream
from frys_node.base.types import Address, NodeId
from frys_node.channel.connection import Ending
from frys_node.testing.clock import FakeClock
from frys_node.testing.network import FakeNetwork
from membership.config import for_profile
from membership.driver_lifelines import Lifelines
from membership.effects import Effect
from membership.findings import (
    Finding,
)

SUBJECT = Address("10.0.0.2", 7_946)
LIMIT_S = 10


class Subject:
    """The other end: accepts connections and keeps them, or breaks the first few."""

    def __init__(self, network: FakeNetwork, breaks: int = 0) -> None:
        self.network = network
        self.breaks = breaks
        self.accepted: list[float] = []

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Accept until closed."""
        listener = await self.network.host(SUBJECT.host).listen(SUBJECT)
        task_status.started()
        kept = []
        while True:
            stream, _ = await listener.accept()
            self.accepted.append(trio.current_time())
            if len(self.accepted) <= self.breaks:
                stream.reset()
            else:
                kept.append(stream)
            if self.breaks and len(self.accepted) == self.breaks:
                listener.close()
                return


def here(network: FakeNetwork) -> Network:
    """The network as the watcher sees it."""
    return network.host("10.0.0.1")


class FakeLine:
    """A connection with a kernel at the other end, or none."""

    def __init__(self, counts: Iterable[int | None], answers_after_s: float = math.inf) -> None:
        self._counts = list(counts)
        self._answers_after_s = answers_after_s
        self._nudged_s = math.inf

    def nudge(self) -> None:
        """Take the time."""
        self._nudged_s = trio.current_time()

    @property
    def reads(self) -> int:
        """What has come from a process that answers so long after it was nudged."""
        return int(trio.current_time() - self._nudged_s >= self._answers_after_s)

    def unacknowledged_bytes(self) -> int | None:
        """What the kernel would say this time; the last word stands."""
        return self._counts.pop(0) if len(self._counts) > 1 else self._counts[0]


class FakeChannel:
    """A channel by hand: connections come and go as a test wants it."""

    def __init__(self) -> None:
        self.lines: dict[NodeId, FakeLine] = {}
        self.refusals: list[Exception] = []
        self.greeted: list[NodeId] = []
        self.greeting_s = 0.0
        """How long a greeting takes; infinite: nobody answers it."""
        self.boot = BOOT
        """Which life answers."""
        self._handlers: list[Callable[[NodeId, int, Ending | None], None]] = []

    def on_connection(self, handler: Callable[[NodeId, int, Ending | None], None]) -> None:
        """Register."""
        self._handlers.append(handler)

    def is_connected(self, node: NodeId) -> bool:
        """True while a line stands."""
        return node in self.lines

    def lifeline(self, node: NodeId, boot: int) -> FakeLine | None:
        """The line of that boot."""
        return self.lines.get(node) if boot == self.boot else None

    def address(self, node: NodeId) -> Address | None:
        """Everybody is at one place."""
        return SUBJECT

    async def greet(self, node: NodeId, transport: Stream, address: Address) -> None:
        """Refuse as planned, else connect, in a while."""
        self.greeted.append(node)
        try:
            await trio.sleep(self.greeting_s)
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await transport.aclose()
            raise
        if self.refusals:
            await transport.aclose()
            raise self.refusals.pop(0)
        self.up(node)

    def up(self, node: NodeId, line: FakeLine | None = None) -> None:
        """A connection stands."""
        self.lines[node] = line or FakeLine([0])
        self._tell(node, None)

    def down(self, node: NodeId, ending: Ending) -> None:
        """It has ended."""
        del self.lines[node]
        self._tell(node, ending)

    def _tell(self, node: NodeId, ending: Ending | None) -> None:
        for handler in self._handlers:
            handler(node, self.boot, ending)


class Bench:
    """Lifelines over a machine that notes what is found."""

    def __init__(self, network: FakeNetwork) -> None:
        self.network = network
        self.channel = FakeChannel()
        self.found: list[Finding] = []
        self.effects: list[Effect] = []
        self.machine = machine(B, C, config=for_profile("lan"))
        original = self.machine.found

        def found(finding: Finding, now_s: float) -> list[Effect]:
            self.found.append(finding)
            return original(finding, now_s)

        self.machine.found = found  # type: ignore[method-assign]
        self.lifelines = Lifelines(
            machine=self.machine,
            clock=FakeClock(),
            rng=random.Random(1),
            network=here(network),
            channel=self.channel,
            perform=self.effects.extend,
        )

    def last(self, kind: type[Finding]) -> Finding | None:
        """The last finding of a kind."""
        return next((f for f in reversed(self.found) if isinstance(f, kind)), None)
