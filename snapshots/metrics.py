"""The metrics of snapshots."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from frys_node.kernel.services.snapshots import MoveProgress
from frys_node.observe.metrics import Metrics


class SnapshotMetrics:
    """Counters of one node's snapshots."""

    def __init__(self, metrics: Metrics) -> None:
        self.transferred = metrics.counter(
            "frys_snapshots_transfer_bytes_total", "Bytes of chunks, by direction (sent, received).", ("direction",)
        )
        self.reused = metrics.counter(
            "frys_snapshots_reused_bytes_total", "Bytes of moves that were here already and not asked for."
        )
        self.moves = metrics.counter(
            "frys_snapshots_moves_total", "Finished moves to this node, by result (installed, aborted).", ("result",)
        )
        self.corrupt = metrics.counter(
            "frys_snapshots_corrupt_chunks_total", "Chunks that came with wrong bytes and were asked for again."
        )
        self.captures = metrics.counter("frys_snapshots_captures_total", "Units captured for other nodes.")
        self.duration = metrics.histogram(
            "frys_snapshots_move_seconds",
            "Time from a move's start to its installed state.",
            (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1_000.0),
        )
        self._active = metrics.gauge("frys_snapshots_moves_active", "Moves to this node under way.")
        self._left = metrics.gauge("frys_snapshots_moves_left_bytes", "Bytes that moves under way still have to bring.")
        self._rate = metrics.gauge("frys_snapshots_moves_rate_bytes", "Bytes per second of the moves under way.")
        self._eta = metrics.gauge("frys_snapshots_moves_eta_seconds", "Until moves under way are done, at their rate.")
        self.store_bytes = metrics.gauge("frys_snapshots_store_bytes", "Chunks held, by place.", ("place",))
        self.pins = metrics.gauge("frys_snapshots_pins", "Captured states held for other nodes.")

    def watch(self, moves: Callable[[], Sequence[MoveProgress]]) -> None:
        """Tell of the moves under way whenever somebody looks."""

        def rate() -> float:
            return sum(move.rate_bytes_s for move in moves())

        def left() -> float:
            return float(sum(move.bytes_total - move.bytes_done for move in moves()))

        self._active.source = lambda: float(len(moves()))
        self._left.source = left
        self._rate.source = rate
        self._eta.source = lambda: left() / rate() if rate() else 0.0


class SaveMetrics:
    """Counters of saved snapshots; declared once more they are the same."""

    def __init__(self, metrics: Metrics) -> None:
        self.bytes = metrics.counter(
            "frys_snapshots_saved_bytes_total",
            "Bytes of saved snapshots, by what became of them (new, reused).",
            ("how",),
        )
        self.saves = metrics.counter(
            "frys_snapshots_saves_total", "Snapshots that were asked for, by result (saved, failed).", ("result",)
        )
        self.exports = metrics.counter(
            "frys_snapshots_exports_total", "Sealed files that were begun, by result (whole, broken).", ("result",)
        )
