"""Who is here, as gossip sees it. Provided by `membership`. It routes; it never decides who owns (D4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Protocol

import msgspec

from frys_node.base.errors import NotFound
from frys_node.base.types import Address, NodeId
from frys_node.base.words import SHOWN_MAX, did_you_mean
from frys_node.kernel.services import ServiceKey


class Status(StrEnum):
    """What gossip says of a member."""

    ALIVE = "alive"
    SUSPECT = "suspect"
    DEAD = "dead"
    LEFT = "left"


class Condition(StrEnum):
    """How well a member that is not dead does (design, fine print 13)."""

    OK = "ok"
    SLOW = "slow"
    STALLED = "stalled"
    DEGRADED = "degraded"
    ISOLATED = "isolated"


WELL = 0
"""`Members.rank` of a member that nothing speaks against."""

UNWELL = 1
"""`Members.rank` of a member that is worth sending to only when nobody is well."""

UNUSABLE = 2
"""`Members.rank` of a member that is not worth sending to."""


class MemberView(msgspec.Struct, frozen=True, kw_only=True):
    """One member, as this node sees it. `phi` is null unless this node watches it; `rtt_s` until measured."""

    name: str
    id: NodeId
    address: Address
    status: Status
    condition: Condition
    incarnation: int
    boot: int
    tags: Mapping[str, str]
    phi: float | None = None
    rtt_s: float | None = None
    changed_unix_ns: int = 0
    http: str = ""
    """``host:port`` of the member's HTTP listener, empty if it has none."""


CANDIDATES_MAX = 16
PREFIX_CHARS_MIN = 4
"""Hex digits of an id that stand for it if no other member's id begins so."""


def is_short_for(text: str, node: NodeId) -> bool:
    """Return True if the text is the beginning of an id, long enough to be meant as one."""
    return len(text) >= PREFIX_CHARS_MIN and node.startswith(text.lower())


def not_sole(name: str, members: Sequence[MemberView]) -> NotFound:
    """Return why a name, id or beginning of an id is not that of exactly one: with the ids, or the nearest name."""
    named = [f"{member.id} ({member.status})" for member in members if member.name == name]
    if named:
        return NotFound(
            f"{len(named)} members are named '{name[:SHOWN_MAX]}': {', '.join(named)}", hint="name it by its id"
        )
    begun = [f"{member.id} ({member.name}, {member.status})" for member in members if is_short_for(name, member.id)]
    if begun:
        return NotFound(
            f"the ids of {len(begun)} members begin with '{name[:SHOWN_MAX]}': {', '.join(begun[:CANDIDATES_MAX])}",
            hint="write more of the id, or the name",
        )
    near = did_you_mean(name, dict.fromkeys(member.name for member in members))
    return NotFound(f"there is no member '{name[:SHOWN_MAX]}'{near}", hint="`frys-node members` lists them")


class MemberChanged(msgspec.Struct, frozen=True, kw_only=True):
    """Published on the bus whenever a member's status, condition, address, tags or incarnation change."""

    old: MemberView | None
    new: MemberView


class Members(Protocol):
    """The member table, read only."""

    @property
    def self_id(self) -> NodeId:
        """This node."""
        ...

    def all(self) -> Sequence[MemberView]:
        """Every known member, sorted by name, this node included."""
        ...

    def get(self, node: NodeId) -> MemberView | None:
        """One member."""
        ...

    def is_usable(self, node: NodeId) -> bool:
        """True if alive or suspect: worth sending to."""
        ...

    def rank(self, node: NodeId) -> int:
        """How gladly to send new work there: `WELL`, `UNWELL` (suspect, stalled, degraded, slow) or `UNUSABLE`."""
        ...


MEMBERS: ServiceKey[Members] = ServiceKey("members")
