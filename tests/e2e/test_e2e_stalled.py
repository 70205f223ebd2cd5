"""Real processes: one that stands still is told from one that is gone, and both from one that is killed."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from frys_node.demo.cluster import NodeProcess

pytestmark = pytest.mark.slow

STOP_S = 3.0
HANG_S = 20.0
HANGING_PLUGIN = Path(__file__).with_name("hanging_plugin.py")
LIMIT_S = 40.0


def wait(what: str, probe: Callable[[], bool], limit_s: float = LIMIT_S) -> None:
    """Poll until the probe is true; fail naming what was waited for."""
    deadline_s = time.monotonic() + limit_s
    while not probe():
        assert time.monotonic() < deadline_s, f"waited {limit_s:g} s for {what}"
        time.sleep(0.05)


def seen(observer: NodeProcess, name: str) -> tuple[str, str]:
    """Status and condition of a node, as another one sees it."""
    members = observer.call("GET", "/v1/members")["members"]
    return next((m["status"], m["condition"]) for m in members if m["name"] == name)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[NodeProcess]]:
    """Three nodes that see each other."""
    made = [NodeProcess(name, tmp_path / name) for name in ("alpha", "beta", "gamma")]
    shutil.copy(HANGING_PLUGIN, made[-1].home)
    (made[-1].home / "frys.toml").write_text('[plugins.hanging]\nmodule = "hanging_plugin"\n')
    try:
        first = made[0]
        first.start()
        wait("alpha ready", lambda: first.is_ready)
        for node in made[1:]:
            node.start([first.bind])
        wait("three alive", lambda: all(list(node.statuses().values()) == ["alive"] * 3 for node in made))
        time.sleep(3.0)  # until the watchers have lifelines and know the usual interval
        yield made
    finally:
        for node in made:
            if node.process is not None and node.is_running:
                node.process.send_signal(signal.SIGCONT)
            node.stop()


def test_a_stopped_process_is_stalled_and_never_dead(nodes: list[NodeProcess]) -> None:
    """SIGSTOP for 3 s: its kernel answers for it. When it goes on nobody calls it dead, and it is well again."""
    *others, still = nodes
    assert still.process is not None
    found: set[tuple[str, str]] = set()
    still.process.send_signal(signal.SIGSTOP)
    until_s = time.monotonic() + STOP_S
    while time.monotonic() < until_s:
        found |= {seen(other, "gamma") for other in others}
        time.sleep(0.05)
    still.process.send_signal(signal.SIGCONT)
    wait("gamma well", lambda: all(seen(other, "gamma") == ("alive", "ok") for other in others))
    found |= {seen(other, "gamma") for other in others}
    assert "stalled" in {condition for _, condition in found}
    assert "dead" not in {status for status, _ in found}
    for other in others:
        story = other.call("GET", "/v1/members/gamma/why")["story"]
        assert "dead" not in {turn["what"] for turn in story}


def test_a_stalled_process_that_is_killed_is_dead_at_once(nodes: list[NodeProcess]) -> None:
    """SIGSTOP, then SIGKILL: what its kernel said before is no objection to what it says now."""
    *others, still = nodes
    assert still.process is not None
    still.process.send_signal(signal.SIGSTOP)
    wait("gamma stalled", lambda: all(seen(other, "gamma")[1] == "stalled" for other in others))
    still.kill()
    wait("gamma dead", lambda: all(seen(other, "gamma")[0] == "dead" for other in others), 2.5)


def test_a_process_whose_event_loop_hangs_is_stalled_and_never_dead(nodes: list[NodeProcess]) -> None:
    """Its kernel answers for 20 s while nothing in it runs; when it goes on it is well and accuses nobody."""
    *others, still = nodes
    (still.home / "hang").touch()
    until_s = time.monotonic() + HANG_S
    try:
        wait("gamma stalled", lambda: all(seen(other, "gamma")[1] == "stalled" for other in others), HANG_S)
        while time.monotonic() < until_s:
            assert "dead" not in {seen(other, "gamma")[0] for other in others}
            time.sleep(0.5)
    finally:
        (still.home / "go-on").touch()
    wait("gamma well", lambda: all(seen(other, "gamma") == ("alive", "ok") for other in others))
    wait("the others well at gamma", lambda: list(still.statuses().values()) == ["alive"] * 3)
    for node, name in [(other, "gamma") for other in others] + [(still, other.name) for other in others]:
        story = node.call("GET", f"/v1/members/{name}/why")["story"]
        assert "dead" not in {turn["what"] for turn in story}
