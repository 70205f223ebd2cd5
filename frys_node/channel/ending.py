"""How a connection ended, and who hears of it."""

from __future__ import annotations

import errno
from enum import StrEnum

import trio


class Ending(StrEnum):
    """How a connection ended."""

    GOODBYE = "goodbye"
    """One side said that it goes away."""
    STOPPED = "stopped"
    """The other side said that its process is being stopped."""
    LOST = "lost"
    """An end or a reset that nobody announced: what the kernel does for a process that has died."""
    SILENT = "silent"
    """No answer, or a network that says it cannot get there."""
    CLOSED = "closed"
    """This side wanted it, or what came was not this protocol."""


_RESETS = frozenset({errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED})


def ending_of(error: trio.BrokenResourceError) -> Ending:
    """Say what a broken stream means: an errno that speaks of the network is no sign of the process."""
    cause = error.__cause__
    if isinstance(cause, OSError):
        return Ending.LOST if cause.errno in _RESETS else Ending.SILENT
    return Ending.LOST if cause is None else Ending.CLOSED
