"""Errors of the membership package. Sans-I/O."""

from __future__ import annotations

from frys_node.base.errors import FrysError


class MembershipError(FrysError):
    """Root of what can go wrong with membership. State is unchanged."""

    code = "membership.error"


class TagsTooLarge(MembershipError):
    """The tags or the names of a member are over their limit. The former ones stand."""

    code = "membership.tags_too_large"
    status = 400


class JoinFailed(MembershipError):
    """No peer answered in time. The node runs on alone and keeps trying."""

    code = "membership.join_failed"
    retryable = True
    status = 503


class MemberAlive(MembershipError):
    """A member that is not dead cannot be forced to leave. State is unchanged."""

    code = "membership.member_alive"
    status = 409


class LeaveUnacknowledged(MembershipError):
    """No peer acknowledged the leave in time. The others will see this node as dead until somebody forces it out."""

    code = "membership.leave_unacknowledged"
    retryable = True
    status = 504


class GossipTooLarge(MembershipError):
    """An event, query or state is over a limit of size or number. Nothing was sent or changed."""

    code = "membership.gossip_too_large"
    status = 413


class GossipTooFast(MembershipError):
    """This node has said too much in too short a time. Nothing was sent or changed; it may be repeated later."""

    code = "membership.gossip_too_fast"
    retryable = True
    status = 429
