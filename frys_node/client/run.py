"""Some calls on their way: where each goes, and what follows when it comes back without an answer.

Sans-I/O. `Run.begin` and `Run.landed` return flights: calls for one node, to be sent in one go on one connection. The
driver performs them, all at the same time, and hands each one's outcomes back.

The rules. Where no connection is made nothing was sent: each node is tried once. A call that was sent is sent once
more at most: when a node says that it did nothing (it is no owner, its record is older or newer, it is starting), or
when nobody knows and the call is idempotent. The first sending of an idempotent call may take half of the time
that is left, so that there is time for the second.
"""

from __future__ import annotations

from collections.abc import Sequence

from frys_node.base.errors import DeadlineExceeded, FrysError, NodeUnreachable, RemoteError
from frys_node.base.types import Address
from frys_node.client.calls import Answer, Call, Failure, Loss, Outcome, Result
from frys_node.client.core import Core
from frys_node.client.memory import Memory

PIPELINE_MAX = 64
"""Calls in one flight: a node queues twice as many of a connection."""

RETRY_PAUSE_S = 0.1
"""Pause before a call is sent again because a node asked for that."""

SENDS_MAX = 2

PATIENCE_S = 90.0
"""How long a patient call waits on one connection: longer than a node's longest wait, unless it was set so."""

_MOVED = frozenset({"routing.not_owner", "routing.stale_epoch"})
"""The table is old, the node's or the client's."""

_NOTHING_DONE = frozenset({"routing.not_owner", "node.not_ready", "http.too_many_connections"})
"""Refusals after which any call may be sent again."""

_AGAIN = _NOTHING_DONE | {
    *("routing.stale_epoch", "routing.no_replica", "routing.unreachable", "vector.missing_shards", "workflow.sealed")
}
"""Refusals after which an idempotent call may be sent again; time has to pass before that helps."""

_JUDGED = frozenset({409, 421, 503})
"""Statuses that these codes come with: other answers are not looked into."""

PLACEMENT = Call("GET", "/v1/placement")


class Flight:
    """Calls for one node. `deadline_s` is when to stop waiting, `not_before_s` when to send."""

    __slots__ = ("address", "calls", "deadline_s", "not_before_s", "positions")

    def __init__(
        self, address: Address, positions: Sequence[int], calls: Sequence[Call], deadline_s: float, not_before_s: float
    ) -> None:
        self.address = address
        self.positions = tuple(positions)
        """Places of the calls in the run; none for a look at the placement."""
        self.calls = list(calls)
        self.deadline_s = deadline_s
        self.not_before_s = not_before_s


class _Way:
    """How far a call has come."""

    __slots__ = ("sends", "shunned", "tried")

    def __init__(self) -> None:
        self.sends = 0
        self.tried: set[Address] = set()
        """Nodes to which there is no connection."""
        self.shunned: set[Address] = set()
        """Nodes that are asked again only if there is no other."""


