"""What a terminal is shown of texts that somebody else wrote: members' names, tags, keys, errors.

A terminal obeys what it is sent. Any member could otherwise clear an operator's screen, or write a line of its own.
"""

from __future__ import annotations

import os
import sys
from typing import Any


def printable(text: str) -> str:
    """Return a text for one line of a terminal: what is not printable, line breaks included, is shown as an escape."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def printable_lines(text: str) -> str:
    """Return a text of several lines; of what is not printable only the line breaks stay."""
    return "\n".join(map(printable, text.split("\n")))


def escaped(value: Any) -> Any:
    """Return a decoded body with every text in it printable, keys included."""
    match value:
        case str():
            return printable(value)
        case dict():
            return {escaped(key): escaped(item) for key, item in value.items()}
        case list():
            return [escaped(item) for item in value]
        case _:
            return value


def say(text: str) -> None:
    """Print lines at once, whoever wrote what is in them."""
    print(printable_lines(text), flush=True)


def is_painted() -> bool:
    """True if standard output is a terminal that shows colours and its user has not said no (``NO_COLOR``)."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb" and not os.environ.get("NO_COLOR")


def print_painted(text: str) -> None:
    """Print lines that have colours of our own; what others wrote in them was made printable before."""
    print(text, flush=True)


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode()
