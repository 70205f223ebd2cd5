"""The only files that touch the kernel's sockets, files and threads."""

from __future__ import annotations
