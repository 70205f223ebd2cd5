"""What the demonstration prints: progress on one line, results on their own, a report whose every line is a check."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from frys_node.base.errors import FrysError

T = TypeVar("T")

POLL_S = 0.05
BLOCKS = "▁▂▃▄▅▆▇█"
STRIP_TOP_MS = 40.0
"""A request this slow or slower fills its block."""


class DemoFailed(FrysError):
    """A step of the demonstration did not happen in time. The processes it started are stopped."""

    code = "demo.failed"


class Check(NamedTuple):
    """One line of the report."""

    name: str
    ok: bool
    text: str


class Console:
    """Writes to stderr, so that `--json` leaves stdout to the report."""

    def __init__(self) -> None:
        self.checks: list[Check] = []
        self._live = sys.stderr.isatty()
        self._width = shutil.get_terminal_size((100, 24)).columns - 1
        self._started = time.monotonic()
        self._lock = threading.Lock()
        self._shown: set[str] = set()
        self._last = ""
        self._progressed = 0
        self.lead: Callable[[], str] | None = None
        """What stands before each progress line on a terminal: the latency strip, while it runs."""

    def title(self, text: str) -> None:
        """Begin a chapter."""
        self._line(f"\n== {text}  ({time.monotonic() - self._started:.1f} s)")

    def say(self, text: str) -> None:
        """Print a line."""
        self._line(text)

    def progress(self, text: str, key: str = "") -> None:
        """Replace the current line; without a terminal, print one line for each key (the text but its numbers)."""
        with self._lock:
            self._last = text
            self._progressed += 1
            if self._live:
                self._draw()
                return
            shape = key or "".join(character for character in text if not character.isdigit())
            if shape not in self._shown:
                self._shown.add(shape)
                sys.stderr.write(text + "\n")
                sys.stderr.flush()

    def redraw(self) -> None:
        """Draw the last progress line again, on a terminal: what leads it has changed."""
        with self._lock:
            if self._live:
                self._draw()

    def _draw(self) -> None:
        text = f"  {self.lead()} {self._last.strip()}" if self.lead else self._last
        sys.stderr.write("\r\x1b[2K" + text[: self._width])
        sys.stderr.flush()

    def _line(self, text: str) -> None:
        with self._lock:
            self._last = ""
            sys.stderr.write(("\r\x1b[2K" if self._live else "") + text + "\n")
            sys.stderr.flush()

    def check(self, name: str, ok: bool, text: str) -> bool:
        """Record a line of the report and print it."""
        self.checks.append(Check(name, ok, text))
        self._line(f"  {'ok  ' if ok else 'FAIL'} {name}: {text}")
        return ok

    def wait(self, what: str, probe: Callable[[], T | None], timeout_s: float = 20.0) -> T:
        """Poll until the probe returns something true, showing what is waited for, or what the probe itself shows.

        Raises:
            DemoFailed: It did not happen within `timeout_s`.
        """
        start = time.monotonic()
        while True:
            before = self._progressed
            value = probe()
            if value:
                return value
            elapsed = time.monotonic() - start
            if elapsed > timeout_s:
                raise DemoFailed(f"waited {timeout_s:g} s for {what}")
            if self._progressed == before:
                self.progress(f"  ... {what} ({elapsed:.1f} s)")
            time.sleep(POLL_S)

    def report(self) -> bool:
        """Print the one-screen report; True if every check held."""
        held = sum(check.ok for check in self.checks)
        self._line(f"\n== Report: {held} of {len(self.checks)} checks, {time.monotonic() - self._started:.1f} s")
        width = max((len(check.name) for check in self.checks), default=0)
        for check in self.checks:
            self._line(f"  {'ok  ' if check.ok else 'FAIL'} {check.name:<{width}}  {check.text}")
        return held == len(self.checks)


def block_of(latency_ms: float | None) -> str:
    """Return the strip's character for one request: taller is slower, ``x`` failed."""
    if latency_ms is None:
        return "x"
    return BLOCKS[min(len(BLOCKS) - 1, int(latency_ms / STRIP_TOP_MS * len(BLOCKS)))]
