"""Which code a run was of: the commit, and digests that tell what a commit's name cannot, changes that lie on top."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

from frys_node.testing.provenance import PACKAGES

ROOT = Path(__file__).resolve().parents[2]


def commit(root: Path = ROOT) -> str:
    """Return the commit of the checkout, with ``-dirty`` if files differ from it; empty where there is no checkout."""
    # An installed package may lie in somebody else's checkout.
    if _said("rev-parse", "--show-toplevel", root=root) != str(root):
        return ""
    return _said("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*", root=root)


def tree_digest(root: Path = ROOT) -> str:
    """Return 32 hexadecimal digits over every Python file of ours: whatever a node can load."""
    digest = hashlib.sha256()
    for package in sorted(PACKAGES):
        for path in sorted((root / package).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:32]


class Revision:
    """The code that a run began with, and whether that was still there at its end."""

    def __init__(self, root: Path = ROOT) -> None:
        self._root = root
        self._commit, self._code = commit(root), tree_digest(root)

    def told(self) -> dict[str, str]:
        """Return commit and digest for a report; both digests if files changed: processes may have started between."""
        now = tree_digest(self._root)
        return {"commit": self._commit, "code": self._code if now == self._code else f"{self._code}, then {now}"}


def _said(*arguments: str, root: Path) -> str:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], check=False, capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
