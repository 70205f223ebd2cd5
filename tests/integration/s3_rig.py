"""The S3-speaking server of the tests, as a process of its own that ends with the test run."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

SERVER_END_S = 60.0
ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".cache" / "s3" / "bin" / "python"


class RunningStore(msgspec.Struct, frozen=True, kw_only=True):
    """What the server says of itself."""

    endpoint: str
    access_key: str
    secret_key: str
    bucket: str
    region: str


@contextmanager
def running_store() -> Iterator[RunningStore]:
    """Run ``.ci/s3_server.py``; its standard input closes with this process, and that ends it."""
    with subprocess.Popen(
        [str(PYTHON), str(ROOT / ".ci" / "s3_server.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield msgspec.convert(json.loads(process.stdout.readline()), RunningStore)
        finally:
            process.stdin.close()
            process.wait(SERVER_END_S)
