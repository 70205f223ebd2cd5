"""What lies behind a member's state, for those who ask why: votes, evidence, vouchers, cut paths, round trips, story.

Sans-I/O. Read only. Everything a person needs is in the answer by itself: names beside ids, wall-clock times.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from frys_node.base.types import NodeId
from frys_node.kernel.services.members import MemberView
from frys_node.wire.codec import Message
from membership.awareness import SCORE_MAX
from membership.claims import Claims
from membership.edges import EdgeKind
from membership.edges import Seen as SeenEdge
from membership.member import Member
from membership.messages import Standing
from membership.story import Entry
from membership.telling import evidence_told, vote_told


class Who(msgspec.Struct, frozen=True, kw_only=True):
    """A member, by id and name; one that is forgotten has only its id."""

    id: NodeId
    name: str


class Vote(msgspec.Struct, frozen=True, kw_only=True):
    """One accuser of a suspect."""

    accuser: Who
    evidence: str
    """``silence``, ``gone``, ``crash``; ``refused``: a closed port that it alone has seen; ``unproven``: several have,
    and not enough for a crash; ``hearsay``: a crash that others tell of, which counts as gone."""


class SuspicionView(msgspec.Struct, frozen=True, kw_only=True):
    """A suspicion that runs."""

    since_unix_ns: int
    deadline_unix_ns: int
    """Then the member is declared dead here unless it refutes; more votes and better evidence bring it nearer."""
    votes: Sequence[Vote]
    votes_wanted: int
    """With so many the suspicion is as short as it gets."""
    votes_needed: int
    """With fewer the member is not declared dead here, whatever the time."""
    is_crash: bool
    """True if it runs on the short clock of a crash."""
    vetoed_until_unix_ns: int | None
    """Until then evidence of a crash counts as silence."""
    held_until_unix_ns: int | None
    """Until then a voucher of its kernel holds death off."""
    is_withheld: bool
    """True while this node buries nobody, because it is isolated or stood still itself."""


class VoucherView(msgspec.Struct, frozen=True, kw_only=True):
    """One member's word that a member is there."""

    voucher: Who
    kind: str
    unix_ns: int


class EdgeView(msgspec.Struct, frozen=True, kw_only=True):
    """`a` gets no answer from `b` directly, though `b` lives."""

    a: Who
    b: Who
    unix_ns: int
    kind: str
    """``packets``: helpers get through; ``packets_alone``: its connection does; ``connections``: only packets do."""


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One turn of the story."""

    unix_ns: int
    what: str
    who: Who | None
    """Whose doing; None when it is this node's own conclusion."""
    evidence: str | None
    """As of `Vote`; for a death that others declared, that of the accuser in `who`."""
    detail: str


class RoundTrips(msgspec.Struct, frozen=True, kw_only=True):
    """What this node has measured of a member."""

    srtt_s: float | None
    rttvar_s: float | None
    samples: int


class Observer(msgspec.Struct, frozen=True, kw_only=True):
    """The node that answers, and how far it trusts its own senses."""

    id: NodeId
    name: str
    health_score: int
    """0 is well."""
    health_score_max: int
    is_isolated: bool
    is_quiet: bool
    """True while it accuses nobody, because it stood still a moment ago."""


class Why(msgspec.Struct, frozen=True, kw_only=True):
    """Body of ``GET /v1/members/{name}/why``."""

    member: MemberView
    unix_ns: int
    """When this was so."""
    observer: Observer
    suspicion: SuspicionView | None
    vouchers: Sequence[VoucherView]
    edges: Sequence[EdgeView]
    """Paths to and from the member that are cut."""
    cannot_send_since_unix_ns: int | None
    """Since then this node's own system refuses to send to the member; None if it does not."""
    is_flapping: bool
    rtt: RoundTrips
    story: Sequence[Turn]
    """Oldest first; the last two dozen."""


class Seen(Message, frozen=True, array_like=True, gc=False):
    """What one member thinks of another."""

    node: NodeId
    standing: Standing


class Sight(Message, frozen=True):
    """What a member sees of the cluster."""

    is_same: bool
    """It sees the same live members in the same state as the asker; then only the dead are listed."""
    seen: tuple[Seen, ...]
    cut_off: tuple[NodeId, ...]
    """Whom it gets no answer from directly, though others do."""
    health_score: int
    is_isolated: bool
    cannot_send: tuple[NodeId, ...] = ()
    """To whom its own system refuses to send."""


