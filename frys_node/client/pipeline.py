"""Operations that are carried out together: one flight to each node instead of one per operation.

Sans-I/O. Nothing is promised about their order, not even for one key, and they are no transaction.
"""

from __future__ import annotations

from typing import Any, TypeVar

from frys_node.client import cache, vectors, workflows
from frys_node.client.bound import Collector, Handle, Queued
from frys_node.client.calls import Plan
from frys_node.client.core import Core

T = TypeVar("T")


class QueuedCache(Handle[cache.Namespace, Collector]):
    """A namespace of the cache, in a pipeline."""

    get = Queued(cache.get)
    lookup = Queued(cache.lookup)
    put = Queued(cache.put)
    cas = Queued(cache.cas)
    delete = Queued(cache.delete)
    incr = Queued(cache.incr)
    mget = Queued(cache.mget)
    mset = Queued(cache.mset)
    mdelete = Queued(cache.mdelete)


class QueuedCollection(Handle[vectors.Collection, Collector]):
    """A vector collection, in a pipeline."""

    upsert = Queued(vectors.upsert)
    delete = Queued(vectors.delete)
    get = Queued(vectors.get)
    query = Queued(vectors.query)
    scroll = Queued(vectors.scroll)
    count = Queued(vectors.count)


class QueuedWorkflows(Handle[workflows.Runs, Collector]):
    """Workflows, in a pipeline."""

    start = Queued(workflows.start)
    show = Queued(workflows.show)
    signal = Queued(workflows.signal)
    cancel = Queued(workflows.cancel)


class Queue:
    """Where operations wait; the clients' pipelines add how they are carried out."""

    def __init__(self, core: Core, runs: workflows.Runs) -> None:
        self._core = core
        self._plans: list[Plan[Any]] = []
        self.workflows = QueuedWorkflows(runs, self)

    def cache(self, namespace: str = "default") -> QueuedCache:
        """Return a namespace of the cache."""
        return QueuedCache(cache.Namespace(self._core, namespace), self)

    def collection(self, name: str) -> QueuedCollection:
        """Return a vector collection."""
        return QueuedCollection(vectors.Collection(self._core, name), self)

    def add(self, plan: Plan[Any]) -> int:
        """Take an operation; returns the place of its result."""
        self._plans.append(plan)
        return len(self._plans) - 1

    def take(self) -> list[Plan[Any]]:
        """Return what was queued, and begin anew."""
        plans, self._plans = self._plans, []
        return plans
