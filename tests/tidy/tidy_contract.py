"""Keeps import-linter's sans-I/O contract in step with the markers: ``python tests/tidy/tidy_contract.py --write``.

The contract in pyproject.toml lies between two marker comments. Its source modules are the modules whose docstring
says ``Sans-I/O``; its forbidden modules are the outside world and every impure module of kernel, transport and
observe.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("frys_node", "membership", "balancer", "snapshots")
MARKER = "Sans-I/O"
BEGIN = "# --- sans-I/O contract: written by tests/tidy/tidy_contract.py --write ---\n"
END = "# --- end of the sans-I/O contract ---\n"

OUTSIDE = (
    "trio",
    "asyncio",
    "socket",
    "select",
    "selectors",
    "ssl",
    "OpenSSL",
    "time",
    "threading",
    "multiprocessing",
    "concurrent",
    "subprocess",
    "signal",
    "os",
    "pathlib",
    "tempfile",
    "shutil",
    "secrets",
    "logging",
    "prometheus_client",
)
"""Modules of other people through which a clock, a socket, a file, a thread or randomness comes in."""

IMPURE_PACKAGES = ("frys_node.kernel", "frys_node.transport", "frys_node.observe")
SERVICES = "frys_node.kernel.services"
UNHELD = "frys_node.testing."
"""Fakes stand on the real ports' helpers; that runs repeat is shown by the simulator's digests instead."""


def is_pure(text: str) -> bool:
    """True if the module docstring carries the marker."""
    return MARKER in (ast.get_docstring(ast.parse(text)) or "")


def modules(root: Path = ROOT) -> dict[str, bool]:
    """Return every module of the four packages with whether it is marked pure."""
    found: dict[str, bool] = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = is_pure(path.read_text(encoding="utf-8"))
    return found


def is_package(name: str, names: Iterable[str]) -> bool:
    """True if other modules live under the name."""
    return any(other.startswith(f"{name}.") for other in names)


def pure_modules(found: dict[str, bool]) -> list[str]:
    """Return the source modules of the contract, sorted."""
    return sorted(name for name, pure in found.items() if pure and not name.startswith(UNHELD))


def forbidden_modules(found: dict[str, bool]) -> list[str]:
    """Return what a pure module must not reach: the outside world and the impure modules of three packages."""
    inside = [
        name
        for name, pure in found.items()
        if not pure
        and name.startswith(tuple(f"{package}." for package in IMPURE_PACKAGES))
        and not f"{name}.".startswith(f"{SERVICES}.")
        and not is_package(name, found)
    ]
    return [*OUTSIDE, *sorted(inside)]


def render(found: dict[str, bool]) -> str:
    """Return the contract as it stands in pyproject.toml, markers included."""
    lines = [
        BEGIN.rstrip("\n"),
        "[[tool.importlinter.contracts]]",
        'name = "Sans-I/O modules reach no I/O, clock, thread or kernel"',
        'type = "forbidden"',
    ]
    for key, names in (("source_modules", pure_modules(found)), ("forbidden_modules", forbidden_modules(found))):
        lines += [f"{key} = [", *(f'  "{name}",' for name in names), "]"]
    return "\n".join([*lines, END])


def replace(text: str, contract: str) -> str:
    """Return pyproject's text with the contract put in place of the old one, or appended."""
    if BEGIN not in text:
        return text.rstrip("\n") + "\n\n" + contract
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return head + contract + tail


def main(arguments: list[str]) -> int:
    """Write the contract, or say whether it is current."""
    path = ROOT / "pyproject.toml"
    text = path.read_text(encoding="utf-8")
    wanted = replace(text, render(modules()))
    if wanted == text:
        return 0
    if arguments == ["--write"]:
        path.write_text(wanted, encoding="utf-8")
        return 0
    print("the sans-I/O contract is out of date: run `python tests/tidy/tidy_contract.py --write`", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
