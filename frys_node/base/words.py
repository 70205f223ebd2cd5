"""Suggestions for names that were mistyped. Sans-I/O."""

from __future__ import annotations

from collections.abc import Iterable

SHOWN_MAX = 64
"""Characters of a wrong name that are repeated to whoever sent it."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a suggestion to append to a message, empty if nothing is near."""
    from difflib import get_close_matches

    near = get_close_matches(name[:SHOWN_MAX], list(known), n=1)
    return f"; did you mean '{near[0]}'?" if near else ""
