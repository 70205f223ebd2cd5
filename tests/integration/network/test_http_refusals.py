"""What the node and the command line refuse about events and streams, and how a stream that breaks off ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from http_fixtures import client, serving

from frys_node.cli import main as cli

NODE = """
import sys, trio
from pathlib import Path
sys.path.insert(0, "tests/integration/network")
from http_fixtures import serving

async def main():
    async with serving(Path(sys.argv[1])):
        print("up", flush=True)
        await trio.sleep_forever()

trio.run(main)
"""
ROOT = Path(__file__).resolve().parents[3]


async def test_unknown_types_of_events_are_refused(tmp_path: Path) -> None:
    """A mistyped type is a 400 that lists the known ones, not a stream of everything."""
    async with serving(tmp_path) as (_, http), client(http) as c:
        for types in ("foo", "member,foo"):
            answer = await c.get(f"/v1/events?types={types}")
            assert answer.status == 400
            assert "'foo'" in answer.json()["error"]["message"]
            assert "member" in answer.json()["error"]["hint"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("verb", [("monitor",), ("members", "--watch"), ("monitor", "--for", "30s")])
def test_a_stream_without_an_end_ends_with_an_error_when_its_node_does(
    tmp_path: Path, verb: tuple[str, ...], number: signal.Signals
) -> None:
    """`monitor` and `members --watch` say that the node stopped, and exit 3."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", NODE, str(tmp_path)]
    node = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT, env=environment, text=True
    )
    assert node.stdout is not None
    with node, node.stdout:
        assert node.stdout.readline() == "up\n"
        watching = subprocess.Popen(
            [sys.executable, "-m", "frys_node", *verb, "--data-dir", str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            text=True,
        )
        time.sleep(1.0)
        assert watching.poll() is None
        node.send_signal(number)
        _, errors = watching.communicate(timeout=30)
    assert watching.returncode == cli.UNREACHABLE
    assert "stopped" in errors
