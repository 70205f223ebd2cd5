"""What an operator asks of the topology: remove a dead node, change a factor, have another node write the record."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Protocol

import msgspec
import trio

from balancer.changes import CLUSTER, owned_by
from balancer.errors import LossNeeded, MemberAlive, PromotionFailed
from balancer.issuer_methods import (
    CHANGE_FACTOR,
    REMOVAL,
    REMOVE_NODE,
    REPLICATION_FACTOR_MAX,
    STANDING,
    AskRemoval,
    ChangeFactor,
    IssuerStanding,
    RemovalView,
    RemoveNode,
)
from balancer.methods import Accepted, Nothing
from balancer.record import STABLE, TopologyRecord, weight_of
from balancer.topology import TopologyMachine
from balancer.topology_effects import TopologyEffect
from frys_node.base.errors import FrysError, IssuerNeeded, NotFound, NotReady, Overloaded, UsageError
from frys_node.base.ports import Clock
from frys_node.base.types import NodeId, Term
from frys_node.kernel.services.members import Condition, Members, Status
from frys_node.kernel.services.rpc import Method, Rep, Req, Rpc

PROMOTE_WAIT_S = 8.0
"""How long a promotion collects promises before it says who is missing."""

HAND_OVER_WAIT_S = 20.0
"""How long the issuer waits for its successor before it takes its role back."""

UNITS_SHOWN_MAX = 8
"""Units named in an error; the rest are counted."""

_log = logging.getLogger(__name__)


class IssuerKeeper(Protocol):
    """What the verbs need of the balancer."""

    @property
    def machine(self) -> TopologyMachine:
        """The topology."""
        ...

    def perform(self, effects: Sequence[TopologyEffect]) -> None:
        """Carry out what the machine asks for."""
        ...

    def wake(self) -> None:
        """A change was queued."""
        ...

    async def ask_issuer(self, method: Method[Req, Rep], request: Req) -> Rep:
        """Call the node that changes the record; `IssuerUnreachable` when it does not answer."""
        ...

    async def changed(self) -> None:
        """Wait for the next adoption or settlement."""
        ...


class IssuerView(msgspec.Struct, frozen=True, kw_only=True):
    """Who writes the topology record, for people."""

    issuer: NodeId
    term: int
    epoch: str
    answers: bool
    can_admit: bool | None
    """The issuer holds the authority's key; null when it does not answer."""
    standby: list[str]
    successor: NodeId | None
    promised: str
    """The term that this node has promised and that is not in force, empty if there is none."""


UNMET_S = 60.0
"""Whoever is on the ring and has not been met within this time after others were heard is taken for dead: seeds and
remembered peers are tried every few seconds."""


