"""``/v1/events`` (POST), ``/v1/queries`` and ``/v1/state``: what members tell each other, over HTTP."""

from __future__ import annotations

import base64
import binascii
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
import trio

from frys_node.base.errors import NotFound, NotReady, UsageError
from frys_node.base.words import SHOWN_MAX
from frys_node.kernel.context import PluginContext
from frys_node.kernel.services.gossip import (
    GOSSIP,
    ClusterEvent,
    Gossip,
    Outcome,
    QueryAnswer,
    StateChanged,
    StateValue,
)
from frys_node.kernel.services.http import HttpRequest, HttpResponse
from frys_node.kernel.services.members import MEMBERS, Members, MemberView, is_short_for, not_sole
from frys_node.plugins.network.router import Router

BODY_BYTES_MAX = 16 * 1024
"""Bodies of these routes: above every limit of what they carry, so that the error names the right one."""

NDJSON = "application/x-ndjson"


class Payload(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Bytes in JSON: as text, or in base64 if they are none."""

    name: str
    payload: str = ""
    payload_base64: str = ""

    def data(self) -> bytes:
        """Return the bytes.

        Raises:
            UsageError: Both forms are given, or the base64 is none.
        """
        if self.payload and self.payload_base64:
            raise UsageError("give payload or payload_base64, not both")
        try:
            return base64.b64decode(self.payload_base64, validate=True) or self.payload.encode()
        except binascii.Error as error:
            raise UsageError(f"payload_base64 is not base64: {error}") from error


class EventWanted(Payload, kw_only=True, forbid_unknown_fields=True):
    """Body of ``POST /v1/events``."""


class QueryWanted(Payload, kw_only=True, forbid_unknown_fields=True):
    """Body of ``POST /v1/queries``."""

    nodes: tuple[str, ...] = ()
    tags: dict[str, str] = {}
    timeout_s: float = 5.0


class GossipRoutes:
    """Handlers over the `Gossip` service, looked up per request."""

    def __init__(self, context: PluginContext) -> None:
        self._context = context

    def register(self, router: Router) -> None:
        """Add every route."""
        for method, template, handler, scope in (
            ("POST", "/v1/events", self.fire, "write"),
            ("POST", "/v1/queries", self.ask, "write"),
            ("GET", "/v1/state", self.states, "read"),
            ("GET", "/v1/state/{key}", self.values, "read"),
            ("PUT", "/v1/state/{key}", self.put, "write"),
            ("DELETE", "/v1/state/{key}", self.delete, "write"),
        ):
            router.route(method, template, handler, scope=scope, body_bytes_max=BODY_BYTES_MAX)

    def _gossip(self) -> Gossip:
        gossip = self._context.services.find(GOSSIP)
        if gossip is None:
            raise NotReady("this node has no membership yet", hint="retry when it has started")
        return gossip

    def _members(self) -> Members:
        return self._context.service(MEMBERS)

    def _named(self, wanted: str | None) -> Sequence[MemberView]:
        """Return the members of a name, an id or the beginning of an id, all of them for None.

        Raises:
            NotFound: There is none, or several ids begin so; the message offers the nearest name, or the ids.
        """
        views = self._members().all()
        found = [view for view in views if wanted in (None, view.name, view.id)]
        if wanted is not None and not found:
            found = [view for view in views if is_short_for(wanted, view.id)]
            if len(found) != 1:
                raise not_sole(wanted, views)
        return found

    def _spelt_out(self, wanted: str) -> str:
        """Return a name or id as it is, and the beginning of an id as the id: others compare it with their own."""
        found = self._named(wanted)
        return wanted if wanted in (found[0].name, found[0].id) else found[0].id

    async def fire(self, request: HttpRequest) -> HttpResponse:
        """Tell every node; the answer is the event as each of them delivers it."""
        await trio.lowlevel.checkpoint()
        wanted = _body(request, EventWanted)
        return HttpResponse.json({"event": event_view(self._gossip().fire(wanted.name, wanted.data()))}, 201)

    async def ask(self, request: HttpRequest) -> HttpResponse:
        """Ask members and answer when all have spoken or the time is up; ``?stream`` answers line by line."""
        wanted = _body(request, QueryWanted)
        gossip = self._gossip()
        nodes = tuple(self._spelt_out(name) for name in wanted.nodes)
        answers = gossip.ask(wanted.name, wanted.data(), nodes=nodes, tags=wanted.tags, timeout_s=wanted.timeout_s)
        if "stream" in request.query:
            return HttpResponse(content_type=NDJSON, stream=_lines(answers))
        heard = [answer async for answer in answers]
        return HttpResponse.json({"answers": [_answer_view(answer) for answer in heard], "counts": _counts(heard)})

    async def states(self, request: HttpRequest) -> HttpResponse:
        """Everybody's keys; ``?node=`` (name or id) chooses one member."""
        await trio.lowlevel.checkpoint()
        gossip, wanted = self._gossip(), request.query.get("node")
        return HttpResponse.json({"state": [_state_view(view, gossip) for view in self._named(wanted)]})

    async def values(self, request: HttpRequest) -> HttpResponse:
        """One key, at every member that has it; ``?node=`` (name or id) chooses one member."""
        await trio.lowlevel.checkpoint()
        gossip, key, wanted = self._gossip(), request.params["key"], request.query.get("node")
        found = [
            {"node": view.id, "name": view.name, **_value_view(value)}
            for view in self._named(wanted)
            for value in gossip.state(view.id)
            if value.key == key
        ]
        if not found:
            told = "no member has the" if wanted is None else f"'{wanted[:SHOWN_MAX]}' has no"
            raise NotFound(f"{told} key '{key[:SHOWN_MAX]}'", hint="see `frys-node node list`")
        return HttpResponse.json({"key": key, "values": found})

    async def put(self, request: HttpRequest) -> HttpResponse:
        """Set a key of this node's own state to the body."""
        await trio.lowlevel.checkpoint()
        value = self._gossip().put(request.params["key"], request.body)
        return HttpResponse.json({"key": value.key, "version": value.version})

    async def delete(self, request: HttpRequest) -> HttpResponse:
        """Remove a key of this node's own state."""
        await trio.lowlevel.checkpoint()
        self._gossip().delete(request.params["key"])
        return HttpResponse.json({"key": request.params["key"], "deleted": True})


def event_view(event: ClusterEvent) -> dict[str, Any]:
    """Return an event as JSON shows it."""
    fields = msgspec.structs.asdict(event)
    del fields["payload"]
    return fields | _bytes_view("payload", event.payload)


def change_view(change: StateChanged) -> dict[str, Any]:
    """Return a change of state as JSON shows it; a key that is gone has no value."""
    fields: dict[str, Any] = {
        "node": change.node,
        "name": change.name,
        "key": change.key,
        "version": change.version,
    }
    return fields | ({"deleted": True} if change.value is None else _bytes_view("value", change.value))


def _bytes_view(name: str, data: bytes) -> dict[str, str]:
    """Return bytes as text, or in base64 if they are none."""
    try:
        return {name: data.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(data).decode()}


def _value_view(value: StateValue) -> dict[str, Any]:
    return {"version": value.version, **_bytes_view("value", value.value)}


def _state_view(member: MemberView, gossip: Gossip) -> dict[str, Any]:
    keys = {value.key: _value_view(value) for value in gossip.state(member.id)}
    return {"node": member.id, "name": member.name, "status": member.status.value, "keys": keys}


def _answer_view(answer: QueryAnswer) -> dict[str, Any]:
    return {
        "node": answer.node,
        "name": answer.name,
        "outcome": answer.outcome.value,
        "after_s": round(answer.after_s, 6),
        **_bytes_view("payload", answer.payload),
    }


def _counts(answers: list[QueryAnswer]) -> Mapping[str, int]:
    counted = Counter(answer.outcome for answer in answers)
    return {"asked": len(answers), **{outcome.value: counted[outcome] for outcome in Outcome}}


async def _lines(answers: AsyncIterator[QueryAnswer]) -> AsyncIterator[bytes]:
    """Yield a line for each answer and a last one with the counts."""
    heard: list[QueryAnswer] = []
    async for answer in answers:
        heard.append(answer)
        yield msgspec.json.encode(_answer_view(answer)) + b"\n"
    yield msgspec.json.encode({"counts": _counts(heard)}) + b"\n"


T = TypeVar("T")


def _body(request: HttpRequest, shape: type[T]) -> T:
    """Decode a JSON body.

    Raises:
        UsageError: It is not of that shape; the message names the field. Nothing was done.
    """
    try:
        return msgspec.json.decode(request.body or b"{}", type=shape)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise UsageError(f"the body is not right: {error}") from error
