"""Lifelines: the channel's connections to the members that this node watches, and what their end means.

Performs what `membership.watch` and `membership.evidence` ask for: keeps a connection to each subject, races a new one
when it breaks, looks whether a port refuses, and nudges. Attempts are raced because a lost SYN costs a second, and the
reset that says "refused" is never sent twice. An attempt that is accepted and then broken met a process that is about
to die, whose listener closes after its connections: it is repeated a few milliseconds later, and never in a tight loop,
which would fill the backlog and be answered by silence. An open port proves nothing by itself: anybody may listen there
by now. So whoever accepts is greeted as a member is; only one that says nothing at all is a kernel alone.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
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
from membership.patience import RACE_LIMIT_S, acknowledged_within_s, greeted_within_s, nudge_limit_s, race_limit_s

RACE_S = (0.0, 0.1, 0.2, 0.3, 0.4)
"""When the attempts of one race start."""

REPEAT_S = (0.005, 0.01, 0.02, 0.04, 0.08)
"""Waits before an attempt that was accepted and then broken is repeated."""

HOLD_S = 0.03
"""How long an accepted connection must stay open where nobody is greeted."""

NUDGE_LOOK_S = 0.1
"""How often, after a nudge, it is looked what came of it."""

ASK_PATIENCE_S = 0.3
"""How long a process that runs may take, at least, to answer a greeting where no connection stands to nudge it on."""

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


Greeting = Callable[[Stream], Awaitable[PortState | None]]
"""Greets over a stream, and closes it unless it keeps it; None if the connection broke before anybody spoke."""


async def try_port(
    network: Network,
    address: Address,
    *,
    limit_s: float = RACE_LIMIT_S,
    greet: Greeting | None = None,
    hold_s: float = HOLD_S,
) -> PortState:
    """Look what a port does, and who is behind it.

    Args:
        network: To dial by.
        address: The port.
        limit_s: Longest wait for somebody to accept or refuse.
        greet: Asks whoever accepts who it is; None: nobody is asked.
        hold_s: How long an accepted connection must stay open, and a greeting unanswered.
    """
    with trio.move_on_after(limit_s) as scope:
        for wait_s in (*REPEAT_S, None):
            state, stream = await race(network, address)
            if stream is None:
                return state
            scope.deadline = max(scope.deadline, trio.current_time() + hold_s + sum(REPEAT_S))
            found = await _hold(stream, hold_s) if greet is None else await _ask(stream, hold_s, greet)
            if found is not None:
                return found
            if wait_s is None:
                return PortState.OTHER
            await trio.sleep(wait_s)
    return PortState.SILENT


async def _hold(stream: Stream, hold_s: float) -> PortState | None:
    """Return ACCEPTED if the connection stays open; None if it does not, or somebody speaks unasked."""
    try:
        with trio.move_on_after(hold_s) as scope:
            await stream.receive_some()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return None
    finally:
        with trio.CancelScope(shield=True):
            await stream.aclose()
    return PortState.ACCEPTED if scope.cancelled_caught else None


async def _ask(stream: Stream, hold_s: float, greet: Greeting) -> PortState | None:
    """Return OPEN if nobody answers a greeting, else what came of it."""
    with trio.move_on_after(hold_s):
        return await greet(stream)
    return PortState.OPEN


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
            with trio.move_on_after(race_limit_s(self._machine.trip_s(node))):
                for wait_s in (*REPEAT_S, None):
                    state, stream = await race(self._network, address)
                    if stream is None:
                        return state
                    found = await self._greet(node, address, stream)
                    if found is not None:
                        return found
                    if wait_s is None:
                        return PortState.OTHER
                    await trio.sleep(wait_s)
            return PortState.SILENT
        finally:
            self._racing.discard(node)

    async def _greet(self, node: NodeId, address: Address, stream: Stream) -> PortState | None:
        """Greet over a stream: GREETED if the member answers, in whatever life; None if it broke before that."""
        try:
            await self._channel.greet(node, stream, address)
        except HandshakeRefused as error:
            return None if error.reason in ("eof", "reset") else PortState.OTHER
        except FrysError:
            return PortState.OTHER
        return PortState.GREETED

    def _as_life(self, node: NodeId, boot: int, state: PortState) -> PortState:
        """Return what was found as it speaks for one life: another one that greets says nothing of it."""
        is_other = state is PortState.GREETED and self._channel.lifeline(node, boot) is None
        return PortState.OTHER if is_other else state

    # What the machine asks.

    def reconnect(self, node: NodeId, boot: int, address: Address) -> None:
        """Dial anew in the background and tell the machine what came of it."""
        if self._errands.begin(self._reconnect, node, boot, address):
            self._racing.add(node)

    async def _reconnect(self, node: NodeId, boot: int, address: Address) -> None:
        state = self._as_life(node, boot, await self._dial(node, address))
        _LOG.info("membership.lifeline_lost", peer_id=node, boot=boot, found=state.value)
        self._found(Tried(node, boot, state))
        self._changed.set()
        self._changed = trio.Event()

    def try_port(self, node: NodeId, boot: int, address: Address, patience_s: float | None = None) -> None:
        """Look at a port in the background and tell the machine what it does, and who is there if that is asked."""
        self._errands.begin(self._try_port, node, boot, address, patience_s)

    async def _try_port(self, node: NodeId, boot: int, address: Address, patience_s: float | None) -> None:
        self._found(Tried(node, boot, await self._port_state(node, boot, address, patience_s)))

    async def _port_state(self, node: NodeId, boot: int, address: Address, patience_s: float | None) -> PortState:
        trip_s = self._machine.trip_s(node)
        if patience_s is None:
            return await try_port(self._network, address, limit_s=race_limit_s(trip_s))
        state = await try_port(
            self._network,
            address,
            limit_s=race_limit_s(trip_s),
            greet=partial(self._greet, node, address),
            hold_s=greeted_within_s(patience_s, trip_s),
        )
        return self._as_life(node, boot, state)

    def nudge(self, node: NodeId, boot: int, patience_s: float = 0.0) -> None:
        """Nudge in the background and tell the machine who answered; the process itself may take so long."""
        self._errands.begin(self._nudge, node, boot, patience_s)

    async def _nudge(self, node: NodeId, boot: int, patience_s: float) -> None:
        response = Response.UNKNOWN
        with trio.move_on_after(nudge_limit_s(self._machine.trip_s(node))):
            response = await self._response(node, boot, patience_s)
        self._found(Nudged(node, boot, response, patience_s))

    async def _response(self, node: NodeId, boot: int, patience_s: float) -> Response:
        line = self._channel.lifeline(node, boot)
        if line is None:
            return await self._ask_port(node, boot, patience_s)
        trip_s = self._machine.trip_s(node)
        enough_s = patience_s + trip_s if patience_s else 0.0
        start_s, reads, before = trio.current_time(), line.reads, line.unacknowledged_bytes()
        line.nudge()
        is_held = False
        while True:
            await trio.sleep(NUDGE_LOOK_S)
            lasted_s = trio.current_time() - start_s + NUDGE_LOOK_S / 2
            if line.reads != reads:
                return Response.ANSWERED
            if self._channel.lifeline(node, boot) is not line:
                return await self._ask_port(node, boot, patience_s)
            left = line.unacknowledged_bytes()
            is_held = is_held or left == 0
            if not is_held and (left is None or before):
                # Not known on this system, or the process does not read and its window is full: then its port says.
                address = self._channel.address(node)
                state = PortState.OTHER if address is None else await self._port_state(node, boot, address, None)
                if state is not PortState.ACCEPTED:
                    return Response.SILENT if state is PortState.SILENT else Response.UNKNOWN
                is_held = True
            elif not is_held and lasted_s >= acknowledged_within_s(trip_s):
                return Response.SILENT
            if is_held and lasted_s >= enough_s:
                return Response.ACKNOWLEDGED

    async def _ask_port(self, node: NodeId, boot: int, patience_s: float) -> Response:
        """Ask where no connection stands: a port that accepts and says nothing has a kernel behind it, and no more."""
        address = self._channel.address(node)
        if address is None:
            return Response.UNKNOWN
        state = await self._port_state(node, boot, address, max(ASK_PATIENCE_S, patience_s))
        if self._channel.lifeline(node, boot) is not None:
            # It has greeted and was greeted, here or by whoever dialled meanwhile.
            return Response.ANSWERED
        return Response.ACKNOWLEDGED if state is PortState.OPEN else Response.UNKNOWN
