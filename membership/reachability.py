"""Who reaches whom: the members' sights laid side by side, and what does not fit.

Sans-I/O. A member that is dead and a member that does not answer are unreachable; so is, in part, one that others see
otherwise or cannot reach directly. Who has left is not missed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from frys_node.base.types import NodeId
from frys_node.kernel.services.members import MemberView, Status
from membership.insight import EdgeView, Sight, Who
from membership.member import STATUS

UNKNOWN = "unknown"
"""Status of a member that an observer has not heard of."""


class Silence(msgspec.Struct, frozen=True, kw_only=True):
    """Why a member did not say what it sees."""

    code: str
    message: str


class Deviation(msgspec.Struct, frozen=True, kw_only=True):
    """A member that an observer sees otherwise than the node that asks."""

    id: NodeId
    name: str
    status: str


class ObserverRow(msgspec.Struct, frozen=True, kw_only=True):
    """What came of asking one live member."""

    id: NodeId
    name: str
    after_s: float
    error: Silence | None
    """None if it answered."""
    health_score: int | None
    is_isolated: bool | None
    deviations: Sequence[Deviation]
    cut_off: Sequence[Who]
    """Whom it gets no answer from directly, though others do."""
    cannot_send: Sequence[Who]
    """To whom its own system refuses to send."""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is not as it should be."""

    kind: str
    """``dead``, ``no_answer``, ``seen_otherwise``, ``isolated``, ``cut``, ``refused`` or ``cannot_send``."""
    member: Who
    observer: Who | None
    """Who finds it so; None: the node that was asked."""
    detail: str


class Reachability(msgspec.Struct, frozen=True, kw_only=True):
    """Body of ``GET /v1/reachability``."""

    observer: Who
    """The node that was asked, and that asked the others."""
    members: Sequence[MemberView]
    """Everybody who has not left, as it sees them."""
    rows: Sequence[ObserverRow]
    edges: Sequence[EdgeView]
    """Paths that are known to be cut."""
    problems: Sequence[Problem]
    is_whole: bool
    """True without problems."""


class Answer(msgspec.Struct, frozen=True):
    """What came of asking a member."""

    after_s: float
    sight: Sight | Silence


def judge(
    own: Who, views: Sequence[MemberView], answers: Mapping[NodeId, Answer], edges: Sequence[EdgeView]
) -> Reachability:
    """Lay the answers of the live members (`own` included) side by side."""
    members = [view for view in views if view.status is not Status.LEFT]
    names = {view.id: view.name for view in views}
    rows = [_row(view, answers[view.id], members, names) for view in members if view.id in answers]
    problems = [
        Problem(kind="dead", member=_who(view.id, names), observer=None, detail="every path to it is gone")
        for view in members
        if view.status is Status.DEAD
    ]
    for row in rows:
        problems += _problems(row, names, own)
    told = {(row.id, other.id) for row in rows for other in row.cut_off}
    cuts = [(row.id, other.id) for row in rows for other in row.cut_off]
    heard = dict.fromkeys((edge.a.id, edge.b.id) for edge in edges if edge.kind != "connections")
    cuts += [cut for cut in heard if cut not in told]
    problems += [
        Problem(
            kind="cut",
            member=_who(b, names),
            observer=_who(a, names),
            detail="answers others, or on a connection, and no packet of this observer",
        )
        for a, b in cuts
    ]
    problems += [
        Problem(kind="refused", member=edge.b, observer=edge.a, detail="answers packets, and its port is closed")
        for edge in edges
        if edge.kind == "connections"
    ]
    return Reachability(observer=own, members=members, rows=rows, edges=edges, problems=problems, is_whole=not problems)


def _who(node: NodeId, names: Mapping[NodeId, str]) -> Who:
    return Who(id=node, name=names.get(node, ""))


def _row(view: MemberView, answer: Answer, members: Sequence[MemberView], names: Mapping[NodeId, str]) -> ObserverRow:
    sight = answer.sight
    if isinstance(sight, Silence):
        return ObserverRow(
            id=view.id,
            name=view.name,
            after_s=answer.after_s,
            error=sight,
            health_score=None,
            is_isolated=None,
            deviations=(),
            cut_off=(),
            cannot_send=(),
        )
    seen: dict[NodeId, str] = {each.node: STATUS[each.standing].value for each in sight.seen}
    deviations = []
    for member in members:
        # The dead are forgotten by each node in its own time, and a twin of the asker's table lists only them.
        is_implied = member.status is Status.DEAD or sight.is_same
        status = seen.pop(member.id, member.status.value if is_implied else UNKNOWN)
        if status != member.status.value:
            deviations.append(Deviation(id=member.id, name=member.name, status=status))
    strangers = [node for node, status in seen.items() if status != Status.DEAD.value]
    deviations += [Deviation(id=node, name=names.get(node, ""), status=seen[node]) for node in strangers]
    return ObserverRow(
        id=view.id,
        name=view.name,
        after_s=answer.after_s,
        error=None,
        health_score=sight.health_score,
        is_isolated=sight.is_isolated,
        deviations=deviations,
        cut_off=[_who(node, names) for node in sight.cut_off],
        cannot_send=[_who(node, names) for node in sight.cannot_send],
    )


def _problems(row: ObserverRow, names: Mapping[NodeId, str], own: Who) -> list[Problem]:
    observer = Who(id=row.id, name=row.name)
    if row.error is not None:
        return [Problem(kind="no_answer", member=observer, observer=own, detail=row.error.message)]
    found = [
        Problem(kind="seen_otherwise", member=_who(each.id, names), observer=observer, detail=f"as {each.status}")
        for each in row.deviations
    ]
    found += [
        Problem(kind="cannot_send", member=who, observer=observer, detail="this observer's own system refuses")
        for who in row.cannot_send
    ]
    if row.is_isolated:
        found.append(Problem(kind="isolated", member=observer, observer=observer, detail="hears nobody"))
    return found
