"""Any sequence of calls: the real disk and the fake one answer alike."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from frys_node.base.errors import FrysError
from frys_node.base.ports import Disk
from frys_node.testing.disk import FakeDisk
from frys_node.transport.disk import DirectoryDisk

PATHS = st.sampled_from(["a", "b", "d/a", "d/b", "d/e/a"])
DATA = st.binary(max_size=40)


class TwoDisks(RuleBasedStateMachine):
    """Gives each call to both and compares what they say."""

    def __init__(self) -> None:
        super().__init__()
        self._directory = tempfile.TemporaryDirectory()
        self.real = DirectoryDisk(Path(self._directory.name) / "data")
        self.fake = FakeDisk()

    def _both(self, verb: str, *arguments: Any, **options: Any) -> None:
        answers = []
        for disk in (self.real, self.fake):
            try:
                answers.append(getattr(disk, verb)(*arguments, **options))
            except FrysError as error:
                answers.append(type(error))
        assert answers[0] == answers[1], (verb, arguments, answers)

    @rule(path=PATHS, data=DATA, durable=st.booleans())
    def write(self, path: str, data: bytes, durable: bool) -> None:
        self._both("write", path, data, durable=durable)

    @rule(path=PATHS, data=DATA)
    def create(self, path: str, data: bytes) -> None:
        self._both("create", path, data)

    @rule(path=PATHS, data=DATA)
    def append(self, path: str, data: bytes) -> None:
        self._both("append", path, data)

    @rule(path=PATHS)
    def sync(self, path: str) -> None:
        self._both("sync", path)

    @rule(path=PATHS, size_bytes=st.integers(0, 60))
    def truncate(self, path: str, size_bytes: int) -> None:
        self._both("truncate", path, size_bytes)

    @rule(path=st.one_of(PATHS, st.sampled_from(["d", "d/e"])))
    def remove(self, path: str) -> None:
        self._both("remove", path)

    @rule()
    def reopen(self) -> None:
        """A new process on the same directory; the machine stayed up, so nothing is lost."""
        root = self.real.root
        self.real.close()
        self.real = DirectoryDisk(root)

    @invariant()
    def they_agree(self) -> None:
        for path in ("a", "b", "d/a", "d/b", "d/e/a"):
            self._both("read", path)
            self._both("size_bytes", path)
        assert _files(self.real) == _files(self.fake)

    def teardown(self) -> None:
        self.real.close()
        self._directory.cleanup()


def _files(disk: Disk, directory: str = "") -> list[str]:
    """Every file; directories that are left empty mean nothing to the port."""
    found: list[str] = []
    for name in disk.list(directory):
        path = f"{directory}/{name}" if directory else name
        found += _files(disk, path) if name in ("d", "e") else [path]
    return found


TwoDisks.TestCase.settings = settings(max_examples=20, stateful_step_count=30, deadline=None)
TestTwoDisks = TwoDisks.TestCase
