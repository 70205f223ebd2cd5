"""Errors of the ports: sockets that cannot be opened, disks that refuse.

Foreign errors (`OSError`) are translated here once, at the boundary; nothing above the ports sees an errno.
"""

from __future__ import annotations

import errno

from frys_node.base.errors import ConfigError, NodeUnreachable, StorageError
from frys_node.base.types import Address


class AddressInUse(ConfigError):
    """Another process listens on the address. Nothing was bound."""

    code = "transport.address_in_use"
    status = 409


class AddressRefused(ConfigError):
    """The kernel does not let this process bind the address. Nothing was bound."""

    code = "transport.address_refused"


class ConnectFailed(NodeUnreachable):
    """No connection could be made. Nothing was sent."""

    code = "transport.connect_failed"
    reason: str = "unknown"
    """``refused``, ``timeout``, ``unreachable``, ``unresolved``, ``reset`` or the errno's name in lower case."""


class StorageFull(StorageError):
    """The disk or the quota is full. The write was not acknowledged and left no partial bytes."""

    code = "storage.full"


class StorageReadOnly(StorageError):
    """The disk does not accept writes from this process. The write was not acknowledged."""

    code = "storage.read_only"


class FilePoisoned(StorageError):
    """An fsync of this file failed before; what the disk holds is unknown. Nothing more is written to it."""

    code = "storage.poisoned"


class PathRefused(StorageError):
    """The path leaves the root directory or is no plain relative path. Nothing was touched."""

    code = "storage.path_refused"
    status = 400


_REASONS = {
    errno.ECONNREFUSED: "refused",
    errno.ETIMEDOUT: "timeout",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
    errno.ECONNRESET: "reset",
}

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_READ_ONLY = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


def connect_failed(address: Address, reason: str, detail: str = "") -> ConnectFailed:
    """Build a `ConnectFailed` with its reason."""
    error = ConnectFailed(
        f"cannot connect to {address}: {detail or reason}",
        hint="check that the node runs and that nothing filters the port"
        if reason != "unresolved"
        else "check the name",
    )
    error.reason = reason
    return error


def connect_reason(number: int | None) -> str:
    """Return the reason word for an errno."""
    return _REASONS.get(number or 0, errno.errorcode.get(number or 0, "unknown").lower())


def bind_failed(address: Address, transport: str, error: OSError) -> ConfigError:
    """Translate a failed bind; `transport` is ``TCP`` or ``UDP``."""
    if error.errno == errno.EADDRINUSE:
        return AddressInUse(
            f"{transport} port {address.port} on {address.host} is in use",
            hint=f"stop the process that holds it (see: ss -lnp | grep {address.port}) or choose another port",
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return AddressRefused(
            f"no interface of this machine has the address {address.host}",
            hint="bind 0.0.0.0 (or [::]) or an address listed by: ip addr",
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return AddressRefused(
            f"no right to bind {transport} port {address.port}", hint="choose a port of 1024 or above"
        )
    return AddressRefused(f"cannot bind {transport} {address}: {error.strerror or error}")


def storage_failed(action: str, path: str, error: OSError) -> StorageError:
    """Translate a failed file operation; `action` is a verb such as ``write``."""
    text = error.strerror or str(error)
    if error.errno in _FULL:
        return StorageFull(
            f"cannot {action} '{path}': {text}", hint="free space on the disk that holds the data directory"
        )
    if error.errno in _READ_ONLY:
        return StorageReadOnly(
            f"cannot {action} '{path}': {text}",
            hint="mount the disk read-write and give this user the data directory",
        )
    if error.errno == errno.ELOOP:
        return PathRefused(f"'{path}' is a symbolic link", hint="data files are never followed through links")
    return StorageError(f"cannot {action} '{path}': {text}", hint="look for disk errors in the kernel log")
