"""Errors of the topology's operator verbs.

Sans-I/O.
"""

from __future__ import annotations

from frys_node.base.errors import FrysError, RoutingError


class LossNeeded(RoutingError):
    """A node cannot be removed without losing what only it and other dead nodes hold. Nothing was changed."""

    code = "routing.loss"
    status = 409


class CatalogueFull(RoutingError):
    """The topology record, which names every collection, has no room for another. Nothing was changed."""

    code = "routing.catalogue_full"
    status = 409


class MemberAlive(RoutingError):
    """A node that answers was to be removed. Nothing was changed."""

    code = "routing.node_alive"
    status = 409


class PromotionFailed(RoutingError):
    """Too few nodes promised: the issuer is who it was. Who has promised takes no record of a lower term any more."""

    code = "routing.promotion"
    status = 409


class NodeRemoved(FrysError):
    """This node was removed by an operator; the cluster goes on without it. Its directory is as it was."""

    code = "node.removed"
    status = 409
