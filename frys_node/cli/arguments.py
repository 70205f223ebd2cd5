"""How the verbs read what they are given: names, durations, and texts that have to be UTF-8."""

from __future__ import annotations

import argparse
import os
import re
from typing import Any

from frys_node.base.errors import UsageError

TIMEOUT_MAX_S = 30 * 86_400.0

FILES = frozenset({"config", "data_dir", "directory", "file", "key", "out", "to", "token_file", "workflows"})
"""Arguments that name files, which may be any bytes on this system."""

_UNITS_S = {"ms": 1e-3, "": 1.0, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?|\.\d+)(ms|[smhd]?)")


def seconds_of(text: str) -> float:
    """Read a duration such as ``500ms``, ``90s``, ``10m``, ``1h``, ``7d`` or plain seconds.

    Raises:
        UsageError: Not a positive duration.
    """
    match = _DURATION.fullmatch(text)
    seconds = float(match[1]) * _UNITS_S[match[2]] if match else 0.0
    if seconds <= 0:
        raise UsageError(
            f"'{text}' is not a duration", hint="write 500ms, 90s, 10m, 1h or 7d; a bare number is seconds"
        )
    return seconds


def duration(text: str) -> float:
    """Read a duration for argparse, which shows the error with the option's name."""
    try:
        return seconds_of(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(f"{error.message}: {error.hint}") from None


def timeout(text: str) -> float:
    """Read the length of a wait for argparse."""
    seconds = duration(text)
    if seconds > TIMEOUT_MAX_S:
        raise argparse.ArgumentTypeError(f"'{text}' is over {TIMEOUT_MAX_S / 86_400:g} days")
    return seconds


def name(text: str) -> str:
    """Read the name of something for argparse: an empty one names nothing."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty; is a variable unset?")
    return text


def check_texts(arguments: argparse.Namespace) -> None:
    """Refuse bytes that are no text where the node is told a text.

    Raises:
        UsageError: One of the arguments is not UTF-8.
    """
    for key, value in vars(arguments).items():
        if key not in FILES:
            for text in value if isinstance(value, list) else [value]:
                _check_text(text)


def _check_text(value: Any) -> None:
    if not isinstance(value, str):
        return
    try:
        value.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(value).decode(errors="backslashreplace")
        raise UsageError(
            f"'{shown}' is not UTF-8", hint="where a value may be any bytes, '-' reads them from standard input"
        ) from None
