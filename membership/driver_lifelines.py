"""Lifelines: the channel's connections to the members that this node watches, and what their end means.

Performs what `membership.watch` and `membership.evidence` ask for: keeps a connection to each subject, races a new one
when it breaks, looks whether a port refuses, and nudges. Attempts are raced because a lost SYN costs a second, and the
reset that says "refused" is never sent twice. An attempt that is accepted and then broken met a process that is about
to die, whose listener closes after its connections: it is repeated a few milliseconds later, and never in a tight loop,
which would fill the backlog and be answered by silence.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Protocol

import trio

from frys_node.base.errors import FrysError
from frys_node.base.ports import Clock, Network, Stream
from frys_node.base.types import Address, NodeId
from frys_node.channel.connection import Ending
from frys_node.observe.log import get_logger
from frys_node.secure.errors import HandshakeRefused
from frys_node.transport.errors import ConnectFailed
from membership.driver_errands import Errands
from membership.effects import Effect
from membership.findings import (
    Finding,
    LifelineDown,
    LifelineEnd,
    LifelineUp,
    Nudged,
    PortState,
    Refused,
    Response,
    Tried,
)
from membership.machine import Membership

RACE_S = (0.0, 0.1, 0.2, 0.3, 0.4)
"""When the attempts of one race start."""

REPEAT_S = (0.005, 0.01, 0.02, 0.04, 0.08)
"""Waits before an attempt that was accepted and then broken is repeated."""

RACE_LIMIT_S = 1.2
"""Longest race, greeting included."""

HOLD_S = 0.03
"""How long an accepted connection must stay open to speak for its process."""

NUDGE_LOOK_S = 0.1
"""How often, after a nudge, it is looked what came of it."""

ACKNOWLEDGED_WITHIN_S = 0.3
"""How long the other kernel may take to acknowledge a nudge."""

NUDGE_LIMIT_S = 1.4
"""Longest nudge, looks at the port included; less than the watch waits (`membership.watch.NUDGE_TIMEOUT_S`)."""

REDIAL_FIRST_S = 0.2
REDIAL_MAX_S = 5.0
"""Pauses between attempts to have a lifeline; each is longer than the last."""

_ENDS = {Ending.LOST: LifelineEnd.LOST, Ending.STOPPED: LifelineEnd.STOPPED}

_LOG = get_logger(__name__)


class Line(Protocol):
    """A connection that can be nudged."""

    @property
    def reads(self) -> int:
        """Counts what the process at the other end has sent."""
        ...

    def nudge(self) -> None:
        """Send a few bytes."""
        ...

    def unacknowledged_bytes(self) -> int | None:
        """How much the other kernel has not acknowledged; None where that is not known."""
        ...


class LifelineChannel(Protocol):
    """What lifelines need of the channel (`frys_node.channel.driver.Channel`)."""

    def on_connection(self, handler: Callable[[NodeId, int, Ending | None], None]) -> None:
        """Hear of connections that stand (None) or have ended."""
        ...

    def is_connected(self, node: NodeId) -> bool:
        """True while a connection to the node stands."""
        ...

    def lifeline(self, node: NodeId, boot: int) -> Line | None:
        """The connection to this boot of the node."""
        ...

    async def greet(self, node: NodeId, transport: Stream, address: Address) -> None:
        """Authenticate and keep a connection over a stream that has just been opened."""
        ...

    def address(self, node: NodeId) -> Address | None:
        """Where a node can be dialled."""
        ...


class _Winner:
    """What the first attempt of a race that came to something brought."""

    __slots__ = ("state", "stream")

    def __init__(self) -> None:
        self.state = PortState.OTHER
        self.stream: Stream | None = None


async def race(network: Network, address: Address) -> tuple[PortState, Stream | None]:
    """Dial an address by several attempts at once, until one is accepted or refused.

    Returns:
        OPEN with the stream, REFUSED, or OTHER when all attempts failed otherwise. The caller bounds the wait.
    """
    winner = _Winner()
    async with trio.open_nursery() as nursery:
        for delay_s in RACE_S:
            nursery.start_soon(_attempt, network, address, delay_s, winner, nursery.cancel_scope)
    return winner.state, winner.stream


async def _attempt(
    network: Network, address: Address, delay_s: float, winner: _Winner, scope: trio.CancelScope
) -> None:
    await trio.sleep(delay_s)
    try:
        stream = await network.connect(address)
    except ConnectFailed as error:
        if error.reason == "refused" and winner.stream is None:
            winner.state = PortState.REFUSED
            scope.cancel()
        return
    except FrysError:
        return
    if winner.stream is not None or winner.state is PortState.REFUSED:
        with trio.CancelScope(shield=True):
            await stream.aclose()
        return
    winner.state, winner.stream = PortState.OPEN, stream
    scope.cancel()


async def try_port(network: Network, address: Address) -> PortState:
    """Look whether a port refuses or accepts; accepted connections must stay open for `HOLD_S`."""
    with trio.move_on_after(RACE_LIMIT_S):
        for wait_s in (*REPEAT_S, None):
            state, stream = await race(network, address)
            if stream is None:
                return state
            try:
                with trio.move_on_after(HOLD_S):
                    # Whatever the other side says or does not say, only that it stays counts.
                    await stream.receive_some()
                    state = PortState.OTHER
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                state = PortState.OTHER
            finally:
                with trio.CancelScope(shield=True):
                    await stream.aclose()
            if state is PortState.OPEN or wait_s is None:
                return state
            await trio.sleep(wait_s)
    return PortState.SILENT


class Lifelines:
    """The lifelines of one node."""

    def __init__(
        self,
        *,
        machine: Membership,
        clock: Clock,
        rng: random.Random,
        network: Network,
        channel: LifelineChannel,
        perform: Callable[[Iterable[Effect]], None],
    ) -> None:
        self._machine = machine
        self._clock = clock
        self._rng = rng
        self._network = network
        self._channel = channel
        self._perform = perform
        self._errands = Errands()
        self._nodes: tuple[NodeId, ...] = ()
        """To whom a connection is wanted; the machine says so once, whatever happens to the component."""
        self._wanted: dict[NodeId, trio.CancelScope] = {}
        self._racing: set[NodeId] = set()
        self._changed = trio.Event()
        channel.on_connection(self._on_connection)

    def start(self, nursery: trio.Nursery) -> None:
        """Run in the nursery from now on, until it ends; then again in the next one, if the component is restarted."""
        self._errands.start(nursery)
        # What ran in the nursery before has ended with it.
        self._wanted.clear()
        self._racing.clear()
        self.keep(self._nodes)

    def _on_connection(self, node: NodeId, boot: int, ending: Ending | None) -> None:
        if ending is None:
            self._found(LifelineUp(node, boot))
        else:
            self._found(LifelineDown(node, boot, _ENDS.get(ending, LifelineEnd.GOODBYE)))
        self._changed.set()
        self._changed = trio.Event()

    def _found(self, finding: Finding) -> None:
        self._perform(self._machine.found(finding, self._clock.now_s()))

    # Keeping.

    def keep(self, nodes: tuple[NodeId, ...]) -> None:
        """Have a connection to each of these nodes from now on; others end when their users are done."""
        self._nodes = nodes
        if not self._errands.is_running:
            return
        for node in [node for node in self._wanted if node not in nodes]:
            self._wanted.pop(node).cancel()
        for node in nodes:
            if node not in self._wanted:
                self._wanted[node] = scope = trio.CancelScope()
                self._errands.begin(self._keep, node, scope)

    async def _keep(self, node: NodeId, scope: trio.CancelScope) -> None:
        with scope:
            pause_s = REDIAL_FIRST_S
            while True:
                while self._channel.is_connected(node) or node in self._racing:
                    pause_s = REDIAL_FIRST_S
                    await self._changed.wait()
                address = self._channel.address(node)
                if address is not None and await self._dial(node, address) is PortState.REFUSED:
                    self._found(Refused(node))
                if not self._channel.is_connected(node):
                    await trio.sleep(pause_s * self._rng.uniform(0.5, 1.0))
                    pause_s = min(REDIAL_MAX_S, 2.0 * pause_s)

    async def _dial(self, node: NodeId, address: Address) -> PortState:
        """Have a connection, by racing attempts; the first connect is raced like every other."""
        self._racing.add(node)
        try:
            with trio.move_on_after(RACE_LIMIT_S):
                for wait_s in (*REPEAT_S, None):
                    state, stream = await race(self._network, address)
                    if stream is None:
                        return state
                    try:
                        await self._channel.greet(node, stream, address)
                    except HandshakeRefused as error:
                        if error.reason not in ("eof", "reset") or wait_s is None:
                            return PortState.OTHER
                        await trio.sleep(wait_s)
                    except FrysError:
                        return PortState.OTHER
                    else:
                        return PortState.OPEN
            return PortState.SILENT
        finally:
            self._racing.discard(node)

    # What the machine asks.

    def reconnect(self, node: NodeId, boot: int, address: Address) -> None:
        """Dial anew in the background and tell the machine what came of it."""
        if self._errands.begin(self._reconnect, node, boot, address):
            self._racing.add(node)

    async def _reconnect(self, node: NodeId, boot: int, address: Address) -> None:
        state = await self._dial(node, address)
        _LOG.info("membership.lifeline_lost", peer_id=node, boot=boot, found=state.value)
        self._found(Tried(node, boot, state))
        self._changed.set()
        self._changed = trio.Event()

    def try_port(self, node: NodeId, boot: int, address: Address) -> None:
        """Look at a port in the background and tell the machine what it does."""
        self._errands.begin(self._try_port, node, boot, address)

    async def _try_port(self, node: NodeId, boot: int, address: Address) -> None:
        state = await try_port(self._network, address)
        self._found(Tried(node, boot, state))

    def nudge(self, node: NodeId, boot: int, patience_s: float = 0.0) -> None:
        """Nudge in the background and tell the machine who answered; the process itself may take so long."""
        self._errands.begin(self._nudge, node, boot, patience_s)

    async def _nudge(self, node: NodeId, boot: int, patience_s: float) -> None:
        response = Response.UNKNOWN
        with trio.move_on_after(NUDGE_LIMIT_S):
            response = await self._response(node, boot, patience_s)
        self._found(Nudged(node, boot, response, patience_s))

    async def _response(self, node: NodeId, boot: int, patience_s: float) -> Response:
        line = self._channel.lifeline(node, boot)
        if line is None:
            return await self._ask_port(node, boot)
        start_s, reads, before = trio.current_time(), line.reads, line.unacknowledged_bytes()
        line.nudge()
        is_held = False
        while True:
            await trio.sleep(NUDGE_LOOK_S)
            lasted_s = trio.current_time() - start_s + NUDGE_LOOK_S / 2
            if line.reads != reads:
                return Response.ANSWERED
            if self._channel.lifeline(node, boot) is not line:
                return await self._ask_port(node, boot)
            left = line.unacknowledged_bytes()
            is_held = is_held or left == 0
            if not is_held and (left is None or before):
                # Not known on this system, or the process does not read and its window is full: then its port says.
                state = await self._port_state(node)
                if state is not PortState.OPEN:
                    return Response.SILENT if state is PortState.SILENT else Response.UNKNOWN
                is_held = True
            elif not is_held and lasted_s >= ACKNOWLEDGED_WITHIN_S:
                return Response.SILENT
            if is_held and lasted_s >= patience_s:
                return Response.ACKNOWLEDGED

    async def _ask_port(self, node: NodeId, boot: int) -> Response:
        """Ask where no connection stands: an open port has a kernel behind it, anything else may have many causes."""
        state = await self._port_state(node)
        if self._channel.lifeline(node, boot) is not None:
            # Made meanwhile: somebody has greeted and was greeted.
            return Response.ANSWERED
        return Response.ACKNOWLEDGED if state is PortState.OPEN else Response.UNKNOWN

    async def _port_state(self, node: NodeId) -> PortState:
        address = self._channel.address(node)
        return PortState.OTHER if address is None else await try_port(self._network, address)
