"""Which code a run says that it was of."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from frys_node.testing import revision
from frys_node.testing.revision import Revision, commit, tree_digest


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with one package and one commit."""
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, "/dev/null")
    monkeypatch.setattr(revision, "PACKAGES", frozenset({"ours"}))
    root = tmp_path.resolve()
    (root / "ours" / "deep").mkdir(parents=True)
    (root / "ours" / "deep" / "a.py").write_text("A = 1\n", encoding="utf-8")
    _git(root, "init", "-q")
    _git(root, "add", ".")
    _git(root, "-c", "user.name=n", "-c", "user.email=n@example.org", "commit", "-qm", "First")
    return root


def _git(root: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", str(root), *arguments], check=True)


def test_changes_on_top_of_a_commit_are_told(checkout: Path) -> None:
    """The commit's name says that there are some, the digest says which."""
    clean, first = commit(checkout), tree_digest(checkout)
    assert len(clean) == 12
    (checkout / "ours" / "deep" / "a.py").write_text("A = 2\n", encoding="utf-8")
    assert commit(checkout) == f"{clean}-dirty"
    assert tree_digest(checkout) != first


def test_files_that_change_during_a_run_are_told(checkout: Path) -> None:
    """A run over which its code stayed has one digest, another one both."""
    begun = Revision(checkout)
    first = tree_digest(checkout)
    assert begun.told() == {"commit": commit(checkout), "code": first}
    (checkout / "ours" / "b.py").write_text("", encoding="utf-8")
    assert begun.told()["code"] == f"{first}, then {tree_digest(checkout)}"


def test_an_installed_package_has_no_commit(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in somebody else's checkout nor where there is no git."""
    assert commit(checkout / "ours") == ""
    monkeypatch.setenv("PATH", "")
    assert commit(checkout) == ""
