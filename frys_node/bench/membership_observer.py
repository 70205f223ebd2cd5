"""One reader of all nodes' output: who said what about whom, and when, on one clock.

Both sides are read the same way, through the pipe into which a process writes its log anyway, so watching costs a node
nothing that it would not spend without. A line's instant is when its bytes arrive here (CLOCK_MONOTONIC).
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

from frys_node.base.errors import FrysError

ALIVE, SUSPECT, DEAD, LEFT = "alive", "suspect", "dead", "left"
ACCUSED = "accused"
"""A suspicion that only its author writes and that nothing takes back in the log: serf's. It changes no view."""

STALLED = "stalled"
"""The member's kernel answers and its process does not; its status is another matter."""

STARTED = "started"
"""A node answers gossip from now on. Its port is bound long before, when many processes start on few cores."""

EVENT = "event"
"""A user event arrived; the subject is its name."""

TAIL_LINES = 30
READ_BYTES = 1 << 16
LINE_BYTES_MAX = 1 << 20


class Said(NamedTuple):
    """What a line says."""

    subject: str
    state: str
    bearer: str = ""
    """Which of several that have had the name; empty where names alone count."""
    is_held: bool = False
    """Known to its author and kept from its subscribers for now: the subject flaps."""


Parse = Callable[[bytes], Said | None]

_STARTED = b'"event": "membership.started"'
_OURS = re.compile(rb'"event": "membership\.(member_changed|change_held)"')
_CONDITION = b'"event": "membership.condition_changed"'
_MARK = re.compile(rb"\bmark-\d+\b")
_SERF = re.compile(rb"serf: EventMember(Join|Failed|Leave|Reap): (\S+) ")
_SERF_SUSPECT = re.compile(rb"memberlist: Suspect (\S+) has failed")
_SERF_STATES = {b"Join": ALIVE, b"Failed": DEAD, b"Leave": LEFT, b"Reap": LEFT}


class TookTooLong(FrysError):
    """What a round waits for did not happen in time. The round does not count; its cluster is thrown away."""

    code = "bench.took_too_long"


def parse_ours(line: bytes) -> Said | None:
    """Read a line of our log: a member's new status, that it is stalled, or the mark of a user event."""
    if found := _OURS.search(line):
        try:
            fields = msgspec.json.decode(line)
            is_held = found[1] == b"change_held"
            return Said(str(fields["peer"]), str(fields["status"]), str(fields["peer_id"]), is_held)
        except (msgspec.DecodeError, KeyError, TypeError):
            return None
    if _CONDITION in line:
        return _parse_condition(line)
    return Said("", STARTED) if _STARTED in line else parse_mark(line)


def _parse_condition(line: bytes) -> Said | None:
    try:
        fields = msgspec.json.decode(line)
        return Said(str(fields["peer"]), STALLED, str(fields["peer_id"])) if fields["condition"] == STALLED else None
    except (msgspec.DecodeError, KeyError, TypeError):
        return None


def parse_serf(line: bytes) -> Said | None:
    """Read a line of serf's log: the event of a member, a suspicion (only the prober writes it), or a mark."""
    if found := _SERF.search(line):
        return Said(found[2].decode(), _SERF_STATES[found[1]])
    if found := _SERF_SUSPECT.search(line):
        return Said(found[1].decode(), ACCUSED)
    return parse_mark(line)


def parse_mark(line: bytes) -> Said | None:
    """Find the name that a round gave its user event, in whatever form it is shown."""
    found = _MARK.search(line)
    return Said(found[0].decode(), EVENT) if found else None


class Saying(NamedTuple):
    """One thing that a node said."""

    at_s: float
    observer: str
    subject: str
    state: str
    bearer: str = ""
    """Which of several that have had the name."""
    is_held: bool = False
    """As in `Said`."""


