"""One error root. Sans-I/O. The same `code` is the reply on the wire, the log key and the metric label.

Each class says what happened to state. Messages name the fix. `hint` is shown beneath the message by the CLI
and in the HTTP body. Packages add their own leaves; codes are unique (a tidy test holds it).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

_BY_CODE: dict[str, type[FrysError]] = {}


class FrysError(Exception):
    """Root of every error that frys raises on purpose."""

    code: ClassVar[str] = "frys.error"
    retryable: ClassVar[bool] = False
    status: ClassVar[int] = 500
    """HTTP status that answers a request which met this error."""

    def __init__(self, message: str = "", *, hint: str = "") -> None:
        super().__init__(message or (self.__doc__ or self.code).splitlines()[0])
        self.hint = hint
        self.answer_headers: Mapping[str, str] = {}
        """Headers of the HTTP answer that carries the error, beside those of its kind."""

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if "code" in cls.__dict__:
            _BY_CODE[cls.code] = cls

    @property
    def message(self) -> str:
        """The text for people, without the code."""
        return str(self.args[0]) if self.args else ""


class RemoteError(FrysError):
    """Another node answered with an error code that this version does not know. State is unchanged here."""

    code = "remote.unknown"
    status = 502


def error_from_code(code: str, message: str, hint: str = "") -> FrysError:
    """Rebuild an error that travelled as (code, message, hint). Unknown codes become `RemoteError`."""
    cls = _BY_CODE.get(code)
    if cls is None:
        return RemoteError(f"{code}: {message}", hint=hint)
    error = cls.__new__(cls)
    FrysError.__init__(error, message, hint=hint)
    return error


class ConfigError(FrysError):
    """A setting is wrong. Nothing was started or changed."""

    code = "config.invalid"
    status = 400


class InvalidAddress(ConfigError):
    """The text is not an address. State is unchanged."""

    code = "config.invalid_address"


class ReloadRefused(ConfigError):
    """A changed setting needs a restart. The running settings stand."""

    code = "config.reload_refused"
    status = 409


class UsageError(FrysError):
    """The request cannot be understood. State is unchanged."""

    code = "request.invalid"
    status = 400


class NotFound(FrysError):
    """The named thing does not exist. State is unchanged."""

    code = "request.not_found"
    status = 404


class AlreadyExists(FrysError):
    """The named thing exists already. State is unchanged."""

    code = "request.exists"
    status = 409


class WireError(FrysError):
    """Bytes from the network could not be used. They were dropped."""

    code = "wire.error"
    status = 400


class MalformedFrame(WireError):
    """The bytes are not a message of this protocol. They were dropped."""

    code = "wire.malformed"


class FrameTooLarge(WireError):
    """A frame is over its limit. It was not read and the connection is closed."""

    code = "wire.too_large"
    status = 413


class UnsupportedVersion(WireError):
    """The other side speaks a protocol version that this one does not. Nothing was exchanged."""

    code = "wire.version"


class SecurityError(FrysError):
    """Proof of identity or of a right is missing or wrong. State is unchanged."""

    code = "security.refused"
    status = 403


class RoutingError(FrysError):
    """A request could not be brought to the node that serves it."""

    code = "routing.error"
    status = 503


class NotOwner(RoutingError):
    """This node does not hold the unit under the current record. Nothing was done; ask the owner."""

    code = "routing.not_owner"
    retryable = True
    status = 421


class StaleEpoch(RoutingError):
    """The request was routed under an older topology record. Nothing was done; refresh and retry once."""

    code = "routing.stale_epoch"
    retryable = True
    status = 409


class NoReplica(RoutingError):
    """Too few replicas of the unit answer. An unfinished write may still appear later."""

    code = "routing.no_replica"
    retryable = True


class Overloaded(RoutingError):
    """A queue is at its limit. Nothing was done; retry later."""

    code = "routing.overloaded"
    retryable = True
    status = 429


class DeadlineExceeded(FrysError):
    """The deadline passed before an answer came. The outcome is unknown."""

    code = "request.deadline"
    retryable = True
    status = 504


class NodeUnreachable(RoutingError):
    """No connection to the node. Whether a request in flight was done is unknown."""

    code = "routing.unreachable"
    retryable = True


class IssuerUnreachable(NodeUnreachable):
    """The node that changes the topology record does not answer. What was asked of it waits until it is back."""

    code = "routing.issuer_unreachable"


class IssuerNeeded(RoutingError):
    """The issuer cannot leave while others need it. Nothing was changed."""

    code = "routing.issuer_needed"
    status = 409


class StorageError(FrysError):
    """The disk refused. The write was not acknowledged."""

    code = "storage.failed"
    status = 507


class CorruptData(StorageError):
    """Stored bytes fail their checksum. They are not used."""

    code = "storage.corrupt"
    status = 500


class PluginError(FrysError):
    """A plugin cannot be loaded or has failed. The node goes on without it."""

    code = "plugin.failed"


class NotReady(FrysError):
    """The component is starting or draining. Nothing was done; retry."""

    code = "node.not_ready"
    retryable = True
    status = 503
