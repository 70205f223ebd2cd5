"""What the tidy tests read: the tracked files of the checkout, parsed once."""

from __future__ import annotations

import ast
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import grimp
from tidy_contract import MARKER, PACKAGES, ROOT, UNHELD

CODE_FOLDERS = (*PACKAGES, "tests", "chaos", "deploy", ".ci")


@dataclass(frozen=True)
class Source:
    """One Python file: its path inside the checkout, dotted name, text and syntax tree."""

    path: str
    text: str

    @property
    def module(self) -> str:
        """Dotted name as `import` knows it."""
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @cached_property
    def tree(self) -> ast.Module:
        """The parsed file."""
        return ast.parse(self.text, self.path)

    @property
    def is_pure(self) -> bool:
        """True if the module docstring claims to be sans-I/O."""
        return MARKER in (ast.get_docstring(self.tree) or "")


@dataclass(frozen=True)
class Checkout:
    """The files of the project."""

    root: Path
    files: tuple[str, ...]

    @classmethod
    def load(cls, root: Path = ROOT) -> Checkout:
        """List what git tracks and what it would track (new files that nobody ignores)."""
        command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout.split("\n")
        return cls(root, tuple(sorted({name for name in listed if name and (root / name).is_file()})))

    @cached_property
    def sources(self) -> tuple[Source, ...]:
        """Every Python file of the project."""
        return tuple(
            Source(name, (self.root / name).read_text(encoding="utf-8"))
            for name in self.files
            if name.endswith(".py") and name.split("/")[0] in CODE_FOLDERS
        )

    @property
    def installed(self) -> tuple[Source, ...]:
        """The files of the four import packages."""
        return tuple(source for source in self.sources if source.path.split("/")[0] in PACKAGES)

    @property
    def pure(self) -> tuple[Source, ...]:
        """The installed modules that carry the sans-I/O marker; the simulator's own parts are left to its digests."""
        marked = [source for source in self.installed if source.is_pure]
        return tuple(source for source in marked if not source.module.startswith(UNHELD))

    @cached_property
    def graph(self) -> grimp.ImportGraph:
        """Who imports whom, foreign packages included, nested imports too."""
        return grimp.build_graph(
            *PACKAGES, include_external_packages=True, exclude_type_checking_imports=True, cache_dir=None
        )

    def text(self, name: str) -> str:
        """Text of a tracked file."""
        return (self.root / name).read_text(encoding="utf-8")