class IssuerVerbs:
    """Both sides of the operator's verbs."""

    def __init__(self, rpc: Rpc, keeper: IssuerKeeper, members: Members, clock: Clock) -> None:
        self._rpc = rpc
        self._keeper = keeper
        self._members = members
        self._clock = clock
        self.burials = Burials(members, clock, lambda: keeper.machine.record)
        self.entrust: Callable[[NodeId], Awaitable[None]] = _nothing
        """Gives a successor what it needs to admit nodes, before it takes over."""
        self.is_admitted: Callable[[NodeId], bool] = lambda _node: True
        """Tells whether somebody other than a record says that a node is a member."""
        self.standing: Callable[[], IssuerStanding] = lambda: IssuerStanding(False, [])
        """Tells whether this node could admit nodes."""
        self.accept_keyless: Callable[[], None] = lambda: None
        """An operator has given that key up: from now on the dead are removed without it."""

    def serve(self) -> None:
        """Answer other nodes."""
        self._rpc.serve(REMOVE_NODE, self._serve_remove)
        self._rpc.serve(REMOVAL, self._serve_removal)
        self._rpc.serve(CHANGE_FACTOR, self._serve_factor)
        self._rpc.serve(STANDING, self._serve_standing)

    def _record(self) -> TopologyRecord:
        record = self._keeper.machine.record
        if record is None:
            raise NotReady("this node has no topology record yet", hint="wait until it has joined")
        return record

    def _require_issuer(self) -> TopologyMachine:
        machine = self._keeper.machine
        if not machine.is_issuer:
            raise NotReady("this node is not the issuer of the topology record", hint="ask again")
        return machine

    def _name(self, node: NodeId) -> str:
        view = self._members.get(node)
        return view.name if view is not None else node

    # ------------------------------------------------------------------ removals

    async def remove(self, node: NodeId, *, accepts_loss: bool = False, accepts_keyless: bool = False) -> RemovalView:
        """Have a dead node replaced; returns when that is queued.

        Raises:
            NotFound: The node is not on the ring.
            MemberAlive: It answers, so it can leave by itself.
            LossNeeded: Too few members of some of its units are alive, or it may have the authority's only key; nothing
                was changed.
            IssuerUnreachable: The issuer does not answer.
        """
        await self._keeper.ask_issuer(REMOVE_NODE, RemoveNode(node, accepts_loss, accepts_keyless))
        return await self.removal(node)

    async def removal(self, node: NodeId) -> RemovalView:
        """Return where a removal stands, as the issuer sees it."""
        return await self._keeper.ask_issuer(REMOVAL, AskRemoval(node))

    async def _serve_remove(self, caller: NodeId, request: RemoveNode) -> Accepted:
        del caller
        machine, record, node = self._require_issuer(), self._record(), request.node
        name = self._name(node)
        if node not in record.members():
            raise NotFound(f"{name} is not on the ring", hint="`frys-node ring` shows who is")
        if node == machine.node:
            raise UsageError(f"{name} writes the topology record", hint="run `frys-node leave` there")
        if self._members.is_usable(node):
            raise MemberAlive(f"{name} is not dead", hint=f"run `frys-node leave` on {name}, or wait until it is dead")
        if not request.accepts_keyless and not machine.steps.may_remove():
            raise LossNeeded(
                f"{name} may have the only key of the cluster's authority: {self._name(machine.node)} writes the record"
                " and has none, and without one no node can ever join",
                hint=f"start {name}, or a standby, and run on {self._name(machine.node)}: frys-node issuer handover"
                " NAME; if the key is lost anyway: node remove --keyless",
            )
        machine.verdict(self.burials.of(machine.node), self._clock.now_s())
        blocked = [] if request.accepts_loss else machine.steps.loss_of(node)
        if blocked:
            raise LossNeeded(
                f"{name} cannot be removed without loss: too few living members of {_some(blocked)}",
                hint="bring one of the dead back, or give up what only they hold: node remove --accept-loss",
            )
        if request.accepts_keyless:
            self.accept_keyless()
        if not machine.steps.request_remove(node, accepts_loss=request.accepts_loss):
            raise Overloaded("too many joins, leaves and removals wait at the issuer")
        _log.warning("balancer.removal_asked", extra={"peer": name, "accepts_loss": request.accepts_loss})
        self._keeper.wake()
        return Accepted(machine.epoch)

    async def _serve_removal(self, caller: NodeId, request: AskRemoval) -> RemovalView:
        del caller
        machine, record, node = self._require_issuer(), self._record(), request.node
        placement = machine.placement
        assert placement is not None
        weight = weight_of(record.ring, node)
        partitions = len(owned_by(placement, node)) if weight is not None else 0
        if node in machine.steps.waiting:
            is_moving = record.phase != STABLE and weight_of(record.next_ring, node) != weight
            state = "moving" if is_moving else "waiting"
        else:
            state = "unremoved" if weight else "removed"
        blocked = machine.steps.loss_of(node) if weight else []
        return RemovalView(state, [str(unit) for unit in blocked], partitions, machine.steps.waits_for())

    # ------------------------------------------------------------------ factors

    async def change_factor(self, collection: str, factor: int) -> None:
        """Have another number of copies, of a collection by name or (empty) of the cluster; queued on return.

        Raises:
            UsageError: The factor is not from 1 to `REPLICATION_FACTOR_MAX`.
            NotFound: There is no such collection.
            IssuerUnreachable: The issuer does not answer.
        """
        if not 1 <= factor <= REPLICATION_FACTOR_MAX:
            raise UsageError(f"a replication factor is from 1 to {REPLICATION_FACTOR_MAX}, not {factor}")
        await self._keeper.ask_issuer(CHANGE_FACTOR, ChangeFactor(collection, factor))

    async def _serve_factor(self, caller: NodeId, request: ChangeFactor) -> Accepted:
        del caller
        machine, record = self._require_issuer(), self._record()
        whose: str | None = CLUSTER
        if request.collection:
            whose = next((held.id for held in record.collections if held.name == request.collection), None)
        if whose is None:
            raise NotFound(
                f"there is no collection '{request.collection}'", hint="`frys-node collection list` shows them"
            )
        if not machine.steps.request_factor(whose, min(request.factor, REPLICATION_FACTOR_MAX)):
            raise Overloaded("too many changes of factors wait at the issuer")
        self._keeper.wake()
        return Accepted(machine.epoch)

    # ------------------------------------------------------------------ the issuer

    async def _serve_standing(self, caller: NodeId, request: Nothing) -> IssuerStanding:
        del caller, request
        self._require_issuer()
        return self.standing()

    async def show(self) -> IssuerView:
        """Return who writes the record; asks it what it can do."""
        record, machine = self._record(), self._keeper.machine
        standing: IssuerStanding | None = None
        with trio.move_on_after(1.0):
            try:
                standing = await self._keeper.ask_issuer(STANDING, Nothing())
            except FrysError as error:
                _log.debug("balancer.issuer_did_not_answer", extra={"code": error.code})
        promised = machine.promised
        is_open = promised is not None and promised > record.epoch.term
        return IssuerView(
            issuer=record.epoch.term.node,
            term=record.epoch.term.number,
            epoch=str(record.epoch),
            answers=standing is not None,
            can_admit=None if standing is None else standing.can_admit,
            standby=[] if standing is None else standing.standby,
            successor=record.successor,
            promised=_term_text(promised) if is_open and promised is not None else "",
        )

    async def promote(self, destroyed: Collection[NodeId] | None = None) -> TopologyRecord:
        """Make this node the issuer; returns the record that it wrote first.

        Args:
            destroyed: The members that are gone for good with all they held (``--force``): exactly those that do not
                answer. None: a majority of every unit has to promise (rule 21).

        Raises:
            UsageError: This node is the issuer already.
            PromotionFailed: Too few nodes promised, or others are silent than were named. The issuer is who it was.
        """
        machine = self._keeper.machine
        record = self._record()
        is_in_force = machine.is_issuer and record.successor is None
        if is_in_force and (machine.promised is None or machine.promised <= record.epoch.term):
            raise UsageError("this node is the issuer already")
        self._keeper.perform(machine.promote(self._clock.now_s()))
        promotion = machine.promotion
        await self._adopts_own(record.epoch.term, PROMOTE_WAIT_S)
        if machine.promotion is not None and destroyed is not None and promotion is machine.promotion:
            silent = promotion.silent
            if set(silent) == set(destroyed):
                self._keeper.perform(machine.force())
                await self._adopts_own(record.epoch.term, PROMOTE_WAIT_S)
            else:
                machine.give_up(self._clock.now_s())
                names = ", ".join(self._name(node) for node in silent) or "none"
                raise PromotionFailed(f"the members that do not answer are others than you named: {names}")
        if machine.promotion is not None:
            missing, silent = machine.promotion.missing(), machine.promotion.silent
            machine.give_up(self._clock.now_s())
            names = ", ".join(self._name(node) for node in silent) or "none"
            raise PromotionFailed(
                f"not enough nodes promised: {_some(missing)}; silent: {names}",
                hint="start one of them, or, if they are destroyed for good: frys-node issuer promote --force",
            )
        if not machine.is_issuer:
            raise PromotionFailed("another node became the issuer meanwhile", hint="`frys-node issuer show` says which")
        return self._record()

    async def _adopts_own(self, before: Term, patience_s: float) -> None:
        """Wait until a record of a later term is in force here, some time at most."""
        with trio.move_on_after(patience_s):
            while self._record().epoch.term == before:
                await self._keeper.changed()

    async def hand_over(self, successor: NodeId) -> None:
        """At the issuer: have another node write the records from now on; returns when it does.

        Raises:
            NotReady: This node is not the issuer, the successor has not come on the ring yet, or a change is under way
                and does not end.
            NotFound: The successor is not alive, or is leaving.
            IssuerNeeded: It is not reached or did not take over in time; this node goes on as the issuer.
        """
        machine, name = self._require_issuer(), self._name(successor)
        if not self._members.is_usable(successor):
            raise NotFound(f"{name} is not alive", hint="`frys-node members` shows who is")
        weight = weight_of(self._record().ring, successor)
        if weight is None and successor in self._record().removed:
            raise NotFound(f"{name} was removed from the ring", hint="choose another member")
        if weight is None:
            # A node serves requests, and `/readyz` says so, before its share of the data has come.
            raise NotReady(f"{name} is not on the ring yet", hint="`frys-node ring` shows who is; ask again then")
        if not weight:
            raise NotFound(f"{name} is leaving the ring", hint="choose another member")
        try:
            await self.entrust(successor)
        except FrysError as error:
            raise IssuerNeeded(
                f"{name} cannot be given the role: {error.message}",
                hint=f"choose another one; or: {error.hint}" if error.hint else "choose another one",
            ) from error
        is_proposed = False
        with trio.move_on_after(HAND_OVER_WAIT_S):
            while machine.is_issuer:
                effects = None if is_proposed else machine.hand_over(successor)
                if effects is not None:
                    is_proposed = True
                    self._keeper.perform(effects)
                with trio.move_on_after(1.0):
                    await self._keeper.changed()
        if not machine.is_issuer:
            _log.info("balancer.issuer_handed_over", extra={"peer": name})
            return
        if not is_proposed:
            raise NotReady("a change of the ring is under way; the issuer changes only between them", hint="ask again")
        with trio.move_on_after(PROMOTE_WAIT_S):
            await self.promote()
        raise IssuerNeeded(f"{name} did not take over", hint="choose another one, or ask again")

    def successor(self) -> NodeId | None:
        """Return the member that is best to write the records next, None if no other is alive and admitted."""
        me, ring = self._keeper.machine.node, self._record().ring
        living = [
            m.node
            for m in ring
            if m.weight and m.node != me and self._members.is_usable(m.node) and self.is_admitted(m.node)
        ]
        return min(living, key=lambda node: (self._members.rank(node), node), default=None)


