"""What the HTTP listener refuses, and the status that says so."""

from __future__ import annotations

from frys_node.base.errors import ConfigError, FrysError, SecurityError, UsageError


class HttpError(UsageError):
    """The request breaks a rule of HTTP or a limit. Nothing was done."""

    code = "http.bad_request"


class NoRoute(HttpError):
    """Nothing is served at that path. State is unchanged."""

    code = "http.no_route"
    status = 404


class MethodNotAllowed(HttpError):
    """The path exists, the method does not. State is unchanged."""

    code = "http.method_not_allowed"
    status = 405
    allow: tuple[str, ...] = ()
    """Methods that the path has."""


class RequestTimeout(HttpError):
    """The request did not arrive in time. Nothing was done and the connection is closed."""

    code = "http.timeout"
    status = 408


class LengthRequired(HttpError):
    """The request announces a body without saying how long it is. Nothing was done."""

    code = "http.length_required"
    status = 411


class BodyTooLarge(HttpError):
    """The body is over the route's limit. Nothing was done and the connection is closed."""

    code = "http.body_too_large"
    status = 413


class TargetTooLong(HttpError):
    """The path and query are over the limit. Nothing was done and the connection is closed."""

    code = "http.target_too_long"
    status = 414


class ExpectationFailed(HttpError):
    """The request expects something other than 100-continue. Nothing was done."""

    code = "http.expectation_failed"
    status = 417


class HeadersTooLarge(HttpError):
    """The headers are over a limit. Nothing was done and the connection is closed."""

    code = "http.headers_too_large"
    status = 431


class VersionNotSupported(HttpError):
    """Only HTTP/1.0 and HTTP/1.1 are spoken. Nothing was done."""

    code = "http.version"
    status = 505


class TooManyConnections(FrysError):
    """The listener is at a limit of connections. Nothing was done; retry later."""

    code = "http.too_many_connections"
    retryable = True
    status = 503


class TooManyRequests(FrysError):
    """The token or the address has used its requests up. Nothing was done; retry later."""

    code = "http.too_many_requests"
    retryable = True
    status = 429


class Unauthorised(SecurityError):
    """The request needs a token that is valid. Nothing was done."""

    code = "http.unauthorised"
    status = 401


class CrossSite(SecurityError):
    """A web page of another site sent the request. Nothing was done."""

    code = "http.cross_site"


class TokenNeeded(ConfigError):
    """HTTP off loopback has no token to check. Nothing was bound."""

    code = "http.token_needed"


class InternalError(FrysError):
    """A handler failed in a way that nobody foresaw. What it had acknowledged stays; see the log."""

    code = "http.internal"
