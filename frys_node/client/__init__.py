"""The client: `Client` on trio, `SyncClient` on blocking sockets; both route straight to the owners of what is asked.

::

    from frys_node.client import SyncClient

    with SyncClient("http://127.0.0.1:8080") as client:
        cache = client.cache("sessions")
        cache.put("u1", b"...", ttl="30m")
        client.collection("notes").query([0.1, 0.9, 0.1, 0.0], limit=3)
        run = client.workflows.start("order", {"id": 7})

Importing this package loads neither trio nor anything of a node: the names below come with their first use.
docs/client.md says what is retried and what an error means.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from frys_node.client.blocking import SyncClient
    from frys_node.client.cache import Entry, Lookup
    from frys_node.client.concurrent import Client
    from frys_node.client.vectors import Hit, Page, Point
    from frys_node.client.workflows import Run, RunFailed

__all__ = ["Client", "Entry", "Hit", "Lookup", "Page", "Point", "Run", "RunFailed", "SyncClient"]

_LAZY = {
    "Client": "frys_node.client.concurrent",
    "Entry": "frys_node.client.cache",
    "Hit": "frys_node.client.vectors",
    "Lookup": "frys_node.client.cache",
    "Page": "frys_node.client.vectors",
    "Point": "frys_node.client.vectors",
    "Run": "frys_node.client.workflows",
    "RunFailed": "frys_node.client.workflows",
    "SyncClient": "frys_node.client.blocking",
}


def __getattr__(name: str) -> object:
    """Load a name on first use (PEP 562)."""
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(module), name)
