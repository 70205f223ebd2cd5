"""Which code a scenario runs: what it has shown about one version of it holds until a file that it can load changes."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

PACKAGES = frozenset({"balancer", "frys_node", "membership", "snapshots"})


def code_digest(module: str) -> str:
    """Return 32 hexadecimal digits over every file of ours that importing and running a module can load.

    Imports inside functions count, imports for types alone do not. A module that is named only at run time (by
    `importlib`) is not found: a scenario must import what it runs.
    """
    digest = hashlib.sha256()
    for name, path in sorted(_reached(module).items()):
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:32]


def _reached(module: str) -> dict[str, Path]:
    """Return our modules that a module loads, itself among them, with their files."""
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found or name.partition(".")[0] not in PACKAGES:
            continue
        path = _file_of(name)
        if path is None:
            continue
        found[name] = path
        # A package's own module runs before any module in it.
        if "." in name:
            waiting.append(name.rpartition(".")[0])
        waiting += _imports_of(path)
    return found


@cache
def _file_of(name: str) -> Path | None:
    """Return the file of a module, or None for a name that is no module (a class of `from module import name`)."""
    try:
        spec = find_spec(name)
    except ModuleNotFoundError:  # Its parent is a module and no package.
        return None
    return Path(spec.origin) if spec is not None and spec.origin is not None else None


@cache
def _imports_of(path: Path) -> tuple[str, ...]:
    """Read a file once for all scenarios."""
    return tuple(_imports(ast.parse(path.read_bytes())))


def _imports(tree: ast.AST) -> Iterator[str]:
    """Name every module that a tree may import; names imported from a module are given too: they may be modules."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
        else:
            waiting += ast.iter_child_nodes(node)
