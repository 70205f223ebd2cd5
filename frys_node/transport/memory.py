"""Keeps a small process small: what glibc would hold back is given to the machine.

A node has a few threads that allocate little. By default each gets a heap of its own, and what start-up freed stays
with the process. On other C libraries these calls do not exist and nothing happens.
"""

from __future__ import annotations

import ctypes
import gc

_M_ARENA_MAX = -8
"""mallopt(3): the most heaps that malloc makes."""


def share_one_heap() -> None:
    """Let all threads allocate from one heap; call before the first thread starts."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)


def settle() -> None:
    """Collect what start-up left behind, take what is left out of later collections, and return free memory."""
    gc.collect()
    gc.freeze()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
