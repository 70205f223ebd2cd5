"""The route table: templates to handlers.

Sans-I/O. A literal path is one look-up. Templates are tried most literal first; ``{name}`` takes one segment and a
last ``{name...}`` takes the rest. Segments are decoded after the split, so an encoded slash stays in its segment.
"""

from __future__ import annotations

from bisect import insort
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote

from frys_node.base.access import Level, Need, Resource
from frys_node.base.errors import PluginError
from frys_node.kernel.services.http import ErrorShape, HttpHandler
from frys_node.plugins.network.errors import HttpError, MethodNotAllowed, NoRoute

NAMED = {Resource.COLLECTION: "{collection}", Resource.NAMESPACE: "{namespace}"}
"""The path element that names a resource, in every template that has one."""
QUERY_FIELDS_MAX = 64
ROUTES_MAX = 1_024


class Route(NamedTuple):
    """One entry of the table."""

    method: str
    template: str
    handler: HttpHandler
    level: Level
    resource: Resource
    error_shape: ErrorShape | None
    body_bytes_max: int

    def need(self, params: dict[str, str]) -> Need:
        """Return what a request with these values of the template needs."""
        if self.resource is Resource.COLLECTION:
            return Need(self.level, self.resource, params["collection"])
        if self.resource is Resource.NAMESPACE:
            return Need(self.level, self.resource, params["namespace"])
        return Need(self.level, self.resource)


class Match(NamedTuple):
    """A request's route and the values of its template."""

    route: Route
    params: dict[str, str]


class _Pattern(NamedTuple):
    parts: tuple[str, ...]
    methods: dict[str, Route]
    rank: tuple[int, ...]
    """Literal segments before names, names before a rest."""
    shape: tuple[str, ...]
    """Names do not distinguish templates: /a/{x} and /a/{y} are one place."""


def _pattern(template: str) -> _Pattern:
    parts = tuple(template.split("/")[1:])
    rank = tuple(0 if part[:1] != "{" else 2 if part.endswith("...}") else 1 for part in parts)
    shape = tuple((part, "{}", "{...}")[kind] for part, kind in zip(parts, rank, strict=True))
    return _Pattern(parts, {}, rank, shape)


class Router:
    """The table and its look-up; `Http` without a listener."""

    def __init__(self) -> None:
        self._literal: dict[str, dict[str, Route]] = {}
        self._patterns: list[_Pattern] = []
        """By rank."""
        self._by_shape: dict[tuple[str, ...], _Pattern] = {}
        self._count = 0

    @property
    def routes(self) -> list[Route]:
        """Every route, sorted by template and method."""
        tables = [*self._literal.values(), *(pattern.methods for pattern in self._patterns)]
        return sorted((route for methods in tables for route in methods.values()), key=lambda r: (r.template, r.method))

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
        """Add a route; see `Http.route`.

        Raises:
            PluginError: The template is served already, or malformed, or what it names is not declared. The table is
                unchanged.
        """
        if scope not in set(Level) or not template.startswith("/") or method != method.upper():
            raise PluginError(f"route {method} {template}: the scope, template or method is malformed")
        named = {kind for kind, element in NAMED.items() if element in template.split("/")}
        if named != {resource} & NAMED.keys():
            raise PluginError(f"route {method} {template}: the resource '{resource}' is not what the template names")
        route = Route(method, template, handler, Level(scope), resource, error_shape, body_bytes_max)
        methods = self._methods(template)
        if method in methods:
            raise PluginError(f"route {method} {template} is served already")
        if self._count >= ROUTES_MAX:
            raise PluginError(f"more than {ROUTES_MAX} routes")
        methods[method] = route
        self._count += 1

    def _methods(self, template: str) -> dict[str, Route]:
        if "{" not in template:
            return self._literal.setdefault(template, {})
        fresh = _pattern(template)
        known = self._by_shape.setdefault(fresh.shape, fresh)
        if known is fresh:
            insort(self._patterns, fresh, key=lambda pattern: pattern.rank)
        return known.methods

    def unroute(self, template_prefix: str) -> None:
        """Remove every route whose template starts so."""
        for methods in [*self._literal.values(), *(pattern.methods for pattern in self._patterns)]:
            for method in [m for m, route in methods.items() if route.template.startswith(template_prefix)]:
                del methods[method]
                self._count -= 1
        self._literal = {path: methods for path, methods in self._literal.items() if methods}
        self._patterns = [pattern for pattern in self._patterns if pattern.methods]
        self._by_shape = {pattern.shape: pattern for pattern in self._patterns}

    def find(self, method: str, path: str) -> Match:
        """Return the route of a path that is still percent-encoded. HEAD is served by GET.

        Raises:
            NoRoute: No template fits.
            MethodNotAllowed: One fits, for other methods; its `allow` lists them.
            HttpError: A segment is not percent-encoded UTF-8.
        """
        wanted = "GET" if method == "HEAD" else method
        allowed: set[str] = set()
        methods = self._literal.get(path)
        if methods is not None:
            if wanted in methods:
                return Match(methods[wanted], {})
            allowed.update(methods)
        segments = path.split("/")[1:]
        for pattern in self._patterns:
            raw = _fit(pattern.parts, segments)
            if raw is None:
                continue
            if wanted in pattern.methods:
                route = pattern.methods[wanted]
                return Match(route, _named(tuple(route.template.split("/")[1:]), raw))
            allowed.update(pattern.methods)
        if allowed:
            raise _not_allowed(method, path, allowed)
        raise NoRoute(
            f"nothing is served at {path[:256]}", hint="the plugin that serves it may be off: see /v1/plugins"
        )


def _fit(parts: tuple[str, ...], segments: list[str]) -> list[str] | None:
    """Return the raw values of the template's names, None if the path does not fit."""
    values: list[str] = []
    for index, part in enumerate(parts):
        if part[:1] == "{" and part.endswith("...}"):
            return [*values, "/".join(segments[index:])] if len(segments) > index else None
        if index >= len(segments):
            return None
        if part[:1] == "{":
            if not segments[index]:
                return None
            values.append(segments[index])
        elif part != segments[index]:
            return None
    return values if len(segments) == len(parts) else None


def _named(parts: tuple[str, ...], raw: list[str]) -> dict[str, str]:
    names = [part[1:-1].removesuffix("...") for part in parts if part[:1] == "{"]
    try:
        return {name: unquote(value, errors="strict") for name, value in zip(names, raw, strict=True)}
    except UnicodeDecodeError:
        raise HttpError("the path is not percent-encoded UTF-8") from None


def _not_allowed(method: str, path: str, allowed: set[str]) -> MethodNotAllowed:
    names = sorted(allowed | {"HEAD"} if "GET" in allowed else allowed)
    error = MethodNotAllowed(f"{method} is not possible at {path[:256]}", hint=f"use {', '.join(names)}")
    error.allow = tuple(names)
    return error


def split_target(target: str) -> tuple[str, dict[str, str]]:
    """Return a target's path (still encoded) and its decoded query; of a repeated field the last counts.

    Raises:
        HttpError: Too many fields, or not percent-encoded UTF-8.
    """
    path, mark, query = target.partition("?")
    if not mark:
        return path, {}
    try:
        fields = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=QUERY_FIELDS_MAX)
    except (ValueError, UnicodeDecodeError) as error:
        raise HttpError(f"the query cannot be read: {error}") from None
    return path, dict(fields)
