"""Debian's Redis programs, from PATH or where ``.ci/peers`` unpacked them, and how to run them."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from frys_node.base.errors import NotFound

PEERS = Path(__file__).resolve().parents[2] / ".cache" / "peers"
START_S = 10.0

_RATE = re.compile(r"([0-9.]+) requests per second")


def find_tool(name: str) -> Path | None:
    """Return the path of a program, None if it is neither installed nor unpacked."""
    found = shutil.which(name)
    if found is not None:
        return Path(found)
    unpacked = PEERS / "usr" / "bin" / name
    return unpacked if unpacked.exists() else None


def need_tool(name: str) -> Path:
    """Return the path of a program.

    Raises:
        NotFound: See `find_tool`.
    """
    found = find_tool(name)
    if found is None:
        raise NotFound(
            f"{name} is not on PATH and not in .cache/peers", hint="run `make peers`, or install redis-tools"
        )
    return found


def environment() -> dict[str, str]:
    """Return the environment in which an unpacked program finds its libraries."""
    folders = [str(folder) for folder in sorted((PEERS / "usr" / "lib").glob("*-linux-*"))]
    path = ":".join([*folders, os.environ.get("LD_LIBRARY_PATH", "")]).strip(":")
    return os.environ | ({"LD_LIBRARY_PATH": path} if folders else {})


def server_command() -> tuple[Path, str] | None:
    """Return the program of the server and the name to call it by: redis-tools has it under another one."""
    found = find_tool("redis-server")
    if found is not None:
        return found, "redis-server"
    other = find_tool("redis-check-rdb")
    return (other, "redis-server") if other is not None else None


@contextmanager
def redis_server(port: int, home: Path) -> Iterator[int]:
    """Run a server without persistence; gives its process id."""
    command = server_command()
    if command is None:
        raise NotFound("there is no redis-server", hint="run `make peers`, or install redis-tools")
    program, name = command
    arguments = [
        name,
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--appendonly",
        "no",
        "--dir",
        str(home),
    ]
    with (home / "redis.log").open("wb") as log:
        process = subprocess.Popen(
            arguments, executable=str(program), env=environment(), stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
    try:
        wait_for_port(port)
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def wait_for_port(port: int) -> None:
    """Wait until somebody listens.

    Raises:
        NotFound: Nobody does, for `START_S`.
    """
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s:
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise NotFound(f"nobody listens on port {port}")


def run_tool(name: str, arguments: Sequence[str], timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
    """Run one of the client programs to its end."""
    return subprocess.run(
        [str(need_tool(name)), *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def benchmark(port: int, test: str, *, pipeline: int, requests: int, keys: int = 0) -> float:
    """Run redis-benchmark and return its requests per second; with `keys` they are random among so many.

    Raises:
        NotFound: It printed none; the message has what it said.
    """
    arguments = ["-h", "127.0.0.1", "-p", str(port), "-t", test, "-P", str(pipeline), "-n", str(requests), "-q"]
    done = run_tool("redis-benchmark", arguments + (["-r", str(keys)] if keys else []))
    rates = _RATE.findall(done.stdout)
    if not rates:
        raise NotFound(f"redis-benchmark said: {(done.stdout + done.stderr).strip()[-500:]}")
    return float(rates[-1])
