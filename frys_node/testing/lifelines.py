"""TCP between simulated nodes, as far as a failure detector sees it: connections, ends, refusals, acknowledgements.

What Linux does, without a kernel: a process that dies ends its connections and refuses new ones, a paused one keeps its
connections, has its bytes acknowledged and its backlog accept, and a cut link answers nothing. FINs are sent again when
they are lost; the reset that says "refused" is not, but the racing attempts of a dial are several. Filters may refuse
connections and let packets pass (`reject`), or stop packets and let connections pass (`spare`). Where a process has
died, another one that is no member may listen on its port (`occupy`).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from frys_node.base.types import NodeId
from frys_node.testing.simulator import Simulator
from membership.findings import (
    LifelineDown,
    LifelineEnd,
    LifelineUp,
    Nudged,
    PortState,
    Refused,
    Response,
    Tried,
)
from membership.patience import RESEND_S, acknowledged_within_s, greeted_within_s, race_limit_s

RACE_S = (0.0, 0.1, 0.2, 0.3, 0.4)
FIN_RESENDS_S = (0.0, 0.2, 0.6, 1.4, 3.0, 6.2)
"""When the kernel of a dead process sends its FIN; after the last one only a nudge finds out."""

HOLD_S = 0.03
ASK_PATIENCE_S = 0.3
NUDGE_LOOK_S = 0.1
REDIAL_FIRST_S = 0.2
REDIAL_MAX_S = 5.0


class _Line(NamedTuple):
    """A connection: the processes at both ends."""

    boot: int
    """The watcher's boot in the simulation."""
    subject_boot: int
    told_boot: int
    """The subject's boot as it tells it."""


class Carried(NamedTuple):
    """What came over a connection where packets do not pass."""

    source: str
    data: bytes


