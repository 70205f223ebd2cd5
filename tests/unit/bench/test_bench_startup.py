"""`bench startup` compares two programs that both have their bytecode."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from frys_node.bench.startup import import_trio, keeping_bytecode


def test_the_peer_keeps_its_bytecode_whatever_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the run's own directory: the first start writes it, the second one reads it and writes nothing."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path / "elsewhere"))
    settings = keeping_bytecode(tmp_path)
    import_trio(settings)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "bytecode").rglob("*.pyc")}
    assert any("trio" in path.name or "trio" in str(path.parent) for path in written)
    import_trio(settings)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "bytecode").rglob("*.pyc")} == written
    assert not (tmp_path / "elsewhere").exists()


def test_the_node_keeps_its_bytecode_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same variables say so to any Python, ours as well."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    script = "import sys; print(sys.flags.dont_write_bytecode, sys.pycache_prefix)"
    environment = os.environ | keeping_bytecode(tmp_path)
    shown = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["0", str(tmp_path / "bytecode")]
