"""Keeps a small process small: what glibc would hold back is given to the machine.

A node has a few threads that allocate little. By default each gets a heap of its own, and what start-up freed stays
with the process. Start-up also runs through much more of the libraries' machine code than an idle node does, and every
page of it stays mapped. On other C libraries and systems these calls do not exist and nothing happens.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
from pathlib import Path

_M_ARENA_MAX = -8
"""mallopt(3): the most heaps that malloc makes."""
_MAPS = Path("/proc/self/maps")


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
    _unmap_program_text()


def _unmap_program_text() -> None:
    """Take the pages of executable files out of this process's page table; what is run again is mapped again.

    Only text is touched: it is read-only and never written, so its pages are those of the file, and coming back costs
    a minor fault. Of relocated data next to it a private copy exists, which the same call would destroy.
    """
    advise = getattr(ctypes.CDLL(None), "madvise", None)
    if advise is None or not hasattr(mmap, "MADV_DONTNEED") or not _MAPS.exists():
        return
    for line in _MAPS.read_text().splitlines():
        extent, rights, _, _, inode, *path = line.split(None, 5)
        if rights == "r-xp" and inode != "0" and path and path[0].startswith("/"):
            start, end = (int(bound, 16) for bound in extent.split("-"))
            advise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)
