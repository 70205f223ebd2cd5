"""What the log of a node told at its start, handed to the replica kind by kind, and what a checkpoint has to hold.

Two things find a loss, and never both the same one: the witness, a log that is gone as a whole (`witness`), and the
reader, a hole in one that is here (`frames`). For the replica either is a unit that lost state (`regain`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

from balancer.work import kind_of
from frys_node.base.ports import Disk
from frys_node.base.types import UnitId
from frys_node.kernel.services.replication import Freezable
from frys_node.replication.log import Log, Recovered, dump_unit
from frys_node.replication.messages import LogRecord
from frys_node.replication.replica import ReplicaMachine
from frys_node.replication.witness import is_log_lost


class Recovery:
    """What was found, until its kinds are declared."""

    def __init__(self, disk: Disk, log: Log, replica: ReplicaMachine) -> None:
        self._disk = disk
        self._log = log
        self._replica = replica
        self._found: dict[UnitId, Recovered] = {}
        self._is_log_lost = False

    def read(self) -> None:
        """Read the log; blocks.

        Raises:
            CorruptData: A record of a version that this one does not know. Nothing was changed.
            StorageError: The disk cannot be read.
        """
        self._is_log_lost = is_log_lost(self._disk, self._log)
        self._found = self._log.replay()

    def begin(self) -> None:
        """Tell the replica what is gone without a trace; call behind `read`, and before a record is adopted."""
        if self._is_log_lost or self._log.is_anything_lost:
            self._replica.regain.lose_all(but=self._found)

    def load(self, kind: str) -> None:
        """Hand the units of a kind to the replica; call once the kind is declared there."""
        for unit in [unit for unit in self._found if kind_of(unit) == kind]:
            found = self._found.pop(unit)
            self._replica.load(
                unit,
                found.entries.values(),
                complete=found.complete,
                join_key=found.join_key,
                is_damaged=found.is_damaged,
                lost=found.lost,
                floors=(found.write_floor, found.purge_floor),
            )

    def dump(self) -> Iterator[Iterable[list[LogRecord]]]:
        """Yield everything durable that is held, loaded or not yet asked for by its plugin, unit by unit.

        Each is as it was when it was yielded; what it holds is read when its groups are. Others may be written between
        two units, since the log has that too. None is missed: what is not loaded now comes first, all of it.
        """
        # Of a kind that is declared meanwhile nothing may fall between the two.
        found = [dump_unit(unit, each, list(each.entries.values())) for unit, each in self._found.items()]
        yield chain.from_iterable(found)
        units = self._replica.table.units
        for unit in list(units):
            held = units.get(unit)
            if held is not None and held.durable:
                store = held.store
                entries = store.freeze() if isinstance(store, Freezable) else list(store.entries())
                yield dump_unit(unit, held, entries)
        yield [self._replica.regain.dump()]
