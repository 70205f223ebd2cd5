"""What the replication of one node tells people: metrics, log lines, and who stops tombstones from being freed."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from frys_node.base.ports import Clock
from frys_node.base.types import NodeId, UnitId
from frys_node.kernel.services.members import Members
from frys_node.kernel.services.snapshots import MoveProgress
from frys_node.observe.metrics import Metrics
from frys_node.replication import effects as fx
from frys_node.replication.damage import fix_of
from frys_node.replication.quorums import UNITS_SHOWN_MAX, quorum_lines, some_of

if TYPE_CHECKING:
    from frys_node.replication.commit import GroupCommit
    from frys_node.replication.coordinator import CoordinatorMachine
    from frys_node.replication.log import Log
    from frys_node.replication.outbox import Outbox
    from frys_node.replication.replica import ReplicaMachine

_log = logging.getLogger(__name__)


class Reports:
    """Reads the machines; changes nothing."""

    def __init__(
        self,
        metrics: Metrics,
        members: Members,
        replica: ReplicaMachine,
        coordinator: CoordinatorMachine,
        clock: Clock,
    ) -> None:
        self._members = members
        self._replica = replica
        self._clock = clock
        self._corrupt = metrics.counter(
            "frys_replication_corruptions_total", "Keys found with two values under one version"
        )
        self._lost = metrics.counter("frys_replication_units_lost_total", "Durable units that were found to lack state")
        serving, purger, hints = replica.serving, replica.purger, coordinator.hints
        self._hints = hints

        def gauge(name: str, text: str, value: Callable[[], float]) -> None:
            metrics.gauge(f"frys_replication_{name}", text, source=value)

        def counter(name: str, text: str, value: Callable[[], float]) -> None:
            metrics.counter(f"frys_replication_{name}_total", text, source=value)

        gauge("hints", "Hints kept", lambda: float(len(hints)))
        counter("hints_dropped", "Hints dropped for want of room since the start", lambda: float(hints.dropped_count))
        counter(
            "writes_refused_clock_drift",
            "Writes refused here since the start: their coordinator's clock is too far ahead of this node's",
            lambda: float(serving.refused["replication.clock_drift"]),
        )
        counter(
            "writes_refused_too_old",
            "Writes refused here since the start and stamped anew by their coordinators",
            lambda: float(serving.refused["replication.too_old"]),
        )
        counter("tombstones_freed", "Tombstones freed here since the start", lambda: float(purger.freed_count))
        gauge(
            "purge_stopped_units",
            "Units whose tombstones cannot be freed, as this node has to say: a member is down, incomplete, or has a"
            " clock that is behind",
            lambda: float(len({unit for wait in purger.waits_for().values() for unit in wait.units})),
        )
        gauge("purge_stopped_seconds", "For how long the first of these units has waited", self._stopped_s)
        gauge(
            "units_incomplete",
            "Units of this node that take writes and give no data yet",
            lambda: float(sum(not held.complete for held in replica.table.units.values())),
        )

    def watch(self, metrics: Metrics, outbox: Outbox, log: Log, commits: GroupCommit) -> None:
        """Count what leaves this node, and watch its log."""
        metrics.gauge(
            "frys_replication_log_bytes",
            "Bytes in the log behind the last checkpoint",
            source=lambda: float(log.size_bytes),
        )
        metrics.gauge(
            "frys_replication_units_damaged",
            "Durable units that lost acknowledged records, until they are filled again or restored",
            source=lambda: float(sum(held.is_damaged for held in self._replica.table.units.values())),
        )
        metrics.gauge(
            "frys_replication_disk_refuses",
            "1 while the disk takes no writes and durable units are only read, else 0",
            source=lambda: float(commits.refusal is not None),
        )
        metrics.counter(
            "frys_replication_messages_sent_total",
            "Messages of replication sent since the start",
            source=lambda: float(outbox.messages_count),
        )
        metrics.counter(
            "frys_replication_notes_sent_total",
            "Notes that carried them: messages of one turn for one node go together",
            source=lambda: float(outbox.notes_count),
        )

    def tell(self, effect: fx.StartedEmpty | fx.Corrupted | fx.UnitLost) -> None:
        """Log what a human should know."""
        if isinstance(effect, fx.StartedEmpty):
            _log.debug("replication.unit_started_empty", extra={"unit": effect.unit})
        elif isinstance(effect, fx.UnitLost):
            self._lost.inc()
            fix = "none needed while enough other members answer"
            if effect.is_for_good:
                fix = fix_of(effect.unit, ())
            _log.error(
                "replication.unit_lost_for_good" if effect.is_for_good else "replication.unit_lost",
                extra={"unit": effect.unit, "fix": fix},
            )
        else:
            self._corrupt.inc()
            _log.error(
                "replication.version_has_two_values",
                extra={"unit": effect.unit, "key": effect.key.hex(), "version": str(effect.version)},
            )

    def view(self) -> dict[str, object]:
        """Return the state of this node's replicas, as ``GET /v1/replication`` shows it."""
        units, serving, purger = self._replica.table.units, self._replica.serving, self._replica.purger
        return {
            "units": len(units),
            "incomplete": sorted(unit for unit, held in units.items() if not held.complete),
            "lost": sorted(unit for unit, held in units.items() if held.lost is not None),
            "hints": len(self._hints),
            "writes_refused": dict(sorted(serving.refused.items())),
            "tombstones_freed": purger.freed_count,
            "tombstones_wait_for": self.purge_waits_for(),
        }

    def moves(self) -> list[MoveProgress]:
        """Return the bulk copies to this node that go by messages, all units of a kind as one move named after it."""
        now_s, unix_ns = self._clock.now_s(), self._clock.unix_ns()
        return [
            MoveProgress(
                unit=UnitId(bulk.kind),
                source=bulk.source,
                state="transferring",
                bytes_done=bulk.bytes_done,
                bytes_total=bulk.bytes_total,
                rate_bytes_s=bulk.rate_bytes_s(now_s),
                eta_s=bulk.eta_s(now_s),
                started_unix_ns=unix_ns - int((now_s - bulk.started_s) * 1e9),
            )
            for bulk in self._replica.bulks.under_way()
        ]

    def _stopped_s(self) -> float:
        waits = self._replica.purger.waits_for().values()
        now_ms = self._clock.unix_ns() // 1_000_000
        return max((now_ms - wait.since_unix_ms for wait in waits), default=0) / 1_000

    def status(self) -> dict[str, list[str]]:
        """Return what `frys-node status` says beside damage: lines for people, none when all is well."""
        placement = self._replica.placement
        quorums = [] if placement is None else quorum_lines(placement, self._is_up, self._name)
        return {"quorums": quorums, "tombstones_wait_for": self.purge_waits_for()}

    def _is_up(self, node: NodeId) -> bool:
        return node == self._replica.node or self._members.is_usable(node)

    def _name(self, node: NodeId) -> str:
        member = self._members.get(node)
        return node if member is None else member.name

    def purge_wait(self, node: NodeId) -> dict[str, Any] | None:
        """Return which units' tombstones wait for a member, and since when (Unix nanoseconds); None: none do."""
        wait = self._replica.purger.waits_for().get(node)
        if wait is None:
            return None
        return {
            "units": len(wait.units),
            "first": wait.units[:UNITS_SHOWN_MAX],
            "since_unix_ns": wait.since_unix_ms * 1_000_000,
        }

    def purge_waits_for(self) -> list[str]:
        """Say for people which members stop tombstones from being freed, one line each; empty when nobody does."""
        lines = []
        for node, wait in sorted(self._replica.purger.waits_for().items()):
            why = "is not complete, or its clock is behind" if self._is_up(node) else "does not answer"
            since = dt.datetime.fromtimestamp(wait.since_unix_ms // 1_000, dt.UTC)
            lines.append(
                f"tombstones of {some_of(wait.units)} wait for {self._name(node)} since {since:%Y-%m-%d %H:%M:%S} UTC,"
                f" which {why}: they are kept until it is back, or removed from the ring"
            )
        return lines
