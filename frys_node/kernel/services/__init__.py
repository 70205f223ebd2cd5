"""What components offer one another: Protocols, one small file each.

A `ServiceKey` names a service and carries its type, so that `context.service(RPC)` is checked by mypy. A plugin's
manifest says which keys it provides and requires; the registry orders start-up by them.
"""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class ServiceKey(Generic[T]):
    """The name of a service, typed by what it is."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"ServiceKey({self.name!r})"
