"""A configuration value that can be replaced while the node runs, and what may be replaced.

Each field's reload class comes from its annotation, ``Annotated[float, Meta(gt=0, extra={"reload": "live"})]``:
``live`` fields take effect at once, all others (the default) need a restart. A replacement is all or nothing.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
import trio

from frys_node.base.errors import ReloadRefused

T = TypeVar("T", bound=msgspec.Struct)

RESTART = "restart"
LIVE = "live"


class Change(NamedTuple):
    """One field that differs; `path` is dotted."""

    path: str
    old: Any
    new: Any
    reload: str
    """``live`` or ``restart``."""


@lru_cache(maxsize=256)
def reload_classes(cls: type[msgspec.Struct]) -> dict[str, str]:
    """Return the reload class of each field of a config Struct."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {name: _reload_of(hint) for name, hint in hints.items() if name in cls.__struct_fields__}


def _reload_of(hint: Any) -> str:
    for meta in getattr(hint, "__metadata__", ()):
        if isinstance(meta, msgspec.Meta) and (meta.extra or {}).get("reload"):
            return str((meta.extra or {})["reload"])
    return RESTART


def diff(old: msgspec.Struct, new: msgspec.Struct, prefix: str = "") -> list[Change]:
    """Return the fields that differ between two values of one Struct class, nested Structs field by field."""
    assert type(old) is type(new)
    classes = reload_classes(type(old))
    changes: list[Change] = []
    for name in old.__struct_fields__:
        before, after = getattr(old, name), getattr(new, name)
        if before == after:
            continue
        if isinstance(before, msgspec.Struct) and type(before) is type(after):
            changes += diff(before, after, f"{prefix}{name}.")
        else:
            changes.append(Change(f"{prefix}{name}", before, after, classes[name]))
    return changes


def refuse_restart(changes: Iterable[Change]) -> None:
    """Raise if any change needs a restart.

    Raises:
        ReloadRefused: Names every such field. The running settings stand.
    """
    fixed = [change for change in changes if change.reload != LIVE]
    if fixed:
        names = ", ".join(f"{change.path} ({change.old!r} -> {change.new!r})" for change in fixed)
        raise ReloadRefused(
            f"these settings change only with a restart: {names}", hint="restart the node to apply them"
        )


class ConfigCell(Generic[T]):
    """Holds the current config; readers take `current` when they need it, or are told of changes."""

    def __init__(self, value: T) -> None:
        self._value = value
        self._changed = trio.Event()
        self._listeners: list[Callable[[T, T], None]] = []

    @property
    def current(self) -> T:
        """The config in force."""
        return self._value

    def replace(self, new: T, *, force: bool = False) -> list[Change]:
        """Swap in a validated config in one assignment; returns what changed.

        Raises:
            ReloadRefused: A changed field needs a restart (`force` is for a restarted component). Nothing changed.
        """
        old = self._value
        changes = diff(old, new)
        if not force:
            refuse_restart(changes)
        if changes:
            self._value = new
            wake, self._changed = self._changed, trio.Event()
            wake.set()
            for listener in tuple(self._listeners):
                listener(old, new)
        return changes

    def on_change(self, listener: Callable[[T, T], None]) -> Callable[[], None]:
        """Call the listener with (old, new) at each change, synchronously; returns the function that ends it."""
        self._listeners.append(listener)

        def off() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return off

    async def changed(self) -> T:
        """Wait for the next change and return the new value."""
        event = self._changed
        await event.wait()
        return self._value

    def fields(self) -> Iterator[tuple[str, Any]]:
        """Yield (name, value) of each field in order."""
        for name in self._value.__struct_fields__:
            yield name, getattr(self._value, name)
