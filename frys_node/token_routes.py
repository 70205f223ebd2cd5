"""Tokens as an operator sees them: those that let a machine join, and those that open the API. One list, one revoke.

Join tokens are kept by the issuer's desk, which needs the key of the cluster's authority. API tokens need no key: the
issuer writes their sheet and every member holds it. Any node passes the request on, with who asked; the issuer checks
that again and logs it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from balancer.driver import BalancerComponent
from frys_node.base.access import Level, Principal
from frys_node.base.errors import NotReady, SecurityError, UsageError
from frys_node.base.types import NodeId
from frys_node.channel.driver import Channel
from frys_node.issuer_calls import issuer_calls
from frys_node.kernel.services.http import Http, HttpRequest, HttpResponse
from frys_node.kernel.services.rpc import Method
from frys_node.observe.log import get_logger
from frys_node.secure.api_tokens import API_TTL_DEFAULT_S, Grant
from frys_node.secure.token import TokenInfo
from frys_node.trust.api_tokens import ApiTokenDesk
from frys_node.trust.issuer import IssuerDesk
from frys_node.trust.token_uses import TokenUses
from frys_node.wire.codec import Message

log = get_logger(__name__)

ADMIN_ID = "admin"
"""Names the admin token; ids of the others are hexadecimal digits."""
JOIN_ROLE = "node"
JOIN_TTL_DEFAULT_S = 3_600.0


class TokenWanted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of ``POST /v1/tokens``."""

    ttl_s: float | None = None
    """None: an hour for a join token, 30 days for an API token."""
    uses: int | msgspec.UnsetType | None = msgspec.UNSET
    """Of a join token: how many nodes may use it, one by default; None: any number. API tokens have none."""
    role: str = JOIN_ROLE
    collections: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()


class CreateToken(Message, frozen=True):
    """Ask the issuer for a token."""

    ttl_s: float
    uses: int | None
    role: str
    collections: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    asked_by: Principal | None = None
    """Who asked the node that sends this; None if it is of a version that does not say."""


class CreatedToken(Message, frozen=True):
    """The token's text, told once. An API token is in force at `told` of `members` nodes."""

    token: str
    id: str
    expires_at: int | None
    uses: int | None
    told: int = 0
    members: int = 0


class ListTokens(Message, frozen=True):
    """Ask the issuer which tokens there are."""


class ListedTokens(Message, frozen=True):
    """Every token without its secret."""

    tokens: list[TokenInfo]


class RevokeToken(Message, frozen=True):
    """Ask the issuer to forget a token."""

    id: str
    asked_by: Principal | None = None


class RevokedToken(Message, frozen=True):
    """It is forgotten; an API token is refused at `told` of `members` nodes from now on."""

    told: int = 0
    members: int = 0


CREATE_TOKEN: Method[CreateToken, CreatedToken] = Method("operations.create_token", CreateToken, CreatedToken)
LIST_TOKENS: Method[ListTokens, ListedTokens] = Method("operations.list_tokens", ListTokens, ListedTokens)
REVOKE_TOKEN: Method[RevokeToken, RevokedToken] = Method("operations.revoke_token", RevokeToken, RevokedToken)


