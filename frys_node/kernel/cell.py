"""What of a configuration may be replaced while the node runs.

Each field's reload class comes from its annotation, ``Annotated[float, Meta(gt=0, extra={"reload": "live"})]``:
``live`` fields take effect at once, all others (the default) need a restart. A replacement is all or nothing.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from frys_node.base.errors import ReloadRefused

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
def field_hints(cls: type[msgspec.Struct]) -> dict[str, Any]:
    """Return what each field of a config Struct is declared to be. Annotations are compiled once: that takes long."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {name: hints[name] for name in cls.__struct_fields__}


@lru_cache(maxsize=256)
def reload_classes(cls: type[msgspec.Struct]) -> dict[str, str]:
    """Return the reload class of each field of a config Struct."""
    return {name: _reload_of(hint) for name, hint in field_hints(cls).items()}


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