class SimLifelines:
    """The connections of one simulation."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self._rng = random.Random(f"{simulator.seed}/lifelines")
        self._names: dict[NodeId, str] = {}
        self._boots: dict[str, int] = {}
        """Boots as the nodes tell them, by name."""
        self._goodbyes: set[str] = set()
        self._lines: dict[tuple[str, str], _Line] = {}
        self._wanted: dict[str, frozenset[str]] = {}
        self._strangers: set[str] = set()
        self._rejected: set[tuple[str, str]] = set()
        self._spared: set[tuple[str, str]] = set()
        simulator.on_crash(self._crashed)

    def started(self, name: str, node: NodeId, boot: int) -> None:
        """A process has started."""
        self._names[node] = name
        self._boots[name] = boot
        self._wanted[name] = frozenset()
        self._goodbyes.discard(name)
        self._strangers.discard(name)

    def occupy(self, name: str) -> None:
        """Have a process that is no member listen on the port of a node that has ended, and answer everybody."""
        self._strangers.add(name)

    def goodbye(self, name: str) -> None:
        """The process says that it goes: the end of its connections is announced."""
        self._goodbyes.add(name)

    def reject(self, watchers: Iterable[str], subject: str) -> None:
        """Have a filter answer these watchers' packets to a subject by resets; connections that are idle stay."""
        self._rejected |= {(watcher, subject) for watcher in watchers}

    def spare(self, others: Iterable[str], subject: str) -> None:
        """Have connections between these and a subject pass where packets are cut."""
        for other in others:
            self._spared |= {(other, subject), (subject, other)}

    def accept(self) -> None:
        """End all filters."""
        self._rejected.clear()

    def carry(self, source: str, target: str, data: bytes) -> bool:
        """Bring data to a process where packets to it are cut and connections pass; False if that is not so."""
        if not self._simulator.is_cut(source, target) or not self._passes(source, target):
            return False
        if self._simulator.is_up(target):
            self._simulator.wake_later(target, self._delay_s(1), Carried(source, data))
        return True

    def holds(self, watcher: str, subject: str) -> bool:
        """True while the watcher's connection to the subject stands."""
        return (watcher, subject) in self._lines

    def cut_line(self, watcher: str, subject: str) -> None:
        """Break one connection as a filter does: both processes live."""
        line = self._lines.pop((watcher, subject), None)
        if line is not None:
            self._tell(watcher, LifelineDown(self._node(subject), line.told_boot, LifelineEnd.LOST))
            self._redial(watcher, subject, REDIAL_FIRST_S)

    # What the machine asks.

    def keep(self, watcher: str, nodes: Sequence[NodeId]) -> None:
        """Have connections to these nodes."""
        wanted = frozenset(self._names[node] for node in nodes if node in self._names)
        new = wanted - self._wanted.get(watcher, frozenset())
        self._wanted[watcher] = wanted
        for subject in sorted(new):
            self._redial(watcher, subject, 0.0)

    def reconnect(self, watcher: str, node: NodeId, boot: int, trip_s: float) -> None:
        """Race attempts and say what came of them; `trip_s` is what the watcher takes a round trip for."""
        self._race(watcher, node, boot, trip_s, math.inf)

    def try_port(self, watcher: str, node: NodeId, boot: int, trip_s: float, patience_s: float | None) -> None:
        """Look at a port, and who is behind it if that is asked."""
        self._race(watcher, node, boot, trip_s, patience_s)

    def nudge(self, watcher: str, node: NodeId, boot: int, trip_s: float, patience_s: float = 0.0) -> None:
        """Send a byte and look who answers."""

        def tell(response: Response, delay_s: float) -> None:
            self._tell(watcher, Nudged(node, boot, response, patience_s), delay_s)

        self._after(0.0, watcher, lambda: self._nudge(watcher, node, boot, trip_s, patience_s, tell))

    def _nudge(
        self,
        watcher: str,
        node: NodeId,
        boot: int,
        trip_s: float,
        patience_s: float,
        tell: Callable[[Response, float], None],
    ) -> None:
        subject = self._names[node]
        line = self._lines.get((watcher, subject))
        if line is None or line.told_boot != boot:
            responses = {PortState.GREETED: Response.ANSWERED, PortState.OPEN: Response.ACKNOWLEDGED}
            self._look(
                (watcher, subject, boot),
                trip_s,
                max(ASK_PATIENCE_S, patience_s),
                lambda state, delay_s: tell(responses.get(state, Response.UNKNOWN), delay_s),
            )
            return
        if (watcher, subject) in self._rejected:
            self.cut_line(watcher, subject)
            tell(Response.UNKNOWN, NUDGE_LOOK_S)
            return
        within_s, sent_s, trip_taken_s = acknowledged_within_s(trip_s), 0.0, self._delay_s(2)
        while sent_s + trip_taken_s <= within_s:
            look_s = NUDGE_LOOK_S * max(1, math.ceil((sent_s + trip_taken_s) / NUDGE_LOOK_S))
            # The kernel sends again what was lost.
            sent_s += trip_taken_s + RESEND_S
            if not self._is_through(watcher, subject):
                continue
            if not self._is_process(subject, line.subject_boot):
                # Nobody has this connection any more: a reset comes back.
                del self._lines[watcher, subject]
                self._tell(watcher, LifelineDown(self._node(subject), boot, LifelineEnd.LOST), trip_taken_s)
                tell(Response.UNKNOWN, look_s)
            elif self._runs(subject):
                tell(Response.ANSWERED, look_s)
            elif not patience_s:
                tell(Response.ACKNOWLEDGED, look_s)
            else:
                enough_s = max(look_s, patience_s + trip_s)
                self._after(enough_s, watcher, lambda: tell(self._late(subject, line), 0.0))
            return
        tell(Response.SILENT, within_s)

    def _late(self, subject: str, line: _Line) -> Response:
        """What a process that stood still when it was nudged has done since."""
        if not self._is_process(subject, line.subject_boot):
            return Response.UNKNOWN
        return Response.ANSWERED if self._runs(subject) else Response.ACKNOWLEDGED

    def _runs(self, subject: str) -> bool:
        """True if a process does what it is asked; one that keeps its mail unread stands still, for all others see."""
        is_reading = getattr(self._simulator.node(subject), "is_reading", True)
        return is_reading and not self._simulator.is_paused(subject)

    def _is_through(self, watcher: str, subject: str) -> bool:
        return self._passes(watcher, subject) and self._passes(subject, watcher)

    # Dialling.

    def _redial(self, watcher: str, subject: str, pause_s: float) -> None:
        self._after(pause_s, watcher, lambda: self._dial(watcher, subject, max(pause_s, REDIAL_FIRST_S)))

    def _dial(self, watcher: str, subject: str, pause_s: float) -> None:
        if subject not in self._wanted.get(watcher, ()) or (watcher, subject) in self._lines:
            return
        if not self._connect(watcher, subject):
            is_closed = not self._simulator.is_up(subject) and subject not in self._strangers
            if (watcher, subject) in self._rejected or is_closed:
                self._tell(watcher, Refused(self._node(subject)), self._delay_s(2))
            self._redial(watcher, subject, min(REDIAL_MAX_S, 2.0 * pause_s))

    def _connect(self, watcher: str, subject: str) -> bool:
        """Connect and greet if both processes run and somebody's packets pass."""
        if (watcher, subject) in self._rejected:
            return False
        passes = any(self._is_through(watcher, subject) for _ in RACE_S)
        return passes and self._greet(watcher, subject)

    def _greet(self, watcher: str, subject: str) -> bool:
        """Greet over a connection that was accepted."""
        simulator = self._simulator
        if not simulator.is_up(subject) or simulator.is_paused(subject):
            return False
        told = self._boots[subject]
        self._lines[watcher, subject] = _Line(simulator.host(watcher).boot, simulator.host(subject).boot, told)
        self._tell(watcher, LifelineUp(self._node(subject), told), self._delay_s(4))
        return True

    def _look(
        self,
        whom: tuple[str, str, int],
        trip_s: float,
        patience_s: float | None,
        tell: Callable[[PortState, float], None],
    ) -> None:
        """See what a port does, as who looks at whom in which life; `tell` hears it and in how long it is known."""
        watcher, subject, boot = whom
        simulator, trip_taken_s = self._simulator, self._delay_s(2)
        is_up, is_strange = simulator.is_up(subject), subject in self._strangers
        if (watcher, subject) in self._rejected or not (is_up or is_strange):
            tell(PortState.REFUSED, trip_taken_s)
        elif not any(self._is_through(watcher, subject) for _ in RACE_S):
            tell(PortState.SILENT, race_limit_s(trip_s))
        elif patience_s is None:
            tell(PortState.ACCEPTED, trip_taken_s + HOLD_S)
        elif is_strange:
            tell(PortState.OTHER, 2 * trip_taken_s)
        elif self._runs(subject) and 3 * trip_taken_s <= race_limit_s(trip_s) and self._greet(watcher, subject):
            tell(PortState.GREETED if self._boots[subject] == boot else PortState.OTHER, 3 * trip_taken_s)
        elif patience_s == math.inf:
            tell(PortState.SILENT, race_limit_s(trip_s))
        else:
            life = simulator.host(subject).boot

            def conclude() -> None:
                # A process that ends meanwhile breaks the connection, and then its port refuses.
                tell(PortState.OPEN if self._is_process(subject, life) else PortState.REFUSED, 0.0)

            self._after(trip_taken_s + greeted_within_s(patience_s, trip_s), watcher, conclude)

    def _race(self, watcher: str, node: NodeId, boot: int, trip_s: float, patience_s: float | None) -> None:
        """Dial, and say what came of it; with endless patience for an answer it is a lifeline that is wanted."""
        subject = self._names[node]
        if (watcher, subject) in self._rejected:
            self._tell(watcher, Tried(node, boot, PortState.REFUSED), self._delay_s(2))
            return

        def tell(state: PortState, delay_s: float) -> None:
            self._tell(watcher, Tried(node, boot, state), delay_s)

        def arrive() -> None:
            self._look((watcher, subject, boot), trip_s, patience_s, tell)

        for start_s in RACE_S:
            if self._passes(watcher, subject):
                self._after(start_s + self._delay_s(1), watcher, arrive)
                return
        self._tell(watcher, Tried(node, boot, PortState.SILENT), race_limit_s(trip_s))

    # Ends.

    def _crashed(self, name: str) -> None:
        """A process has died: its kernel ends its connections."""
        end = LifelineEnd.GOODBYE if name in self._goodbyes else LifelineEnd.LOST
        for (watcher, subject), line in list(self._lines.items()):
            if watcher == name:
                del self._lines[watcher, subject]
            elif subject == name:
                self._fin(watcher, subject, line, end, 0)

    def _fin(self, watcher: str, subject: str, line: _Line, end: LifelineEnd, number: int) -> None:
        if self._lines.get((watcher, subject)) is not line:
            return
        if self._passes(subject, watcher):
            del self._lines[watcher, subject]
            self._tell(watcher, LifelineDown(self._node(subject), line.told_boot, end), self._delay_s(1))
            self._redial(watcher, subject, REDIAL_MAX_S)
        elif number + 1 < len(FIN_RESENDS_S):
            pause_s = FIN_RESENDS_S[number + 1] - FIN_RESENDS_S[number]
            self._after(pause_s, watcher, lambda: self._fin(watcher, subject, line, end, number + 1))

    # The wires.

    def _is_process(self, name: str, boot: int) -> bool:
        return self._simulator.is_up(name) and self._simulator.host(name).boot == boot

    def _passes(self, source: str, target: str) -> bool:
        if self._simulator.is_cut(source, target) and (source, target) not in self._spared:
            return False
        loss = self._simulator.profile.loss
        return not loss or self._rng.random() >= loss

    def _delay_s(self, trips: int) -> float:
        profile = self._simulator.profile
        return trips * (profile.delay_s + profile.jitter_s * self._rng.random())

    def _node(self, name: str) -> NodeId:
        return next(node for node, known in self._names.items() if known == name)

    def _after(self, delay_s: float, watcher: str, function: Callable[[], None]) -> None:
        """Call a function later if the watcher's process is still the same."""
        simulator, boot = self._simulator, self._simulator.host(watcher).boot

        def call() -> None:
            if self._is_process(watcher, boot):
                function()

        simulator.at(simulator.now_s + delay_s, call)

    def _tell(self, watcher: str, token: object, delay_s: float = 0.0) -> None:
        if self._simulator.is_up(watcher):
            self._simulator.wake_later(watcher, delay_s, token)
