"""Errors that a node answered, as the classes that they have inside a node."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from frys_node.base.errors import FrysError, RemoteError, error_from_code

ERROR_MODULES: Mapping[str, Sequence[str]] = {
    "bench": [
        "frys_node.bench.membership_observer",
        "frys_node.bench.membership_report",
        "frys_node.bench.namespaces",
    ],
    "cache": ["frys_node.plugins.cache.cache"],
    "channel": ["frys_node.channel.bootstrap"],
    "http": ["frys_node.plugins.network.errors", "frys_node.base.access"],
    "kernel": ["frys_node.kernel.supervisor"],
    "membership": ["membership.errors"],
    "node": ["frys_node.arrival", "balancer.errors"],
    "plugin": ["frys_node.kernel.plugins"],
    "replication": ["frys_node.replication.errors"],
    "request": ["frys_node.channel.dispatch", "frys_node.kernel.services.sessions"],
    "routing": ["frys_node.plugins.workflow.errors", "balancer.errors"],
    "security": ["frys_node.secure.errors", "frys_node.secure.signer"],
    "snapshots": ["snapshots.errors"],
    "storage": ["frys_node.transport.disk", "frys_node.storage.ports"],
    "transport": ["frys_node.transport.errors"],
    "vector": ["frys_node.plugins.vector.errors"],
    "workflow": ["frys_node.plugins.workflow.errors"],
}
"""Where the errors of a code's first part are defined: imported only to name an error that a node answered."""


def error_of(value: Any, status: int) -> FrysError:
    """Rebuild the error of an HTTP body, in this project's envelope or Qdrant's."""
    code, message, hint = envelope_of(value)
    return _known(code, message or f"HTTP {status}", hint) if code else FrysError(f"the node answered HTTP {status}")


def envelope_of(value: Any) -> tuple[str, str, str]:
    """Return code, message and hint of an error body; an empty code when it is no such thing."""
    if isinstance(value, dict) and isinstance(value.get("error"), dict):
        error = value["error"]
        return str(error.get("code", "")), str(error.get("message", "")), str(error.get("hint", ""))
    if isinstance(value, dict) and isinstance(value.get("status"), dict):
        error = value["status"]
        return str(error.get("code", "")), str(error.get("error", "")), ""
    return "", "", ""


def _known(code: str, message: str, hint: str) -> FrysError:
    error = error_from_code(code, message, hint)
    if not isinstance(error, RemoteError):
        return error
    for module in ERROR_MODULES.get(code.partition(".")[0], ()):
        importlib.import_module(module)
    return error_from_code(code, message, hint)
