"""The sans-I/O rule: marked modules reach no I/O, clock, thread, randomness or kernel, not even indirectly."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import tidy_contract
from tidy_checkout import Checkout, Source

HERE = Path(__file__).resolve().parent
RANDOM_TYPES = {"Random"}


def _raw_random(source: Source) -> Iterator[str]:
    nodes = list(ast.walk(source.tree))
    if not any(isinstance(node, ast.Import | ast.ImportFrom) for node in nodes):
        return
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module == "random":
            yield from (f"{source.path}:{node.lineno}" for name in node.names if name.name not in RANDOM_TYPES)
        if not (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "random"):
            continue
        if node.attr not in RANDOM_TYPES and _imports_random(nodes):
            yield f"{source.path}:{node.lineno}"


def _imports_random(nodes: list[ast.AST]) -> bool:
    return any(isinstance(node, ast.Import) and node.names[0].name == "random" for node in nodes)


def _lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache", "--no-logo"]
    return subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True, timeout=120)


def test_every_starred_file_that_exists_carries_the_marker(checkout: Checkout) -> None:
    """The files that the design stars say themselves that they are sans-I/O."""
    lines = (HERE / "starred.txt").read_text(encoding="utf-8").splitlines()
    starred = {line for line in lines if line and not line.startswith("#")}
    unmarked = [source.path for source in checkout.installed if source.path in starred and not source.is_pure]
    assert unmarked == []


def test_marked_modules_reach_nothing_of_the_outside_world(checkout: Checkout) -> None:
    """No chain of imports leads from a sans-I/O module to a clock, socket, thread, file or the kernel."""
    forbidden = set(tidy_contract.forbidden_modules(tidy_contract.modules(checkout.root)))
    chains = [
        " -> ".join(checkout.graph.find_shortest_chain(source.module, name) or ())
        for source in checkout.pure
        if source.module in checkout.graph.modules
        for name in sorted(forbidden & checkout.graph.find_upstream_modules(source.module))
    ]
    assert chains == []


def test_marked_modules_use_no_randomness_but_what_they_are_given(checkout: Checkout) -> None:
    """`random` is there for the type `random.Random` only: the module's functions share hidden state."""
    assert [place for source in checkout.pure for place in _raw_random(source)] == []


def test_the_import_contract_lists_exactly_the_marked_modules(checkout: Checkout) -> None:
    """A new pure file cannot be forgotten: `python tests/tidy/tidy_contract.py --write` brings the list up to date."""
    text = checkout.text("pyproject.toml")
    assert tidy_contract.replace(text, tidy_contract.render(tidy_contract.modules(checkout.root))) == text


def test_lint_imports_passes_and_fails_when_a_pure_file_imports_trio(checkout: Checkout, tmp_path: Path) -> None:
    """The contract has teeth: the same tree with one planted import is refused, and the refusal names the file."""
    for package in tidy_contract.PACKAGES:
        shutil.copytree(checkout.root / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    pyproject = tidy_contract.replace(
        checkout.text("pyproject.toml"), tidy_contract.render(tidy_contract.modules(tmp_path))
    )
    (tmp_path / "pyproject.toml").write_text(pyproject, encoding="utf-8")
    clean = _lint_imports(tmp_path)
    assert clean.returncode == 0, clean.stdout + clean.stderr
    victim = tmp_path / "balancer" / "ring.py"
    planted = victim.read_text(encoding="utf-8").replace(
        "from __future__ import annotations\n", "from __future__ import annotations\n\nimport trio\n", 1
    )
    victim.write_text(planted, encoding="utf-8")
    broken = _lint_imports(tmp_path)
    assert broken.returncode != 0
    assert "balancer.ring -> trio" in broken.stdout


FORKS = ("os.fork(", "os.forkpty(", "pty.fork(", "set_inheritable(True", '"fork"', '"forkserver"', "preexec_fn")


def test_no_process_of_a_node_is_ever_forked(checkout: Checkout) -> None:
    """A child that inherits a node's sockets keeps them open when the node dies, and so hides the crash from all."""
    found = [f"{source.path}: {text}" for source in checkout.installed for text in FORKS if text in source.text]
    assert found == []
