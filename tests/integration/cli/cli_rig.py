"""The command line as a process of its own, against a real listener in front of a plugin's routes."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import trio

from frys_node.kernel.kernel import Kernel
from frys_node.kernel.services.http import HttpRequest, HttpResponse
from frys_node.testing.services import FakeHttp
from tests.integration.network.http_fixtures import serving

BODY_BYTES_MAX = 64 << 20
"""Of any route; the route table behind has its own limits."""


class Done(NamedTuple):
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Return what it printed, decoded."""
        return json.loads(self.out)


async def run_bare(*arguments: str, stdin: bytes = b"") -> Done:
    """Run a command that needs no node, or says itself which."""
    done = await trio.run_process(
        [sys.executable, "-m", "frys_node", *arguments],
        stdin=stdin,
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


class CommandLine:
    """Runs `frys-node` for the node of one data directory."""

    def __init__(self, data_dir: Path, kernel: Kernel) -> None:
        self._data_dir = data_dir
        self.kernel = kernel

    async def run(self, *arguments: str, stdin: bytes = b"") -> Done:
        """Run one command to its end."""
        return await run_bare(*arguments, "--data-dir", str(self._data_dir), stdin=stdin)


@asynccontextmanager
async def command_line(data_dir: Path, routes: FakeHttp, *prefixes: str) -> AsyncIterator[CommandLine]:
    """Serve routes on an admin socket, and nothing else but what every node serves."""

    async def forward(request: HttpRequest) -> HttpResponse:
        query = f"?{urlencode(request.query)}" if request.query else ""
        return await routes.request(request.method, request.path + query, request.body, request.headers)

    async with serving(data_dir) as (kernel, http):
        for prefix in prefixes:
            for method in ("GET", "PUT", "POST", "DELETE"):
                http.route(method, prefix, forward, scope="admin")
                http.route(method, prefix + "/{rest...}", forward, scope="admin", body_bytes_max=BODY_BYTES_MAX)
        yield CommandLine(data_dir, kernel)