class TokenRoutes:
    """Handlers of ``/v1/tokens`` on every node, and of the calls that reach the issuer."""

    def __init__(
        self,
        balancer: BalancerComponent,
        channel: Channel,
        desk: ApiTokenDesk,
        uses: TokenUses,
        replace_admin: Callable[[], Awaitable[tuple[int, int]]],
    ) -> None:
        """`replace_admin` makes a new admin token, on the issuer: told to how many of how many members."""
        self._replace_admin = replace_admin
        self._balancer = balancer
        self._channel = channel
        self._desk = desk
        self._uses = uses

    def serve(self) -> None:
        """Answer other nodes."""
        self._channel.serve(CREATE_TOKEN, self._serve_create)
        self._channel.serve(LIST_TOKENS, self._serve_list)
        self._channel.serve(REVOKE_TOKEN, self._serve_revoke)

    def register(self, http: Http) -> None:
        """Add the routes."""
        http.route("POST", "/v1/tokens", self._create, scope="admin")
        http.route("GET", "/v1/tokens", self._list, scope="admin")
        http.route("DELETE", "/v1/tokens/{id}", self._revoke, scope="admin")

    # On the issuer.

    def _join_desk(self) -> IssuerDesk:
        desk = self._channel.desk
        if desk is None:
            if self._channel.authority.is_issuer:
                raise NotReady(
                    "the issuer does not hold the key of the cluster's authority: no node can join",
                    hint="hand its role to a node that does: frys-node issuer handover NAME",
                )
            raise NotReady("this node is not the issuer", hint="ask the issuer: frys-node issuer show says who it is")
        return desk

    def _join_ids(self) -> set[str]:
        desk = self._channel.desk
        return set() if desk is None else {info.id for info in desk.list_tokens()}

    async def _serve_create(self, caller: NodeId, request: CreateToken) -> CreatedToken:
        asked_by = _checked(request.asked_by, caller)
        if request.role == JOIN_ROLE:
            text, info = self._join_desk().create_token(ttl_s=request.ttl_s, uses=request.uses, role=request.role)
            log.info("operations.token_created", token_id=info.id, role=info.role, asked_by=asked_by, node=caller)
            return CreatedToken(text, info.id, info.expires_at, info.uses_left)
        grant = Grant(
            role=request.role,
            ttl_s=request.ttl_s,
            collections=request.collections,
            namespaces=request.namespaces,
        )
        text, info = self._desk.create(grant, made_through=caller, is_taken=self._join_ids().__contains__)
        log.info("operations.token_created", token_id=info.id, role=info.role, asked_by=asked_by, node=caller)
        told, members = await self._desk.tell_all()
        return CreatedToken(text, info.id, info.expires_at, None, told, members)

    async def _serve_list(self, caller: NodeId, request: ListTokens) -> ListedTokens:
        if not self._desk.is_issuer:
            self._join_desk()
        desk = self._channel.desk
        joins = [] if desk is None else desk.list_tokens()
        return ListedTokens([*joins, *self._desk.infos()])

    async def _serve_revoke(self, caller: NodeId, request: RevokeToken) -> RevokedToken:
        asked_by = _checked(request.asked_by, caller)
        if request.id == ADMIN_ID:
            if request.asked_by is None:
                raise SecurityError("the node that asks does not say who asked it", hint="ask another node")
            told = await self._replace_admin()
            log.warning("operations.admin_token_replaced", asked_by=asked_by, node=caller)
            return RevokedToken(*told)
        is_join = request.id in self._join_ids()
        if is_join:
            self._join_desk().revoke_token(request.id)
        else:
            self._desk.revoke(request.id)
        log.info("operations.token_revoked", token_id=request.id, asked_by=asked_by, node=caller)
        return RevokedToken() if is_join else RevokedToken(*await self._desk.tell_all())

    # On the node that is asked.

    async def _create(self, request: HttpRequest) -> HttpResponse:
        wanted = request.json(TokenWanted)
        is_join = wanted.role == JOIN_ROLE
        if is_join and (wanted.collections or wanted.namespaces):
            raise UsageError(
                "a join token has no scopes", hint="--collection and --namespace go with --role read or write"
            )
        if not is_join and wanted.uses is not msgspec.UNSET and wanted.uses is not None:
            raise UsageError("only join tokens are used up", hint="leave --uses out; an API token ends with its --ttl")
        uses = 1 if wanted.uses is msgspec.UNSET else wanted.uses
        default_s = JOIN_TTL_DEFAULT_S if is_join else API_TTL_DEFAULT_S
        made = await issuer_calls(self._balancer.ask_issuer)(
            CREATE_TOKEN,
            CreateToken(
                default_s if wanted.ttl_s is None else wanted.ttl_s,
                uses if is_join else None,
                wanted.role,
                wanted.collections,
                wanted.namespaces,
                request.principal,
            ),
        )
        body: dict[str, Any] = {
            "token": made.token,
            "id": made.id,
            "expires_at": made.expires_at,
            "uses": made.uses,
            "role": wanted.role,
        }
        if not is_join:
            body |= {"collections": wanted.collections, "namespaces": wanted.namespaces}
            body |= {"told": made.told, "members": made.members}
        return HttpResponse.json(body, 201)

    async def _list(self, request: HttpRequest) -> HttpResponse:
        listed = await issuer_calls(self._balancer.ask_issuer)(LIST_TOKENS, ListTokens())
        tokens, told, members = await self._uses.add_to(listed.tokens)
        return HttpResponse.json({"tokens": tokens, "uses_told": told, "members": members})

    async def join_tokens(self) -> list[TokenInfo]:
        """Ask the issuer which join tokens there are; raises as a call does."""
        listed = await issuer_calls(self._balancer.ask_issuer)(LIST_TOKENS, ListTokens())
        return [token for token in listed.tokens if token.role == JOIN_ROLE]

    async def _revoke(self, request: HttpRequest) -> HttpResponse:
        asked = RevokeToken(request.params["id"], request.principal)
        gone = await issuer_calls(self._balancer.ask_issuer)(REVOKE_TOKEN, asked)
        body: dict[str, Any] = {"revoked": request.params["id"]}
        if gone.members:
            body |= {"told": gone.told, "members": gone.members}
        return HttpResponse.json(body)


def _checked(asked_by: Principal | None, caller: NodeId) -> str:
    """Return who asked, for the log; the node that was asked has authorised it, and this one does too.

    Raises:
        SecurityError: It is nobody who may.
    """
    if asked_by is None:
        return "unknown"
    if not asked_by.has(Level.ADMIN):
        raise SecurityError(f"{asked_by.name} may not manage tokens", hint="use the frys-node command on a machine")
    return asked_by.name
