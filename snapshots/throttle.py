"""Holds moves to a rate: the settings' bounds, the governor's verdict, and what sources ask of their receivers.

A source that suffers cannot make anybody wait without a chunk timing out. It answers at once and says how long to leave
it alone; the receiver keeps to that for all its moves from there.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

import trio

from frys_node.base.ports import Clock
from frys_node.base.types import NodeId
from frys_node.observe.metrics import SECONDS, Histogram, Metrics
from snapshots.config import SnapshotsConfig
from snapshots.governor import TICK_S, Governor
from snapshots.messages import Wish
from snapshots.pace import BURST_S, Pace

REQUESTS = ("frys_network_request_duration_seconds", "frys_cache_resp_pipeline_seconds")
"""Histograms of what clients wait for."""

UNIT_BYTES = 16 << 10
"""What capturing, announcing and installing a unit counts for, beside its bytes."""

WAIT_MAX_S = 10.0
"""Longest wait that a source is believed to mean."""

RATE_MIN_BYTES_S = 16_384.0
"""Lowest rate that a source is believed to mean."""

NODES_MAX = 4_096
"""Sources whose wishes are remembered, and receivers that are told apart."""

ASKED_LOOKS = 4
ASKED_MIN = 20
"""Questions of other nodes within so many looks from which on this node serves their clients: ten a second."""

RECENT_S = 2.0
"""A receiver that asked within this has a part of the rate."""

WAIT_SHOWN_S = 0.5
"""A pace that is taken for longer is the reason why a move is slow."""


class Throttle:
    """The paces of one node's moves, in and out."""

    def __init__(self, clock: Clock, metrics: Metrics, config: SnapshotsConfig, is_active: Callable[[], bool]) -> None:
        self.governor = Governor(SECONDS)
        self._clock = clock
        self._metrics = metrics
        self._is_active = is_active
        self._in, self._out, self._sealed_in = Pace(0.0), Pace(0.0), Pace(0.0)
        self._in_beside = Pace(0.0)
        """Of what comes beside snapshots: those claim room for many chunks ahead, and it would find none."""
        self._took_at_s = -math.inf
        self._moved_bytes = 0
        self._passed_bytes = 0
        self._asked_count = 0
        self._asked: deque[int] = deque(maxlen=ASKED_LOOKS)
        self._sources: dict[NodeId, Pace] = {}
        self._receivers: dict[NodeId, float] = {}
        self._rates = metrics.gauge(
            "frys_snapshots_rate_bound_bytes",
            "Bytes a second that moves are held to; 0: no bound.",
            ("direction",),
        )
        self.configure(config)
        metrics.gauge(
            "frys_snapshots_paused", "1 while moves stand still for the sake of requests, else 0.", source=self._paused
        )
        metrics.gauge(
            "frys_snapshots_calm_p99_seconds",
            "p99 of requests from before the moves under way.",
            source=lambda: self.governor.calm_p99_s or 0.0,
        )
        metrics.gauge(
            "frys_snapshots_window_p99_seconds",
            "p99 of requests in the last window.",
            source=lambda: self.governor.p99_s or 0.0,
        )

    def _paused(self) -> float:
        return float(self.governor.is_paused(self._clock.now_s()))

    def configure(self, config: SnapshotsConfig) -> None:
        """Apply the settings."""
        self._config = config
        self._sealed_in.rate_bytes_s = float(config.rate_bytes_s_max)
        bounds = [config.rate_bytes_s_max, config.send_rate_bytes_s_max]
        self.governor.configure(
            ceiling_bytes_s=float(max(bounds)) if all(bounds) else 0.0, ratio_max=config.p99_ratio_max
        )
        self._apply()

    async def run(self) -> None:
        """Look at the requests again and again, until cancelled."""
        while True:
            await trio.sleep(TICK_S)
            self.tick()

    def tick(self) -> None:
        """Look at the requests once."""
        passed, self._passed_bytes = self._passed_bytes, 0
        self._asked.append(self._asked_count)
        self._asked_count = 0
        self.governor.tick(
            self._counts(),
            self._clock.now_s(),
            moved_bytes=self._moved_bytes,
            is_active=self._is_active() or passed > 0,
            is_asked=sum(self._asked) >= ASKED_MIN,
        )
        self._apply()
        since_s = self._clock.now_s() - RECENT_S
        self._receivers = {node: at_s for node, at_s in self._receivers.items() if at_s > since_s}
        if not self.governor.is_moving:
            self._sources.clear()

    def _counts(self) -> list[int]:
        found = [m for m in self._metrics if m.name in REQUESTS and isinstance(m, Histogram) and m.bounds == SECONDS]
        return [sum(each) for each in zip(*(m.counts for m in found), strict=True)] or [0] * (len(SECONDS) + 1)

    def _apply(self) -> None:
        """Hold both directions to the governor's rate and to their own bounds."""
        config, governor = self._config, self.governor
        rate = governor.rate_bytes_s if config.p99_ratio_max > 0 else math.inf
        in_bytes_s = _bounded(rate, config.rate_bytes_s_max)
        now_s = self._clock.now_s()
        # What came in one go may have to be paid for long after it came.
        has_beside = self._took_at_s > now_s - RECENT_S or self._in_beside.busy_s(now_s) > 0
        is_shared = self._is_active() and has_beside
        self._in.rate_bytes_s = self._in_beside.rate_bytes_s = in_bytes_s / 2 if is_shared else in_bytes_s
        self._out.rate_bytes_s = _bounded(rate, config.send_rate_bytes_s_max)
        if governor.is_paused(self._clock.now_s()):
            self._in.hold(governor.paused_until_s)
            self._in_beside.hold(governor.paused_until_s)
            self._out.hold(governor.paused_until_s)
        self._rates.set(in_bytes_s, "received")
        self._rates.set(self._out.rate_bytes_s, "sent")

    def ask_at(self, source: NodeId, size_bytes: int, *, is_sealed: bool = False) -> float:
        """Claim room for bytes from a source; returns the instant at which they may be asked for.

        A sealed unit is served by nobody until it has moved: only the bound of the settings holds it back.
        """
        self._moved_bytes += size_bytes
        now_s = self._clock.now_s()
        if is_sealed:
            return self._sealed_in.reserve(size_bytes, now_s)
        at_s = self._in.reserve(size_bytes, now_s)
        wish = self._sources.get(source)
        return at_s if wish is None else max(at_s, wish.reserve(size_bytes, now_s))

    def told(self, source: NodeId, wish: Wish) -> None:
        """Take note of how a source wants to be left alone."""
        pace = self._sources.get(source)
        if pace is None:
            if wish == Wish() or len(self._sources) >= NODES_MAX:
                return
            pace = self._sources[source] = Pace(0.0)
        pace.rate_bytes_s = max(RATE_MIN_BYTES_S, wish.rate_bytes_s) if wish.rate_bytes_s > 0 else 0.0
        if wish.wait_s > 0:
            pace.hold(self._clock.now_s() + min(wish.wait_s, WAIT_MAX_S))

    def give(self, receiver: NodeId, size_bytes: int, *, is_sealed: bool = False) -> Wish:
        """Count bytes given to another node; returns how it should leave this one alone, and a sealed unit never."""
        self._moved_bytes += size_bytes
        self._passed_bytes += size_bytes
        if is_sealed:
            return Wish()
        now_s = self._clock.now_s()
        if receiver in self._receivers or len(self._receivers) < NODES_MAX:
            self._receivers[receiver] = now_s
        self._out.reserve(size_bytes, now_s)
        rate = self._out.rate_bytes_s / max(1, len(self._receivers))
        return Wish(rate, max(0.0, self.governor.paused_until_s - now_s))

    def may_give(self) -> bool:
        """Return whether what was given before is paid for."""
        return self._out.busy_s(self._clock.now_s()) <= BURST_S

    def may_take(self) -> bool:
        """Return whether what was taken before is paid for."""
        return self._in_beside.busy_s(self._clock.now_s()) <= BURST_S

    def took(self, size_bytes: int) -> None:
        """Count bytes taken beside a snapshot."""
        self._moved_bytes += size_bytes
        self._passed_bytes += size_bytes
        self._took_at_s = self._clock.now_s()
        self._in_beside.reserve(size_bytes, self._took_at_s)

    def asked(self) -> None:
        """Count a question of a node behind which somebody waits."""
        self._asked_count += 1

    def why_beside(self, source: NodeId) -> str:
        """The same as `why`, of what comes beside snapshots."""
        return self._why(source, self._in_beside, BURST_S)

    def why(self, source: NodeId) -> str:
        """Say for people why a move from there is slow; empty if it is not held back."""
        return self._why(source, self._in, WAIT_SHOWN_S)

    def _why(self, source: NodeId, taken: Pace, wait_shown_s: float) -> str:
        if self.governor.why:
            state = "paused" if self.governor.is_paused(self._clock.now_s()) else "slowed"
            return f"{state}: {self.governor.why}"
        now_s, pace = self._clock.now_s(), self._sources.get(source)
        if pace is not None and pace.busy_s(now_s) > WAIT_SHOWN_S:
            return "the source has requests to serve"
        return f"held to {taken.rate_bytes_s / 1024:.0f} KiB/s" if taken.busy_s(now_s) > wait_shown_s else ""


def _bounded(rate_bytes_s: float, bound_bytes_s: int) -> float:
    """Return the smaller of a rate, which may be infinite, and a bound, of which 0 is none; 0 if neither bounds."""
    held_to = min(rate_bytes_s, bound_bytes_s or math.inf)
    return held_to if held_to < math.inf else 0.0
