"""Routes on the node's HTTP listener and admin socket. Provided by `frys_node.plugins.network`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeVar

import msgspec

from frys_node.base.access import Level, Principal, Resource, forbidden
from frys_node.base.errors import FrysError, UsageError
from frys_node.kernel.services import ServiceKey

T = TypeVar("T")


class HttpRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request that passed limits and authorisation. `params` come from the path template, percent-decoded."""

    method: str
    path: str
    params: Mapping[str, str]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """Lower-case names."""
    body: bytes
    principal: Principal
    """Who asks; authorised for the route, and for the collection or namespace that its path names."""

    def demand(self, level: Level) -> None:
        """Ask more of the caller than the route does, for what only the body or the query tells.

        Raises:
            Forbidden: The caller's role is less.
        """
        if not self.principal.has(level):
            raise forbidden(level)

    def json(self, form: type[T]) -> T:
        """Return the JSON body as a value of a type; an empty body is an empty object.

        Raises:
            UsageError: Not JSON, not UTF-8, nested too deeply, or not of that form; the message says where.
        """
        try:
            return msgspec.json.decode(self.body.strip() or b"{}", type=form)
        except RecursionError:
            raise UsageError("the body is not valid: it is nested too deeply") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"the body is not valid: {error}") from None


class HttpResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    headers: Mapping[str, str] = {}
    stream: AsyncIterator[bytes] | None = None
    """Pieces of a body of unknown length, sent as they come, instead of `body`."""

    @classmethod
    def json(cls, value: Any, status: int = 200) -> HttpResponse:
        """Encode a value (Structs included) as the JSON body."""
        return cls(status=status, body=msgspec.json.encode(value))


def shaped(error: FrysError, shape: ErrorShape) -> HttpResponse:
    """Return the answer that carries an error, with the headers that somebody gave it on the way."""
    response = shape(error)
    if not error.answer_headers:
        return response
    return msgspec.structs.replace(response, headers={**response.headers, **error.answer_headers})


HttpHandler = Callable[[HttpRequest], Awaitable[HttpResponse]]
ErrorShape = Callable[[FrysError], HttpResponse]


class Http(Protocol):
    """The route table."""

    def route(
        self,
        method: str,
        template: str,
        handler: HttpHandler,
        *,
        scope: str,
        resource: Resource = Resource.CLUSTER,
        error_shape: ErrorShape | None = None,
        body_bytes_max: int = 1 << 20,
    ) -> None:
        """Serve ``/v1/things/{name}``; a last ``{name...}`` takes the rest of the path.

        `scope` is the least role that may: ``open``, ``read``, ``write`` or ``admin``. `resource` says what the route
        is about, for tokens with scopes: with `Resource.COLLECTION` or `NAMESPACE` the path element ``{collection}`` or
        ``{namespace}`` names it, and a template with such an element has to say so.

        A `FrysError` from the handler becomes ``{"error": {"code", "message", "hint"}}`` with its status, unless
        `error_shape` says otherwise.
        """
        ...

    @property
    def address(self) -> str:
        """``host:port`` of the listener, with the real port; empty before it listens."""
        ...

    def unroute(self, template_prefix: str) -> None:
        """Remove every route whose template starts so (a plugin unloads)."""
        ...


HTTP: ServiceKey[Http] = ServiceKey("http")
