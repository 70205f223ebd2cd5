"""Routes of the cluster's authority: what it is, how far its successor is, its certificates. Never its key."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import trio

from frys_node.kernel.services.http import Http, HttpRequest, HttpResponse
from frys_node.kernel.services.members import Members, Status
from frys_node.observe.log import get_logger
from frys_node.trust.rotation import (
    ASK_AUTHORITY,
    ROTATE_AUTHORITY,
    AskAuthority,
    AuthorityView,
    RotateAuthority,
)

log = get_logger(__name__)


class AuthorityRoutes:
    """``/v1/ca``: the issuer knows how far everybody is, any node passes the question on."""

    def __init__(
        self,
        ask_issuer: Callable[..., Awaitable[Any]],
        own_view: Callable[[], AuthorityView],
        members: Members,
        renew: Callable[[], Awaitable[float]],
    ) -> None:
        """`renew` gets this node another certificate, and returns how many seconds that lasts."""
        self._renew = renew
        self._ask_issuer = ask_issuer
        self._own_view = own_view
        self._members = members

    def register(self, http: Http) -> None:
        """Add the routes."""
        http.route("GET", "/v1/ca", self._show, scope="read")
        http.route("GET", "/v1/ca/certificates", self._certificates, scope="read")
        http.route("POST", "/v1/ca/rotate", self._rotate, scope="admin")
        http.route("POST", "/v1/ca/renew", self._renew_own, scope="admin")

    def _told(self, view: AuthorityView) -> dict[str, Any]:
        """Return a view with the names of the dead: they come home when they are back."""
        away = sorted(member.name for member in self._members.all() if member.status is Status.DEAD)
        shown = msgspec.structs.asdict(view)
        del shown["certificates"]
        return {**shown, "away": away}

    async def _show(self, _request: HttpRequest) -> HttpResponse:
        return HttpResponse.json(self._told(await self._ask_issuer(ASK_AUTHORITY, AskAuthority())))

    async def _certificates(self, _request: HttpRequest) -> HttpResponse:
        """Answer by itself: every node has them, also while the issuer is down."""
        await trio.lowlevel.checkpoint()
        view = self._own_view()
        return HttpResponse.json({"authority": view.authority, "kind": view.kind, "certificates": view.certificates})

    async def _renew_own(self, _request: HttpRequest) -> HttpResponse:
        left_s = await self._renew()
        return HttpResponse.json({"authority": self._own_view().authority, "left_days": round(left_s / 86_400, 1)})

    async def _rotate(self, request: HttpRequest) -> HttpResponse:
        view = await self._ask_issuer(ROTATE_AUTHORITY, RotateAuthority(request.principal))
        log.warning("authority.rotation_asked", authority=view.authority, asked_by=view.asked_by)
        return HttpResponse.json(self._told(view), 202)
