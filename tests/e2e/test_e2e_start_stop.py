"""Real processes on their way to being a node: stopped half-way, detached, restarted."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from frys_node.demo.cluster import free_port

pytestmark = pytest.mark.slow

LIMIT_S = 40.0
TOKEN = "frys0." + "a" * 32


def spawn(*arguments: str, cwd: Path, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
    """Start one command, its output in one pipe."""
    return subprocess.Popen(
        [sys.executable, "-m", "frys_node", *arguments],
        cwd=cwd,
        env=os.environ | {"HOME": str(cwd)},
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ports() -> tuple[str, ...]:
    """Options that keep a node on free loopback ports."""
    return ("--bind", f"127.0.0.1:{free_port()}", "--http", f"127.0.0.1:{free_port()}")


def run(*arguments: str, cwd: Path, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run one command to its end; returns its output, errors included."""
    process = spawn(*arguments, cwd=cwd, stdin=subprocess.PIPE)
    output, _ = process.communicate(given, timeout=LIMIT_S)
    return subprocess.CompletedProcess(arguments, process.returncode, output, "")


@contextmanager
def detached(*arguments: str, cwd: Path, given: str = "") -> Iterator[dict[str, Any]]:
    """Run a node in the background until the block ends; yields what it printed."""
    done = run(*arguments, "--detach", "--json", cwd=cwd, given=given)
    assert done.returncode == 0, done.stdout
    info = json.loads(done.stdout.splitlines()[-1])
    try:
        yield info
    finally:
        os.kill(info["pid"], signal.SIGTERM)
        deadline = time.monotonic() + LIMIT_S
        while Path(f"/proc/{info['pid']}/cmdline").exists() and Path(f"/proc/{info['pid']}/cmdline").read_bytes():
            assert time.monotonic() < deadline, "the node did not stop"
            time.sleep(0.05)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_join_that_waits_for_its_seed_can_be_given_up(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """A signal ends a join at once, without a traceback, and nothing of the node stays."""
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "token").chmod(0o600)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(LIMIT_S)
        seed = f"127.0.0.1:{silent.getsockname()[1]}"
        joining = spawn("join", "--seed", seed, "--token-file", "token", *ports(), cwd=tmp_path)
        connection, _ = silent.accept()
        with connection:
            joining.send_signal(number)
            output, _ = joining.communicate(timeout=LIMIT_S)
    assert (joining.returncode, output) == (code, "")
    assert [path.name for path in tmp_path.iterdir()] == ["token"]


def test_a_node_that_is_stopped_while_it_starts_stops_in_order(tmp_path: Path) -> None:
    """SIGTERM as soon as `/livez` answers is an orderly stop like any other, not a failure."""
    options = ports()
    node = spawn("start", "--name", "a", *options, cwd=tmp_path)
    http = ("127.0.0.1", int(options[-1].rpartition(":")[2]))
    deadline = time.monotonic() + LIMIT_S
    while True:
        try:
            socket.create_connection(http, timeout=1).close()
            break
        except OSError:
            assert time.monotonic() < deadline, "HTTP never answered"
    node.send_signal(signal.SIGTERM)
    output, _ = node.communicate(timeout=LIMIT_S)
    assert (node.returncode, "frys-node:" in output, "Traceback" in output) == (0, False, False), output


def test_a_node_that_joined_in_the_background_comes_back_where_it_was(tmp_path: Path) -> None:
    """`join --token-file - --detach` reads the token; the same line without it, or its addresses, is the same node."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    options = ports()
    with detached("start", "--name", "a", *ports(), cwd=tmp_path / "a") as first:
        token = (tmp_path / "a" / first["join_token_file"]).read_text()
        join = ("join", "--seed", first["address"], "--token-file", "-")
        with detached(*join, "--name", "b", *options, cwd=tmp_path / "b", given=token) as second:
            assert (second["name"], second["cluster"], second["waits_for"]) == ("b", "frys", [])
            assert (second["address"], second["http"]) == (options[1], options[3])
        with detached(*join, cwd=tmp_path / "b") as again:
            assert (again["id"], again["address"], again["http"]) == (second["id"], options[1], options[3])
            shown = run("config", "show", "--origin", cwd=tmp_path / "b").stdout
            assert any(options[1] in line and "an earlier start" in line for line in shown.splitlines()), shown
            rows = {line.split()[0]: line.split()[1:] for line in shown.splitlines()}
            assert rows["cluster.profile"] == ["local", "advertises", "loopback"]
            assert rows["plugins.membership.crash_suspicion_s"] == ["0.3", "advertises", "loopback"]
            assert again["join_remote"] == ""
            assert again["for_others"].startswith("--bind 0.0.0.0:")
            twice = run("query", "ping", "--node", "a", "--node", "nobody", cwd=tmp_path / "b")
            assert twice.returncode == 1
            assert "there is no member 'nobody'" in twice.stdout
        refused = run("leave", cwd=tmp_path / "a")
        assert refused.returncode == 1
        assert "a cannot leave: " in refused.stdout
        assert "[routing.issuer_needed]" in refused.stdout


def test_a_node_that_left_is_a_state_and_no_mistake_of_usage(tmp_path: Path) -> None:
    """Its commands say that it has left, and a start of its directory is refused with exit code 1."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with detached("start", "--name", "a", *ports(), cwd=tmp_path / "a") as first:
        token = (tmp_path / "a" / first["join_token_file"]).read_text()
        join = ("join", "--seed", first["address"], "--token-file", "-", "--name", "b", *ports(), "--detach")
        assert run(*join, cwd=tmp_path / "b", given=token).returncode == 0
        assert run("leave", cwd=tmp_path / "b").returncode == 0
        asked = run("members", cwd=tmp_path / "b")
        assert asked.returncode == 3
        assert "has left its cluster" in asked.stdout
        assert "frys-node start" not in asked.stdout
        again = run("start", cwd=tmp_path / "b")
        assert again.returncode == 1
        assert "has left cluster 'frys' for good" in again.stdout
        # Its admission is over by its own word to the issuer, which remembers it for as long as its certificate lives.
        issuer = tmp_path / "a" / first["data_dir"]
        (left,) = json.loads((issuer / "issuer" / "departures.json").read_text())
        assert (issuer / "identity" / "departed").read_text() == left
        revoked = run("node", "revoke", left, "--yes", cwd=tmp_path / "a")
        assert (revoked.returncode, f"is expelled ({left})" in revoked.stdout) == (0, True)