class Insight:
    """Answers for one node."""

    __slots__ = ("_claims",)

    def __init__(self, claims: Claims) -> None:
        self._claims = claims

    def who(self, node: NodeId) -> Who:
        """Return a member's name beside its id."""
        member = self._claims.table.get(node)
        return Who(id=node, name="" if member is None else member.update.attributes.name)

    def edge(self, seen: SeenEdge, unix_ns: int) -> EdgeView:
        """Return the public view of an edge that was heard of at an instant."""
        edge = seen.edge
        return EdgeView(a=self.who(edge.a), b=self.who(edge.b), unix_ns=unix_ns, kind=edge.kind.name.lower())

    def find(self, name: str) -> NodeId:
        """Return the one member of that name or id. `NotFound`: there is none, or several."""
        return self._claims.sole(name).node

    def round_trips(self, node: NodeId) -> RoundTrips:
        """Return what was measured of a member."""
        member = self._claims.table.get(node)
        if member is None or member.vitals.srtt_s is None:
            return RoundTrips(srtt_s=None, rttvar_s=None, samples=0)
        vitals = member.vitals
        return RoundTrips(srtt_s=vitals.srtt_s, rttvar_s=vitals.rttvar_s, samples=vitals.samples)

    def why(self, name: str, now_s: float, unix_ns: int) -> Why:
        """Tell what lies behind a member's state; `unix_ns` is what the wall clock says at `now_s`.

        Raises:
            NotFound: No such member, or several of that name.
        """
        claims = self._claims
        claims.now_s = now_s
        member = claims.sole(name)
        node = member.node
        wall = _Wall(now_s, unix_ns)
        refused_s = claims.refusals.since_s(node, now_s)
        edges = [seen for seen in claims.edges.down(now_s) if node in (seen.edge.a, seen.edge.b)]
        return Why(
            member=claims.view(member.update, member),
            unix_ns=unix_ns,
            observer=self.observer(),
            suspicion=self._suspicion(node, member.story, wall),
            vouchers=[
                VoucherView(voucher=self.who(who), kind=kind.name.lower(), unix_ns=wall.at(at_s))
                for who, kind, at_s in claims.suspicions.vouchers(node)
            ],
            edges=[self.edge(seen, wall.at(seen.at_s)) for seen in edges],
            cannot_send_since_unix_ns=None if refused_s is None else wall.at(refused_s),
            is_flapping=claims.damping.is_damped(node),
            rtt=self.round_trips(node),
            story=self._story(member, wall),
        )

    def observer(self) -> Observer:
        """Return how this node is itself."""
        claims = self._claims
        return Observer(
            id=claims.node,
            name=claims.own.attributes.name,
            health_score=claims.health.score,
            health_score_max=SCORE_MAX,
            is_isolated=claims.is_isolated,
            is_quiet=claims.is_quiet,
        )

    def _suspicion(self, node: NodeId, story: Sequence[Entry], wall: _Wall) -> SuspicionView | None:
        suspicions = self._claims.suspicions
        suspicion = suspicions.get(node)
        if suspicion is None:
            return None
        return SuspicionView(
            since_unix_ns=wall.at(suspicion.since_s),
            deadline_unix_ns=wall.at(suspicions.ends_s(node)),
            votes=[
                Vote(accuser=self.who(accuser), evidence=vote_told(story, accuser, evidence))
                for accuser, evidence in suspicion.votes
            ],
            votes_wanted=suspicions.expected + 1,
            votes_needed=suspicions.needed(node),
            is_crash=suspicion.is_crash,
            vetoed_until_unix_ns=wall.later(suspicion.veto_until_s),
            held_until_unix_ns=wall.later(suspicion.held_until_s),
            is_withheld=self._claims.is_quiet or (self._claims.is_isolated and not suspicion.is_crash),
        )

    def _story(self, member: Member, wall: _Wall) -> list[Turn]:
        story = member.story
        return [
            Turn(
                unix_ns=wall.at(entry.now_s),
                what=entry.what,
                who=self.who(entry.who) if entry.who else None,
                evidence=evidence_told(story, index),
                detail=entry.detail,
            )
            for index, entry in enumerate(story)
        ]

    def sight(self, digest: int, now_s: float) -> Sight:
        """Tell how this node sees the others, to one whose table has that digest."""
        claims = self._claims
        is_same = digest == claims.table.digest
        edges = [seen.edge for seen in claims.edges.down(now_s) if seen.edge.a == claims.node]
        listed = (Standing.DEAD,) if is_same else (Standing.ALIVE, Standing.SUSPECT, Standing.DEAD)
        return Sight(
            is_same=is_same,
            seen=tuple(Seen(m.node, m.standing) for m in claims.table if m.standing in listed),
            cut_off=tuple(dict.fromkeys(edge.b for edge in edges if edge.kind is not EdgeKind.CONNECTIONS)),
            health_score=claims.health.score,
            is_isolated=claims.is_isolated,
            cannot_send=tuple(node for node in claims.refusals.nodes(now_s) if node in claims.table.live),
        )

    @property
    def digest(self) -> int:
        """What stands for the live members as they are seen here."""
        return self._claims.table.digest


class _Wall:
    """Turns monotonic instants into wall-clock ones."""

    __slots__ = ("_now_s", "_unix_ns")

    def __init__(self, now_s: float, unix_ns: int) -> None:
        self._now_s, self._unix_ns = now_s, unix_ns

    def at(self, at_s: float) -> int:
        """Return an instant in nanoseconds since 1970."""
        return self._unix_ns + round((at_s - self._now_s) * 1e9)

    def later(self, at_s: float) -> int | None:
        """Return an instant that is still to come, None if it is past."""
        return self.at(at_s) if self._now_s < at_s < math.inf else None
