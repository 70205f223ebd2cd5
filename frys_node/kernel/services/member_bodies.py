"""Members as HTTP bodies show them, wherever they appear."""

from __future__ import annotations

from typing import Any

import msgspec

from frys_node.kernel.services.members import MemberChanged, MemberView


def member_body(view: MemberView) -> dict[str, Any]:
    """Return all of a member's view, the address as ``host:port``."""
    return {**msgspec.to_builtins(view), "address": str(view.address)}


def change_body(change: MemberChanged) -> dict[str, Any]:
    """Return what became of a member: its view before, None at first sight, and its view now."""
    return {"old": None if change.old is None else member_body(change.old), "new": member_body(change.new)}