class Burials:
    """Who is dead, for the issuer: whom membership has buried, and who is on the ring and has not been met for long.

    Membership forgets the dead when all that knew them have been restarted; the record does not.
    """

    def __init__(self, members: Members, clock: Clock, record: Callable[[], TopologyRecord | None]) -> None:
        self._members = members
        self._clock = clock
        self._record = record
        self._unmet_s: dict[NodeId, float] = {}
        """Since when this node hears others and has not met each of those on the ring."""

    def of(self, me: NodeId) -> list[NodeId]:
        """Return who is dead as of now; nobody, while this node hears nobody itself."""
        views, now_s = self._members.all(), self._clock.now_s()
        is_alone = not any(view.status is Status.ALIVE for view in views if view.id != me)
        if any(view.id == me and view.condition is Condition.ISOLATED for view in views):
            return []
        record, known = self._record(), {view.id for view in views}
        on_ring = () if is_alone or record is None else record.members()
        self._unmet_s = {node: self._unmet_s.get(node, now_s) for node in on_ring if node not in known and node != me}
        dead = [view.id for view in views if view.status in (Status.DEAD, Status.LEFT)]
        return [*dead, *(node for node, since_s in self._unmet_s.items() if now_s - since_s >= UNMET_S)]


def _some(items: Sequence[str]) -> str:
    """Name a few of many."""
    shown = ", ".join(items[:UNITS_SHOWN_MAX])
    return shown if len(items) <= UNITS_SHOWN_MAX else f"{shown} and {len(items) - UNITS_SHOWN_MAX} more"


def _term_text(term: Term) -> str:
    return f"{term.number} of {term.node}"


async def _nothing(_node: NodeId) -> None:
    """There is nothing to give."""
    await trio.lowlevel.checkpoint()
