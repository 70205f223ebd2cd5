"""Node processes on loopback, as a person would start them, and plain HTTP to each of them."""

from __future__ import annotations

import errno
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from frys_node.base.errors import NodeUnreachable
from frys_node.client.errors import error_of

HTTP_TIMEOUT_S = 15.0
STOP_TIMEOUT_S = 30.0


FIRST_PORT, END_PORT = 18_000, 32_000
"""Ports for node processes: below the range from which Linux serves outgoing connections and port 0 (32768 on)."""

_next_port = FIRST_PORT + os.getpid() * 8653 % (END_PORT - FIRST_PORT)  # processes begin far apart: the golden section


def free_port() -> int:
    """Return a TCP port of loopback that is free now, for UDP too, and none of the thousands given here before.

    One from the kernel (port 0) may come twice, since it is free until a node is started on it, and any connection
    may take it meanwhile.

    Raises:
        OSError: No port of the range is free.
    """
    global _next_port  # noqa: PLW0603 (of the process: no two clusters in it may meet)
    for _ in range(END_PORT - FIRST_PORT):
        port = _next_port
        _next_port = FIRST_PORT + (port + 1 - FIRST_PORT) % (END_PORT - FIRST_PORT)
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            try:
                tcp.bind(("127.0.0.1", port))
                udp.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(errno.EADDRINUSE, f"no port from {FIRST_PORT} to {END_PORT - 1} is free")


class NodeProcess:
    """One `frys-node` process with its own directory; ports are kept over restarts."""

    def __init__(
        self,
        name: str,
        home: Path,
        *,
        workflows: Path | None = None,
        advertise: str | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.home = home
        self.data_dir = home / "data"
        self.bind = f"127.0.0.1:{free_port()}"
        self.http_host = "127.0.0.1"
        self.http_port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.admin_token = ""
        """Sent with every request, for what only administrators may do over HTTP."""
        self._workflows = workflows
        self.advertise = advertise
        self._settings = dict(settings or {})
        home.mkdir(parents=True, exist_ok=True)

    def command(self, seeds: Sequence[str] = ()) -> list[str]:
        """Return the command line: `start`, or `join` with seeds."""
        line = [sys.executable, "-m", "frys_node", "join" if seeds else "start", "--name", self.name]
        line += ["--bind", self.bind, "--http", f"{self.http_host}:{self.http_port}", "--data-dir", str(self.data_dir)]
        for seed in seeds:
            line += ["--seed", seed]
        if (self.home / "frys.toml").exists():
            line += ["--config", str(self.home / "frys.toml")]
        if self._workflows is not None:
            line += ["--workflows", str(self._workflows)]
        return line

    def start(self, seeds: Sequence[str] = ()) -> float:
        """Start the process and return the instant (monotonic seconds). It is ready when `is_ready` says so."""
        environment = os.environ | {"PYTHONUNBUFFERED": "1"} | self._settings
        if self.advertise is not None:
            environment["FRYS_NETWORK_ADVERTISE"] = self.advertise
        started = time.monotonic()
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command(seeds), cwd=self.home, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        return started

    def command_line(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Run another command of the CLI beside the node; its output goes to the node's log file."""
        with (self.home / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "frys_node", *arguments], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    @property
    def is_running(self) -> bool:
        """True while the process has not ended."""
        return self.process is not None and self.process.poll() is None

    @property
    def is_ready(self) -> bool:
        """True once `/readyz` says 200."""
        try:
            return self.request("GET", "/readyz")[0] == 200
        except NodeUnreachable:
            return False

    def kill(self) -> float:
        """End the process with SIGKILL and return the instant it was sent."""
        assert self.process is not None
        instant = time.monotonic()
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        return instant

    def stop(self) -> int | None:
        """End the process with SIGTERM (SIGKILL when it does not go) and return its exit code."""
        if self.process is None:
            return None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        return self.process.returncode

    def request(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Send one HTTP request; returns status and the decoded body.

        Raises:
            NodeUnreachable: No answer.
        """
        connection = http.client.HTTPConnection(self.http_host, self.http_port, timeout=HTTP_TIMEOUT_S)
        is_raw = isinstance(body, bytes)
        payload = body if is_raw or body is None else json.dumps(body).encode()
        sent = {"Content-Type": "application/octet-stream" if is_raw else "application/json"} if payload else {}
        if self.admin_token:
            sent["Authorization"] = f"Bearer {self.admin_token}"
        try:
            connection.request(method, path, payload, sent)
            response = connection.getresponse()
            data = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise NodeUnreachable(f"node {self.name} does not answer: {error}") from error
        finally:
            connection.close()
        is_json = response.getheader("content-type", "").startswith("application/json")
        return response.status, json.loads(data) if is_json and data else data

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request and return the body; an error answer is raised as the error that it names."""
        status, value = self.request(method, path, body)
        if status >= 400:
            raise error_of(value, status)
        return value

    def statuses(self) -> dict[str, str]:
        """Return member name -> status as this node sees it, empty when it does not answer."""
        try:
            return {m["name"]: m["status"] for m in self.call("GET", "/v1/members")["members"]}
        except NodeUnreachable:
            return {}

    def log_tail(self, lines: int = 15) -> str:
        """Return the end of the process's output."""
        path = self.home / "log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""
