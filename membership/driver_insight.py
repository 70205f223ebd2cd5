"""Asks members what they see and measure, over the channel: round trips of a pair, and who reaches whom."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
import trio

from frys_node.base.errors import DeadlineExceeded, FrysError, UsageError
from frys_node.base.ports import Clock
from frys_node.base.types import NodeId
from frys_node.kernel.services.members import Status
from frys_node.kernel.services.rpc import Method, Rpc
from frys_node.wire.codec import Message
from membership.insight import Sight, Who, Why
from membership.machine import Membership
from membership.reachability import Answer, Reachability, Silence, judge

Q = TypeVar("Q")
R = TypeVar("R")

ASK_TIMEOUT_S = 2.0
"""How long a member may take to say what it sees."""

ASKED_AT_ONCE_MAX = 128
"""Members asked at the same time; in larger clusters the others follow."""


class RttAsked(Message, frozen=True):
    """What have you measured of this node?"""

    node: NodeId


class RttTold(Message, frozen=True):
    """Smoothed round trip and its variation, None if there is none; how the member is, None if it is unknown."""

    srtt_s: float | None
    rttvar_s: float | None
    samples: int
    status: str | None
    condition: str | None


UNTOLD = RttTold(None, None, 0, None, None)


class SightAsked(Message, frozen=True):
    """How do you see the others? The digest stands for what the asker sees."""

    digest: int


RTT: Method[RttAsked, RttTold] = Method("membership.rtt", RttAsked, RttTold)
SIGHT: Method[SightAsked, Sight] = Method("membership.sight", SightAsked, Sight)


class Direction(msgspec.Struct, frozen=True, kw_only=True):
    """Round trips that one member has measured to another, by its own pings."""

    a: Who
    b: Who
    srtt_s: float | None
    rttvar_s: float | None
    samples: int
    status: str | None
    """How `a` sees `b`; None if it does not know it, or did not answer."""
    condition: str | None
    error: Silence | None
    """Why `a` did not answer."""


class Rtt(msgspec.Struct, frozen=True, kw_only=True):
    """Body of ``GET /v1/rtt``: a round trip is the same both ways, so each direction is an estimate of the other."""

    directions: Sequence[Direction]
    estimate_s: float | None
    """The mean of what was measured; None if nothing was. There are no coordinates to guess from."""


class InsightDriver:
    """Answers for one node, and asks the others."""

    def __init__(self, *, machine: Membership, clock: Clock, rpc: Rpc) -> None:
        self._machine = machine
        self._clock = clock
        self._rpc = rpc
        self._own: Mapping[str, Callable[[NodeId, Any], Awaitable[Any]]] = {
            RTT.name: self._serve_rtt,
            SIGHT.name: self._serve_sight,
        }
        rpc.serve(RTT, self._serve_rtt)
        rpc.serve(SIGHT, self._serve_sight)

    def why(self, name: str) -> Why:
        """Tell what lies behind a member's state, by name or id. `NotFound`: there is none, or several."""
        return self._machine.insight.why(name, self._clock.now_s(), self._clock.unix_ns())

    def find(self, name: str) -> NodeId:
        """Return the one member of that name or id. `NotFound`: there is none, or several."""
        return self._machine.insight.find(name)

    # Round trips.

    async def rtt(self, a: str, b: str = "") -> Rtt:
        """Return the round trips between two members, or between this node and one.

        Raises:
            NotFound: There is no such member, or several.
            UsageError: It is one and the same node.
        """
        insight = self._machine.insight
        first = insight.find(a)
        second = insight.find(b) if b else self._machine.node
        if first == second:
            raise UsageError(f"'{a}' is {'the same node' if b else 'this node'}", hint="name two different members")
        if not b:
            first, second = second, first
        directions: list[Direction] = []
        async with trio.open_nursery() as nursery:
            for pair in ((first, second), (second, first)):
                nursery.start_soon(self._direction, *pair, directions)
        directions.sort(key=lambda direction: direction.a.id != first)
        measured = [direction.srtt_s for direction in directions if direction.srtt_s is not None]
        return Rtt(directions=directions, estimate_s=sum(measured) / len(measured) if measured else None)

    async def _direction(self, a: NodeId, b: NodeId, out: list[Direction]) -> None:
        answer = await self._ask(a, RTT, RttAsked(b))
        error, told = (answer, UNTOLD) if isinstance(answer, Silence) else (None, answer)
        insight = self._machine.insight
        out.append(
            Direction(
                a=insight.who(a),
                b=insight.who(b),
                srtt_s=told.srtt_s,
                rttvar_s=told.rttvar_s,
                samples=told.samples,
                status=told.status,
                condition=told.condition,
                error=error,
            )
        )

    async def _serve_rtt(self, caller: NodeId, request: RttAsked) -> RttTold:
        await trio.lowlevel.checkpoint()
        trips = self._machine.insight.round_trips(request.node)
        view = self._machine.view(request.node)
        return RttTold(
            trips.srtt_s,
            trips.rttvar_s,
            trips.samples,
            None if view is None else view.status.value,
            None if view is None else view.condition.value,
        )

    # Reachability.

    async def reachability(self) -> Reachability:
        """Ask every live member how it sees the others, each for `ASK_TIMEOUT_S` at most."""
        machine, insight = self._machine, self._machine.insight
        digest = insight.digest
        views = machine.views()
        answers: dict[NodeId, Answer] = {}
        limit = trio.CapacityLimiter(ASKED_AT_ONCE_MAX)
        async with trio.open_nursery() as nursery:
            for view in views:
                if view.status in (Status.ALIVE, Status.SUSPECT):
                    nursery.start_soon(self._look, view.id, digest, limit, answers)
        now_s, unix_ns = self._clock.now_s(), self._clock.unix_ns()
        edges = [insight.edge(seen, unix_ns - round((now_s - seen.at_s) * 1e9)) for seen in machine.edges(now_s)]
        return judge(insight.who(machine.node), views, answers, edges)

    async def _look(
        self, node: NodeId, digest: int, limit: trio.CapacityLimiter, answers: dict[NodeId, Answer]
    ) -> None:
        async with limit:
            started_s = self._clock.now_s()
            sight = await self._ask(node, SIGHT, SightAsked(digest))
            answers[node] = Answer(self._clock.now_s() - started_s, sight)

    async def _serve_sight(self, caller: NodeId, request: SightAsked) -> Sight:
        await trio.lowlevel.checkpoint()
        return self._machine.insight.sight(request.digest, self._clock.now_s())

    # Asking.

    async def _ask(self, node: NodeId, method: Method[Q, R], request: Q) -> R | Silence:
        """Ask a member, or this node itself, for `ASK_TIMEOUT_S` at most."""
        if node == self._machine.node:
            answer: R = await self._own[method.name](node, request)
            return answer
        try:
            with trio.move_on_after(ASK_TIMEOUT_S):
                return await self._rpc.call(node, method, request)
        except FrysError as error:
            return Silence(code=error.code, message=error.message)
        return Silence(code=DeadlineExceeded.code, message=f"no answer within {ASK_TIMEOUT_S:g} s")
