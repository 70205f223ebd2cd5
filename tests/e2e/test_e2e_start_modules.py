"""What a start imports: before HTTP answers, and until the node is ready. Counted, not timed (ADR 0012).

Each module is a millisecond or so, which nobody notices and fifty of which were once over the budget.
"""

from __future__ import annotations

import os
import re
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from frys_node.demo.cluster import free_port

pytestmark = pytest.mark.slow

LIMIT_S = 60.0
GOLDEN = Path(__file__).parents[1] / "golden" / "start-front.txt"
OURS = {"frys_node", "membership", "balancer", "snapshots"}

OURS_MAX = 404
"""Modules of ours until a plain node is ready. What the start does not need is imported when it is (ADR 0012)."""

LATE = (
    "difflib",
    "frys_node.bench",
    "frys_node.channel.bootstrap",
    "frys_node.plugins.cache.resp",
    "frys_node.secure.hpke",
    "frys_node.secure.sealed",
    "frys_node.testing",
    "hiredis",
    "numpy",
    "obstore",
    "prometheus_client",
    "snapshots.desk",
    "snapshots.s3",
    "usearch",
    "wasmtime",
)
"""Modules, with those below them, that a plain node does not have before somebody asks for what they do."""

_IMPORT = re.compile(r"import '([\w.]+)' #")


def _output(process: subprocess.Popen[str], until: str) -> Iterator[str]:
    """Yield lines until one has `until` in it."""
    assert process.stdout is not None
    deadline = time.monotonic() + LIMIT_S
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        for line in process.stdout:
            yield line
            if until in line:
                return
            assert time.monotonic() < deadline, "the node was not ready in time"
    raise AssertionError("the node ended before it was ready")


def _imports(lines: Iterator[str]) -> tuple[set[str], set[str]]:
    """Return what was imported until HTTP listened, and in all."""
    found: set[str] = set()
    front: set[str] = set()
    for line in lines:
        if "network.http_listening" in line:
            front = set(found)
        match = _IMPORT.match(line)
        if match is not None:
            found.add(match[1])
    return front, found


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> tuple[set[str], set[str]]:
    """What a restart of a plain node imports until HTTP listens, and until it is ready."""
    home = tmp_path_factory.mktemp("start")
    command = [sys.executable, "-m", "frys_node", "start", "--name", "n", "--data-dir", str(home / "data")]
    command += ["--bind", f"127.0.0.1:{free_port()}", "--http", f"127.0.0.1:{free_port()}"]
    lists: list[tuple[set[str], set[str]]] = []
    for verbose in ("", "1"):
        # A new directory needs what makes a cluster, which a restart does not.
        environment = os.environ | {"HOME": str(home), "PYTHONUNBUFFERED": "1", "PYTHONVERBOSE": verbose}
        process = subprocess.Popen(
            command, cwd=home, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        try:
            lists.append(_imports(_output(process, "is ready")))
        finally:
            process.terminate()
            process.communicate(timeout=LIMIT_S)
    return lists[-1]


def test_http_answers_before_anything_is_imported_that_it_does_not_need(imported: tuple[set[str], set[str]]) -> None:
    """A start to `/livez` is these modules and no others of ours, and no library of cryptography."""
    front, _ = imported
    golden = GOLDEN.read_text().split()
    found = sorted(name for name in front if name.partition(".")[0] in OURS)
    assert found == golden, "the front imports more or less: change tests/golden/start-front.txt only if it has to"
    assert not {"OpenSSL", "cryptography", "mmh3", "numpy", "statistics"} & {name.partition(".")[0] for name in front}


def test_a_plain_node_imports_no_more_than_it_needs(imported: tuple[set[str], set[str]]) -> None:
    """Modules that a start does not need are imported by whoever asks for what they do."""
    _, found = imported
    early = [name for name in sorted(found) if any(name == late or name.startswith(f"{late}.") for late in LATE)]
    assert early == []
    ours = [name for name in found if name.partition(".")[0] in OURS]
    assert len(ours) <= OURS_MAX, f"{len(ours)} modules: import late what a start does not need, or raise the number"
