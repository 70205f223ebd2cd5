"""What the directory disk asks of the kernel, in which order: its promises stand on that, and nothing else shows it.

A fake loses what was not synced, but only power does that to a real disk. So the real calls are watched as they pass.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from frys_node.transport import disk as disk_module
from frys_node.transport.disk import DirectoryDisk

SYNCS = ("fsync", "fdatasync", "ftruncate")
MOVES = ("rename", "link")
CHANGES = ("mkdir", "unlink")


class _Watch:
    """Calls that went through, as ``verb path``; temporary names are ``*``."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.calls: list[str] = []

    def note(self, verb: str, *paths: str) -> None:
        shown = (os.path.relpath(path, self._root) for path in paths)
        self.calls.append(" ".join([verb, *("*" if path.endswith(disk_module._TEMPORARY) else path for path in shown)]))

    def take(self) -> list[str]:
        """What happened since the last time."""
        calls, self.calls = self.calls, []
        return calls


@contextmanager
def _watched(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Watch]:
    watch = _Watch(root)

    def through(verb: str) -> Callable[..., Any]:
        real: Callable[..., Any] = getattr(os, verb)

        def call(*arguments: Any) -> Any:
            done = real(*arguments)
            if verb in SYNCS:
                watch.note(verb, os.readlink(f"/proc/self/fd/{arguments[0]}"))
            else:
                watch.note(verb, *(arguments[:2] if verb in MOVES else arguments[:1]))
            return done

        return call

    with monkeypatch.context() as patch:
        for verb in (*SYNCS, *MOVES, *CHANGES):
            patch.setattr(disk_module.os, verb, through(verb))
        yield watch


def test_bytes_and_names_are_synced_before_a_change_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file before its name, the name's directory after it, and each new directory in its own parent."""
    disk = DirectoryDisk(tmp_path)
    with _watched(tmp_path, monkeypatch) as watch:
        assert disk.create("a/b/file", b"1")
        made = ["mkdir a", "fsync .", "mkdir a/b", "fsync a"]
        assert watch.take() == [*made, "fsync *", "link * a/b/file", "unlink *", "fsync a/b"]
        assert not disk.create("a/b/file", b"2")
        assert watch.take() == ["fsync *", "unlink *"]
        disk.write("a/b/file", b"3")
        assert watch.take() == ["fsync *", "rename * a/b/file", "fsync a/b"]
        disk.write("a/b/file", b"4", durable=False)
        assert watch.take() == ["rename * a/b/file"]
        disk.append("a/log", b"5")
        assert watch.take() == []
        disk.sync("a/log")
        assert watch.take() == ["fdatasync a/log", "fsync a"]
        disk.append("a/log", b"6")
        disk.sync("a/log")
        assert watch.take() == ["fdatasync a/log"]
        disk.truncate("a/log", 1)
        assert watch.take() == ["ftruncate a/log", "fsync a/log"]
        disk.remove("a/log")
        assert watch.take() == ["unlink a/log", "fsync a"]
