"""The code about the code: sizes, docstrings, leftovers, dead modules, and where trio may appear."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from fnmatch import fnmatch

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
            # An overload's words are on the function that follows it.
            and not any(isinstance(mark, ast.Name) and mark.id == "overload" for mark in node.decorator_list)
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


SHIPPED_FOR_TESTS = ("frys_node.testing.", "frys_node.storage.memory")
"""What tests of other people's plugins use: alive if a test here names it."""

ROOMS_LEFT_READY = {
    "frys_node.secure.kem": "seals snapshots that leave the cluster; until then its two providers check each other",
}
"""Modules that nothing loads yet, each with what it waits for."""


def _patterns(checkout: Checkout) -> list[re.Pattern[str]]:
    """Return the dotted names that f-strings can build, such as ``frys_node.cli.{verb}``, as patterns."""
    found = []
    for source in checkout.installed:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.JoinedStr):
                parts = [
                    re.escape(str(part.value)) if isinstance(part, ast.Constant) else r"(\w+)" for part in node.values
                ]
                found.append(re.compile("".join(parts)))
    return [pattern for pattern in found if pattern.pattern.startswith("frys_node")]


def test_no_module_is_dead(checkout: Checkout) -> None:
    """Each module is imported by another, loaded by its name, or an entry point."""
    strings = {
        node.value
        for source in checkout.installed
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    patterns = _patterns(checkout)
    tests = "\n".join(source.text for source in checkout.sources if source.path.startswith(("tests/", "chaos/")))

    def is_alive(source: Source) -> bool:
        name = source.module
        if source.path.endswith(("__init__.py", "__main__.py")) or 'if __name__ == "__main__"' in source.text:
            return True
        if name in checkout.graph.modules and checkout.graph.find_modules_that_directly_import(name):
            return True
        if name in strings or f"{name.rpartition('.')[2]}.py" in strings or name in ROOMS_LEFT_READY:
            return True
        if name.startswith(SHIPPED_FOR_TESTS) and name in tests:
            return True
        matches = [match for pattern in patterns if (match := pattern.fullmatch(name))]
        return any(match.groups() and set(match.groups()) <= strings for match in matches)

    assert [source.path for source in checkout.installed if not is_alive(source)] == []
