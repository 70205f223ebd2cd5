"""Each port's real implementation and its shipped fake, behind one fixture: both pass the same suite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from frys_node.base.ports import Clock, Disk, Entropy, Executor, Network
from frys_node.testing.clock import FakeClock
from frys_node.testing.disk import FakeDisk
from frys_node.testing.entropy import FakeEntropy
from frys_node.testing.executor import InlineExecutor
from frys_node.testing.network import FakeNetwork
from frys_node.transport.clock import SystemClock
from frys_node.transport.disk import DirectoryDisk
from frys_node.transport.entropy import SystemEntropy
from frys_node.transport.executor import ThreadExecutor
from frys_node.transport.network import SystemNetwork

BOTH = ["real", "fake"]


@pytest.fixture(params=BOTH)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    """A disk with nothing on it."""
    if request.param == "fake":
        yield FakeDisk()
        return
    real = DirectoryDisk(tmp_path / "data")
    yield real
    real.close()


@pytest.fixture(params=[*BOTH, "real-v6"])
def network(request: pytest.FixtureRequest) -> Network:
    """A network whose own address is `host`."""
    return FakeNetwork().host("127.0.0.1") if request.param == "fake" else SystemNetwork()


@pytest.fixture
def host(request: pytest.FixtureRequest) -> str:
    """The literal that `network` can bind."""
    return "::1" if "real-v6" in request.node.name else "127.0.0.1"


@pytest.fixture(params=BOTH)
def clock(request: pytest.FixtureRequest) -> Clock:
    """A clock."""
    return SystemClock() if request.param == "real" else FakeClock()


@pytest.fixture(params=BOTH)
def entropy(request: pytest.FixtureRequest) -> Entropy:
    """A source of randomness."""
    return SystemEntropy() if request.param == "real" else FakeEntropy(1)


@pytest.fixture(params=BOTH)
def executor(request: pytest.FixtureRequest) -> Executor:
    """An executor."""
    return ThreadExecutor() if request.param == "real" else InlineExecutor()
