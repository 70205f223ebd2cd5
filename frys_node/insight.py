"""Routes for people who ask about members: why one is as it is, round trips, who reaches whom, and force-leave."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import trio
from msgspec.structs import replace

from frys_node.base.errors import NotFound, UsageError
from frys_node.base.types import NodeId
from frys_node.kernel.services.http import Http, HttpRequest, HttpResponse
from frys_node.kernel.services.member_bodies import member_body
from frys_node.kernel.services.members import Status
from frys_node.observe.log import get_logger
from membership.driver import MembershipDriver
from membership.driver_insight import Rtt

log = get_logger(__name__)

LIVE = (Status.ALIVE, Status.SUSPECT)


def _of_the_living(rtt: Rtt) -> Rtt:
    """Take from round trips what is not to be had of the dead: a condition, and an estimate of the next one."""
    shown = [
        direction if direction.status is None or direction.status in LIVE else replace(direction, condition=None)
        for direction in rtt.directions
    ]
    is_over = any(direction.status is not None and direction.status not in LIVE for direction in shown)
    return replace(rtt, directions=shown, estimate_s=None if is_over else rtt.estimate_s)


class InsightRoutes:
    """Handlers over the membership component, and what of replication waits for a member."""

    def __init__(
        self,
        membership: MembershipDriver,
        tombstones: Callable[[NodeId], dict[str, Any] | None] = lambda _node: None,
    ) -> None:
        self._membership = membership
        self._tombstones = tombstones

    def register(self, http: Http) -> None:
        """Add the routes."""
        http.route("GET", "/v1/members/{name}/why", self._why, scope="read")
        http.route("POST", "/v1/members/{name}/force-leave", self._force_leave, scope="admin")
        http.route("GET", "/v1/rtt", self._rtt, scope="read")
        http.route("GET", "/v1/reachability", self._reachability, scope="read")

    async def _why(self, request: HttpRequest) -> HttpResponse:
        await trio.lowlevel.checkpoint()
        why = self._membership.insight.why(request.params["name"])
        waits = {"tombstones": self._tombstones(why.member.id)}
        return HttpResponse.json({**msgspec.to_builtins(why), "member": member_body(why.member), **waits})

    async def _force_leave(self, request: HttpRequest) -> HttpResponse:
        await trio.lowlevel.checkpoint()
        name = request.params["name"]
        node = self._membership.insight.find(name)
        self._membership.force_leave(name)
        view = self._membership.get(node)
        if view is None:
            raise NotFound(f"there is no member '{name}' any more")
        log.info("operations.force_left", peer=view.name, peer_id=view.id)
        return HttpResponse.json({"member": member_body(view)})

    async def _rtt(self, request: HttpRequest) -> HttpResponse:
        a = request.query.get("a", "")
        if not a:
            raise UsageError("say which member", hint="GET /v1/rtt?a=NAME, or ?a=NAME&b=NAME for a pair")
        return HttpResponse.json(_of_the_living(await self._membership.insight.rtt(a, request.query.get("b", ""))))

    async def _reachability(self, request: HttpRequest) -> HttpResponse:
        found = await self._membership.insight.reachability()
        members = [member_body(member) for member in found.members]
        return HttpResponse.json({**msgspec.to_builtins(found), "members": members})