class Record:
    """Everything said so far, and each observer's latest word on each subject."""

    def __init__(self) -> None:
        self.sayings: list[Saying] = []
        self.started: set[str] = set()
        """Who has said that it answers gossip, since it was started last."""
        self._views: dict[str, dict[str, str]] = {}
        self._bearers: dict[tuple[str, str], str] = {}

    def add(self, saying: Saying) -> None:
        """Take one in. What is said of an earlier bearer of a name, learnt late, is no word on the present one."""
        self.sayings.append(saying)
        if saying.state == STARTED:
            self.started.add(saying.observer)
        if saying.state in (EVENT, ACCUSED, STALLED, STARTED):
            return
        view, key = self._views.setdefault(saying.observer, {}), (saying.observer, saying.subject)
        if saying.state == ALIVE:
            self._bearers[key] = saying.bearer
        if view.get(saying.subject) in (None, DEAD, LEFT) or self._bearers.get(key) == saying.bearer:
            view[saying.subject] = saying.state

    def forget(self, observer: str) -> None:
        """An observer starts anew and knows nothing."""
        self._views[observer] = {}
        self.started.discard(observer)

    def view(self, observer: str) -> dict[str, str]:
        """Return an observer's latest words."""
        return self._views.get(observer, {})

    def since(self, at_s: float) -> list[Saying]:
        """Return what was said from an instant on, oldest first."""
        first = len(self.sayings)
        while first and self.sayings[first - 1].at_s >= at_s:
            first -= 1
        return self.sayings[first:]

    def firsts(self, subject: str, state: str, observers: Iterable[str], since_s: float) -> dict[str, float]:
        """Return when each observer first said this about the subject, for those that did."""
        wanted, found = set(observers), dict[str, float]()
        for saying in self.since(since_s):
            if saying.subject == subject and saying.state == state and saying.observer in wanted:
                found.setdefault(saying.observer, saying.at_s)
        return found

    def agree(self, observers: Iterable[str], subjects: Iterable[str], state: str = ALIVE) -> bool:
        """True if every observer's latest word on every other subject is this state."""
        names = list(subjects)
        return all(
            self.view(observer).get(subject) == state
            for observer in observers
            for subject in names
            if subject != observer
        )


class Observer:
    """Reads pipes and sockets in a thread of its own and wakes whoever waits for what they say."""

    def __init__(self) -> None:
        self.record = Record()
        self._changed = threading.Condition()
        self._selector = selectors.DefaultSelector()
        self._wake_reader, self._wake_writer = os.pipe()
        self._tails: dict[str, deque[bytes]] = {}
        self._pending: dict[int, bytes] = {}
        self._closing = False
        self._selector.register(self._wake_reader, selectors.EVENT_READ, None)
        self._thread = threading.Thread(target=self._run, name="observer", daemon=True)
        self._thread.start()

    def watch(self, observer: str, descriptor: int, parse: Parse, *, is_fresh: bool) -> None:
        """Read a descriptor from now on; it is closed here at its end. `is_fresh`: the observer has just started."""
        os.set_blocking(descriptor, False)
        with self._changed:
            if is_fresh:
                self.record.forget(observer)
            self._tails.setdefault(observer, deque(maxlen=TAIL_LINES))
            self._selector.register(descriptor, selectors.EVENT_READ, (observer, parse))
        os.write(self._wake_writer, b"x")

    def tail(self, observer: str) -> str:
        """Return the last lines that a node wrote."""
        with self._changed:
            return b"\n".join(self._tails.get(observer, ())).decode(errors="replace")

    def ask(self, question: Callable[[Record], bool]) -> bool:
        """Answer a question about the record as it is now."""
        with self._changed:
            return question(self.record)

    def wait(self, question: Callable[[Record], bool], timeout_s: float) -> bool:
        """Wait until the answer is yes; False if it still is not after `timeout_s`."""
        with self._changed:
            return self._changed.wait_for(lambda: question(self.record), timeout_s)

    def firsts(self, subject: str, state: str, observers: Iterable[str], since_s: float) -> dict[str, float]:
        """As `Record.firsts`."""
        with self._changed:
            return self.record.firsts(subject, state, observers, since_s)

    def since(self, at_s: float) -> list[Saying]:
        """As `Record.since`."""
        with self._changed:
            return self.record.since(at_s)

    def close(self) -> None:
        """Stop reading."""
        self._closing = True
        os.write(self._wake_writer, b"x")
        self._thread.join()

    def _run(self) -> None:
        # Under load the reader has to be there when the line comes; without the right to it, it waits like others.
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), -10)
        while not self._closing:
            for key, _ in self._selector.select():
                if key.data is None:
                    os.read(self._wake_reader, READ_BYTES)
                else:
                    self._read(key.fd, *key.data)

    def _read(self, descriptor: int, observer: str, parse: Parse) -> None:
        try:
            data = os.read(descriptor, READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        at_s = time.monotonic()
        if not data:
            self._selector.unregister(descriptor)
            self._pending.pop(descriptor, None)
            os.close(descriptor)
            return
        *lines, rest = (self._pending.get(descriptor, b"") + data).split(b"\n")
        self._pending[descriptor] = rest[-LINE_BYTES_MAX:]
        with self._changed:
            self._tails[observer].extend(lines)
            for line in lines:
                said = parse(line)
                if said is not None:
                    self.record.add(Saying(at_s, observer, *said))
            self._changed.notify_all()