class Run:
    """One `Ask` on its way."""

    def __init__(
        self,
        core: Core,
        calls: Sequence[Call],
        deadline_s: float,
        not_before_s: float = 0.0,
        memory: Memory | None = None,
    ) -> None:
        self._core = core
        self._memory = memory
        self._calls = calls
        self._deadline_s = deadline_s
        self._not_before_s = not_before_s
        self._ways = [_Way() for _ in calls]
        self._results: list[Result | None] = [None] * len(calls)
        self._waiting: list[int] = []
        """Calls that wait for the placement."""
        self._is_looking = False
        self._looked: set[Address] = set()
        core.spread()

    @property
    def results(self) -> list[Result]:
        """The outcome of every call, once no flight is under way."""
        return [result for result in self._results if result is not None]

    def begin(self, now_s: float) -> list[Flight]:
        """Return the first flights; without calls the only one is a look at the placement, if it is due."""
        if not self._calls:
            return self._look(now_s) if self._core.is_stale(now_s) else []
        return self._launch(range(len(self._calls)), now_s, self._not_before_s)

    def landed(self, flight: Flight, outcomes: Sequence[Outcome], now_s: float) -> list[Flight]:
        """Take what became of a flight; returns the flights that follow."""
        if not flight.positions:
            return self._looked_up(flight, outcomes[0], now_s)
        if any(isinstance(outcome, Answer) for outcome in outcomes):
            self._core.works(flight.address)
        again: list[int] = []
        pause_s = 0.0
        for position, outcome in zip(flight.positions, outcomes, strict=True):
            if isinstance(outcome, Answer):
                self._core.heard(outcome)
                if self._memory is not None:
                    self._memory.heard(outcome)
                result = self._judge(position, flight.address, outcome)
                pause_s = RETRY_PAUSE_S if result is None else pause_s
            else:
                result = self._lost(position, flight, outcome, now_s)
            self._results[position] = result
            if result is None:
                again.append(position)
        return self._launch(again, now_s, now_s + pause_s)

    # ------------------------------------------------------------------ verdicts

    def _judge(self, position: int, address: Address, answer: Answer) -> Result | None:
        """Return the result of an answer; None if the call is sent again."""
        call, way = self._calls[position], self._ways[position]
        way.sends += 1
        if answer.status < 400 or answer.status in call.accepts:
            return answer
        try:
            error = answer.error()
        except Exception as broken:  # noqa: BLE001 (whatever a stranger answers)
            return RemoteError(f"HTTP {answer.status} of {address}: {broken}")
        if answer.status not in _JUDGED or way.sends >= SENDS_MAX:
            return error
        if error.code not in (_AGAIN if call.is_idempotent else _NOTHING_DONE):
            return error
        if error.code in _MOVED:
            self._core.doubt()
        else:
            way.shunned.add(address)
        return None

    def _lost(self, position: int, flight: Flight, failure: Failure, now_s: float) -> FrysError | None:
        """Return the error of a call without an answer; None if it is sent again."""
        call, way, address = self._calls[position], self._ways[position], flight.address
        self._core.failed(address, now_s)
        if failure.loss is Loss.CONNECT:
            way.tried.add(address)
            return None
        way.sends += 1
        way.shunned.add(address)
        if now_s >= self._deadline_s:
            return DeadlineExceeded(
                f"{address} did not answer in time; whether it did what was asked is unknown", hint="allow more time"
            )
        if call.is_idempotent and way.sends < SENDS_MAX:
            return None
        text = f"{failure.loss.value}: {address}" + (f" ({failure.detail})" if failure.detail else "")
        return NodeUnreachable(f"{text}; whether it did what was asked is unknown", hint="see `frys-node members`")

    # ------------------------------------------------------------------ flights

    def _launch(self, positions: Sequence[int], now_s: float, not_before_s: float = 0.0) -> list[Flight]:
        if not positions:
            return []
        if self._is_looking or self._core.is_stale(now_s):
            self._waiting += positions
            return [] if self._is_looking else self._look(now_s)
        groups: dict[tuple[Address, bool, int], list[int]] = {}
        for position in positions:
            call, way = self._calls[position], self._ways[position]
            address = self._pick(call, way, now_s)
            if address is None:
                self._results[position] = _nobody(way.tried)
                continue
            has_half = call.is_idempotent and not call.is_patient and not way.sends
            # Behind an answer that takes its time nobody waits.
            key = (address, has_half, position if call.is_patient else -1)
            groups.setdefault(key, []).append(position)
        flights = []
        for (address, has_half, _), members in groups.items():
            deadline_s = self._deadline_s
            if has_half:
                deadline_s = now_s + (deadline_s - now_s) / 2
            elif self._calls[members[0]].is_patient:
                deadline_s = min(deadline_s, now_s + PATIENCE_S)
            for start in range(0, len(members), PIPELINE_MAX):
                part = members[start : start + PIPELINE_MAX]
                flights.append(Flight(address, part, [self._dressed(p) for p in part], deadline_s, not_before_s))
        return flights

    def _dressed(self, position: int) -> Call:
        call = self._calls[position]
        return call if self._memory is None else self._memory.dress(call)

    def _pick(self, call: Call, way: _Way, now_s: float) -> Address | None:
        if now_s >= self._deadline_s and way.tried:
            return None
        return self._core.pick(call.place, now_s, way.tried | way.shunned) or self._core.pick(
            call.place, now_s, way.tried
        )

    def _look(self, now_s: float) -> list[Flight]:
        """Ask for the placement, or go on without it when nobody is left to ask."""
        address = self._core.pick(None, now_s, self._looked) if now_s < self._deadline_s else None
        if address is None:
            return self._go_on(now_s)
        self._is_looking = True
        self._looked.add(address)
        deadline_s = now_s + (self._deadline_s - now_s) / 2
        return [Flight(address, (), [PLACEMENT], deadline_s, 0.0)]

    def _looked_up(self, flight: Flight, outcome: Outcome, now_s: float) -> list[Flight]:
        self._is_looking = False
        if isinstance(outcome, Failure):
            self._core.failed(flight.address, now_s)
            return self._look(now_s)
        self._core.works(flight.address)
        if outcome.status >= 400:
            error = outcome.error()
            if outcome.status in (401, 403):
                return self._give_up(error)
            return self._look(now_s)
        try:
            self._core.learn(outcome.body, now_s)
        except RemoteError as error:
            return self._give_up(error)
        return self._go_on(now_s)

    def _give_up(self, error: FrysError) -> list[Flight]:
        for position in self._waiting:
            self._results[position] = error
        self._waiting = []
        return []

    def _go_on(self, now_s: float) -> list[Flight]:
        """Send what waited, by the table at hand, or fail it when there has never been one."""
        waiting, self._waiting = self._waiting, []
        if self._core.table is None:
            self._waiting = waiting
            return self._give_up(_nobody(self._looked))
        self._core.settle(now_s)
        self._looked = set()
        return self._launch(waiting, now_s)


def _nobody(tried: set[Address]) -> NodeUnreachable:
    names = ", ".join(sorted(map(str, tried))) or "nobody"
    return NodeUnreachable(
        f"no node answers: tried {names}; nothing was sent",
        hint="check the URL; is a node up, and its HTTP bound there?",
    )
