"""Who may do what: listeners, principals with roles and scopes, what a request needs, and the one decision.

Sans-I/O. HTTP and the Redis protocol both ask `decide`, so that a rule has one place. Denying is the default: a
request that nothing allows is refused. The roles are ordered, ``read`` < ``write`` < ``admin``. Scopes narrow a role
to collections and cache namespaces that are named exactly; whoever has any reaches those, what any token may see
(`Resource.SHARED`), and nothing else.
"""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import Final, NamedTuple

import msgspec

from frys_node.base.errors import SecurityError

SCOPES_MAX = 64
"""Collections and namespaces that one token may name, in all."""
SCOPE_CHARS_MAX = 255
"""Longest name in a scope."""


class Kind(Enum):
    """How a listener is reached."""

    UNIX = "unix"
    """The admin socket: the kernel has checked who is at the other end."""
    LOOPBACK = "loopback"
    TOKEN = "token"  # noqa: S105 (the kind's name)
    INSECURE = "insecure"
    """Off loopback, and the operator wants no tokens."""


class Level(StrEnum):
    """The least role that a request needs; `OPEN` needs none."""

    OPEN = "open"
    READ = "read"
    WRITE = "write"
    ADMIN = "admin"

    # An enum's own hash is a Python call, and each request looks a level up.
    __hash__ = str.__hash__


class Resource(StrEnum):
    """What a request is about."""

    CLUSTER = "cluster"
    """The node or the cluster as a whole: not for tokens with scopes."""
    SHARED = "shared"
    """For every token of the level; the handler shows each caller only what its scopes name."""
    COLLECTION = "collection"
    NAMESPACE = "namespace"


ROLES: Final = (Level.READ, Level.WRITE, Level.ADMIN)
"""Roles of API tokens, the weakest first."""

_RANK: Final[dict[str, int]] = {level: rank for rank, level in enumerate(Level)}


class Forbidden(SecurityError):
    """Whoever asks may not do that, or not from here. Nothing was done."""

    code = "http.forbidden"


class Need(NamedTuple):
    """What a request needs: a level, and the collection or namespace that it touches, if it is one."""

    level: Level
    resource: Resource = Resource.CLUSTER
    name: str = ""


class Principal(msgspec.Struct, frozen=True, array_like=True):
    """Who asks, as the node that the request came to found out. Travels with forwards; the bearer never does."""

    name: str
    """``admin``, ``local``, ``anonymous`` or ``token:<id>``."""
    role: str = ""
    """One of `ROLES`; empty for none."""
    collections: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    token_id: str = ""
    """The API token's id, empty for everybody else."""

    @property
    def is_scoped(self) -> bool:
        """True if it reaches only what its scopes name."""
        return bool(self.collections or self.namespaces)

    def reaches(self, resource: Resource, name: str = "") -> bool:
        """True if the scopes cover it."""
        if not (self.collections or self.namespaces) or resource is Resource.SHARED:
            return True
        if resource is Resource.COLLECTION:
            return name in self.collections
        return resource is Resource.NAMESPACE and name in self.namespaces

    def has(self, level: Level) -> bool:
        """True if the role is at least that level."""
        # No role, or one that this version does not know, ranks with `OPEN`, which needs none.
        return _RANK.get(self.role, 0) >= _RANK[level]


def forbidden(level: Level) -> Forbidden:
    """Return the refusal of a request that needs more; whether what the request names exists is not said."""
    return Forbidden(
        f"this needs the role '{level}', and scopes that cover what it names",
        hint="use a token that has them (frys-node token create), or the frys-node command on the machine",
    )


ADMIN: Final = Principal("admin", Level.ADMIN)
LOCAL: Final = Principal("local", Level.WRITE)
ANONYMOUS: Final = Principal("anonymous")


class Verdict(Enum):
    """The outcome of a decision."""

    ALLOW = "allow"
    AUTHENTICATE = "authenticate"
    """Nobody that this node knows asks: a token may help."""
    FORBID = "forbid"
    """The principal may not."""


class Decision(NamedTuple):
    """The verdict, and whom it is about."""

    verdict: Verdict
    principal: Principal


def decide(kind: Kind, shown: Principal | None, need: Need, *, is_wrong: bool = False) -> Decision:
    """Decide about one request.

    Args:
        kind: The listener that it came through.
        shown: Whom its credentials belong to; None without any, or if they are wrong.
        need: What it needs.
        is_wrong: It shows credentials that are nobody's. They are never taken for none at all.
    """
    level, resource, name = need
    if kind is Kind.UNIX:
        return Decision(Verdict.ALLOW, ADMIN)
    if level is Level.OPEN:
        return Decision(Verdict.ALLOW, ANONYMOUS if shown is None or is_wrong else shown)
    if is_wrong or (shown is None and kind is Kind.TOKEN):
        return Decision(Verdict.AUTHENTICATE, ANONYMOUS)
    who = LOCAL if shown is None else shown
    if who.has(level) and who.reaches(resource, name):
        return Decision(Verdict.ALLOW, who)
    return Decision(Verdict.FORBID, who)
