"""The code about the code: sizes, docstrings, leftovers, dead modules, and where trio may appear."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from fnmatch import fnmatch

import pytest
from tidy_checkout import Checkout, Source

FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70

TRIO_FORBIDDEN = (
    "frys_node/base/*",
    "frys_node/wire/*",
    "frys_node/observe/*",
    "frys_node/config.py",
    "*/config.py",
    "*/messages.py",
    "*/errors.py",
)
"""Floor, formats, settings and errors never wait, whatever they claim. Marked modules are held by the purity tests."""

LEFTOVERS = re.compile(r"\b(?:TO[D]O|FIX[M]E|XX[X]|HA[C]K)\b")


def _functions(source: Source) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _public_without_docstring(source: Source) -> Iterator[str]:
    if ast.get_docstring(source.tree) is None:
        yield f"{source.path}: module"
    for node in source.tree.body:
        if (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            and not node.name.startswith("_")
            and ast.get_docstring(node) is None
        ):
            yield f"{source.path}:{node.lineno} {node.name}"


def _imports_trio(source: Source) -> bool:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import) and any(name.name.split(".")[0] == "trio" for name in node.names):
            return True
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "trio":
            return True
    return False


def test_no_file_is_longer_than_five_hundred_lines(checkout: Checkout) -> None:
    """A file that swells hides a concept that wants its own."""
    long = {source.path: source.text.count("\n") for source in checkout.sources}
    assert {path: lines for path, lines in long.items() if lines > FILE_LINES_MAX} == {}


def test_no_function_is_longer_than_seventy_lines(checkout: Checkout) -> None:
    """A function fits on a screen."""
    long = [
        f"{source.path}:{node.lineno} {node.name}: {(node.end_lineno or 0) - node.lineno + 1}"
        for source in checkout.sources
        for node in _functions(source)
        if (node.end_lineno or 0) - node.lineno + 1 > FUNCTION_LINES_MAX
    ]
    assert long == []


def test_every_module_and_public_name_has_a_docstring(checkout: Checkout) -> None:
    """What a caller can reach says what it is."""
    code = [source for source in checkout.sources if not source.path.startswith("tests/")]
    assert [place for source in code for place in _public_without_docstring(source)] == []


def test_every_test_says_what_it_proves(checkout: Checkout) -> None:
    """A test's docstring is the claim that fails with it."""
    silent = [
        f"{source.path}:{node.lineno} {node.name}"
        for source in checkout.sources
        if source.path.startswith("tests/")
        for node in _functions(source)
        if node.name.startswith("test_") and not (ast.get_docstring(node) or "").strip()
    ]
    assert silent == []


def test_nothing_is_left_for_later_in_the_tree(checkout: Checkout) -> None:
    """Work that is not done is an issue, not a comment."""
    marked = [
        f"{source.path}:{number}"
        for source in checkout.sources
        for number, line in enumerate(source.text.splitlines(), 1)
        if LEFTOVERS.search(line)
    ]
    assert marked == []


def test_no_mocks_and_no_empty_bodies(checkout: Checkout) -> None:
    """Fakes are shipped and obey their port; a body that does nothing is unfinished or needs a sentence."""
    unittest = re.compile(r"^\s*(?:from|import) unittest", re.MULTILINE)
    mocks = [source.path for source in checkout.sources if unittest.search(source.text)]
    empty = [
        f"{source.path}:{node.lineno} {node.name}"
        for source in checkout.installed
        for node in _functions(source)
        if all(isinstance(statement, ast.Pass) for statement in node.body)
    ]
    assert mocks + empty == []


def test_trio_is_imported_only_where_waiting_happens(checkout: Checkout) -> None:
    """Machines, codecs and configuration never wait."""
    waiting = [
        source.path
        for source in checkout.installed
        if _imports_trio(source) and any(fnmatch(source.path, pattern) for pattern in TRIO_FORBIDDEN)
    ]
    assert waiting == []


def test_no_module_is_dead(checkout: Checkout) -> None:
    """Each module is imported by another, named in a string that loads it, or an entry point."""
    if "frys_node/node.py" not in checkout.files:
        pytest.skip("no composition root yet: nothing can reach the components")
    strings = {
        node.value
        for source in checkout.installed
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    tests = "\n".join(source.text for source in checkout.sources if source.path.startswith(("tests/", "chaos/")))
    dead = []
    for source in checkout.installed:
        name = source.module
        is_entry = source.path.endswith(("__init__.py", "__main__.py")) or 'if __name__ == "__main__"' in source.text
        if is_entry or name == "frys_node.cli.main":
            continue
        loaded = name in strings or (name.rpartition(".")[0] + "." in strings and name.rpartition(".")[2] in strings)
        verb = name.startswith("frys_node.cli.") and name.rpartition(".")[2].rstrip("_") in strings
        shipped = name.startswith("frys_node.testing.") and name in tests
        known = name in checkout.graph.modules and checkout.graph.find_modules_that_directly_import(name)
        if not (known or loaded or verb or shipped):
            dead.append(source.path)
    assert dead == []
