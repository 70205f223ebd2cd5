"""The metrics of snapshots."""

from __future__ import annotations

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
        self.active = metrics.gauge("frys_snapshots_moves_active", "Moves to this node under way.")
        self.store_bytes = metrics.gauge("frys_snapshots_store_bytes", "Chunks held, by place.", ("place",))
        self.pins = metrics.gauge("frys_snapshots_pins", "Captured states held for other nodes.")
