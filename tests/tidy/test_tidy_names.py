"""Names that others rely on: error codes, metrics, decision records, verbs in the documents, no foreign hosts."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys

import pytest
from tidy_checkout import Checkout

from frys_node.base.errors import FrysError
from frys_node.kernel.services.rpc import Method

OPTIONAL = {"wasmtime", "psycopg"}
"""Packages of the extras: modules that need them cannot be imported on a plain install."""

METRIC = re.compile(
    r"^frys_(?:build|node|kernel|membership|balancer|snapshots|replication|network|cache|vector|workflow|channel"
    r"|secure|transport|storage)_[a-z][a-z0-9]*(?:_[a-z0-9]+)*$"
)
HISTOGRAM_UNITS = ("_seconds", "_bytes", "_ratio", "_entries", "_rows", "_phi")

REGISTRY_HOSTS = tuple(
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("npmjs", "org"),
        ("npmjs", "com"),
        ("deb", "debian"),
        ("docker", "io"),
        ("ghcr", "io"),
        ("quay", "io"),
    )
)
HOME = re.compile(r"(?<![\w.<{])/(?:hom[e]|User[s])/[a-z]|(?<![\w.])/roo[t]/")
VERB = re.compile(r"frys-node (?!-)([a-z][a-z-]*)")


def _subclasses(cls: type[FrysError]) -> list[type[FrysError]]:
    found = []
    for child in cls.__subclasses__():
        found += [child, *_subclasses(child)]
    return sorted(set(found), key=lambda item: (item.__module__, item.__qualname__))


def _import_all(checkout: Checkout) -> None:
    for source in checkout.installed:
        if source.path.endswith("__main__.py"):
            continue
        try:
            importlib.import_module(source.module)
        except ModuleNotFoundError as error:
            if error.name not in OPTIONAL:
                raise


def test_error_codes_are_unique_and_every_error_has_its_own(checkout: Checkout) -> None:
    """The code is the reply on the wire, the log key and the metric label: two errors cannot share one."""
    _import_all(checkout)
    errors = [cls for cls in _subclasses(FrysError) if cls.__module__.split(".")[0] != "tests"]
    installed = [cls for cls in errors if cls.__module__ in {source.module for source in checkout.installed}]
    without = [f"{cls.__module__}.{cls.__qualname__}" for cls in installed if "code" not in cls.__dict__]
    codes: dict[str, list[str]] = {}
    for cls in [FrysError, *installed]:
        codes.setdefault(cls.code, []).append(f"{cls.__module__}.{cls.__qualname__}")
    assert without == []
    assert {code: names for code, names in codes.items() if len(names) > 1} == {}
    assert [code for code in codes if not re.fullmatch(r"[a-z_]+\.[a-z0-9_]+", code)] == []


def test_the_messages_of_every_call_can_travel(checkout: Checkout) -> None:
    """Codecs are built at a call's first use: a type that msgspec refuses is found here, and not then."""
    _import_all(checkout)
    modules = [sys.modules[source.module] for source in checkout.installed if source.module in sys.modules]
    calls = {value.name: value for module in modules for value in vars(module).values() if isinstance(value, Method)}
    assert len(calls) >= 50
    assert all(call.request and call.reply for call in calls.values())


def test_metric_names_are_well_formed(checkout: Checkout) -> None:
    """`frys_<package>_<noun>[_<unit>][_total]`: counters end in _total, nothing else does, histograms have units."""
    wrong = []
    for source in checkout.installed:
        for node in ast.walk(source.tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
                continue
            kind, first = node.func.attr, node.args[0]
            if kind not in {"counter", "gauge", "histogram"} or not isinstance(first, ast.Constant):
                continue
            name = first.value
            if not (isinstance(name, str) and METRIC.fullmatch(name)):
                wrong.append(f"{source.path}:{node.lineno} {name!r}: not frys_<package>_<noun>")
            elif (kind == "counter") != name.endswith("_total"):
                wrong.append(f"{source.path}:{node.lineno} {name}: only counters end in _total, and all of them")
            elif kind == "histogram" and not name.endswith(HISTOGRAM_UNITS):
                wrong.append(f"{source.path}:{node.lineno} {name}: a histogram's name ends in its unit")
    assert wrong == []


def test_every_decision_record_is_numbered_and_linked(checkout: Checkout) -> None:
    """ADRs count up from 1 without gaps, and the index links each of them."""
    records = sorted(name for name in checkout.files if re.fullmatch(r"docs/adr/\d{4}-[a-z0-9-]+\.md", name))
    numbers = [int(name.split("/")[-1][:4]) for name in records]
    assert numbers == list(range(1, len(numbers) + 1))
    index = checkout.text("docs/adr/README.md")
    assert [name for name in records if f"]({name.split('/')[-1]})" not in index] == []
    headings = ("## Context", "## Options", "## Decision", "## Consequences")
    assert [(n, h) for n in records for h in headings if f"\n{h}\n" not in checkout.text(n)] == []


def test_no_blank_line_cuts_a_table_in_two(checkout: Checkout) -> None:
    """Rows below one are shown as text, unless a head of their own follows."""
    cut = re.compile(r"^\|.*\|\n\n(\|.*\|)\n(?!\|[-:| ]+\|$)", re.MULTILINE)
    found = [
        f"{name}: {row.group(1)[:60]}"
        for name in checkout.files
        if name.endswith(".md")
        for row in cut.finditer(checkout.text(name))
    ]
    assert found == []


def test_links_between_documents_lead_somewhere(checkout: Checkout) -> None:
    """A relative link in a document names a file of the checkout."""
    broken: list[str] = []
    for name in (file for file in checkout.files if file.endswith(".md")):
        targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", checkout.text(name))
        folder = (checkout.root / name).parent
        broken += [f"{name}: {t}" for t in targets if "://" not in t and not (folder / t).exists()]
    assert broken == []


def test_no_registry_hosts_and_no_home_directories_in_the_tree(checkout: Checkout) -> None:
    """The project builds anywhere: it names packages, not the machines that serve them, and no one's home."""
    found = []
    for name in checkout.files:
        try:
            text = checkout.text(name)
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if any(host in line for host in REGISTRY_HOSTS) or HOME.search(line):
                found.append(f"{name}:{number}")
    assert found == []


def test_the_documents_name_only_verbs_that_exist(checkout: Checkout) -> None:
    """Every `frys-node <verb>` in a code span or block of README and docs is a verb of the command."""
    if "frys_node/cli/main.py" not in checkout.files:
        pytest.skip("no command yet")
    verbs: dict[str, str] = {}
    for name in (f for f in checkout.files if f.endswith(".md") and not f.startswith("docs/adr/")):
        text = checkout.text(name)
        for code in [*re.findall(r"```.*?```", text, re.DOTALL), *re.findall(r"`[^`\n]+`", text)]:
            verbs.update((verb, name) for verb in VERB.findall(code))
    missing = []
    for verb, name in sorted(verbs.items()):
        command = [sys.executable, "-m", "frys_node", verb, "--help"]
        run = subprocess.run(command, check=False, capture_output=True, text=True, cwd=checkout.root, timeout=30)
        if run.returncode != 0:
            missing.append(f"{name}: frys-node {verb}: {run.stderr.strip()[-200:]}")
    assert missing == []
