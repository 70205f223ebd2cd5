"""A benchmark's nodes, and their peers, have their bytecode whatever the environment says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from frys_node.bench import bytecode
from frys_node.bench.bytecode import FORBIDS, PLACE, bytecode_is_kept
from frys_node.bench.startup import import_trio


def test_what_is_started_within_keeps_its_bytecode_in_a_directory_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours is there before the first start, a library's after it; a second start writes nothing; the end removes it."""
    monkeypatch.setenv(FORBIDS, "1")
    monkeypatch.setenv(PLACE, str(tmp_path / "elsewhere"))
    monkeypatch.setattr(bytecode, "PACKAGES", ("snapshots",))
    with bytecode_is_kept():
        home = Path(os.environ[PLACE])
        assert any("snapshots" in path.parts for path in home.rglob("*.pyc"))
        import_trio()
        written = {path: path.stat().st_mtime_ns for path in home.rglob("*.pyc")}
        assert any("trio" in path.parts for path in written)
        import_trio()
        assert {path: path.stat().st_mtime_ns for path in home.rglob("*.pyc")} == written
        script = "import sys; print(sys.flags.dont_write_bytecode, sys.pycache_prefix)"
        shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert shown.stdout.split() == ["0", str(home)]
    assert not home.exists()
    assert not (tmp_path / "elsewhere").exists()
    assert (os.environ[FORBIDS], os.environ[PLACE]) == ("1", str(tmp_path / "elsewhere"))


def test_where_nothing_is_forbidden_python_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation has its bytecode already."""
    monkeypatch.delenv(FORBIDS, raising=False)
    monkeypatch.delenv(PLACE, raising=False)
    with bytecode_is_kept():
        assert PLACE not in os.environ
