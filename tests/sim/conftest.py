"""Adds up what the batches of seeds cost: the CPU seconds of this process in tests that are marked `seeds`."""

from __future__ import annotations

import time
from collections.abc import Generator

import pytest

CPU_S = pytest.StashKey[float]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Measure a test that runs seeds. CPU time, since a machine that is shared says nothing of the work."""
    start_s = time.process_time()
    try:
        return (yield)
    finally:
        if item.get_closest_marker("seeds") is not None:
            item.config.stash[CPU_S] = item.config.stash.get(CPU_S, 0.0) + time.process_time() - start_s


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say it in the words that the gate reads."""
    if CPU_S in config.stash:
        terminalreporter.write_line(f"seeds took {config.stash[CPU_S]:.1f} CPU-s")
