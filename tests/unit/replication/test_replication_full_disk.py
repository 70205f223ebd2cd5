"""A disk that takes no writes: what is refused, what goes on, and that nothing is acknowledged meanwhile."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from balancer.record import STABLE
from frys_node.base.errors import StorageError
from frys_node.base.ports import Executor
from frys_node.kernel.services.replication import Entry, Version
from frys_node.kernel.turns import Turns
from frys_node.replication import effects as fx
from frys_node.replication.commit import DISK_RETRY_S, GroupCommit
from frys_node.replication.log import Log
from frys_node.replication.messages import (
    LeafPage,
    LogRecord,
    Read,
    ReadReply,
    Repair,
    TreeAsk,
    Write,
    WriteAck,
    WriteRefused,
)
from frys_node.replication.replica import ReplicaConfig, ReplicaMachine
from frys_node.testing.clock import FakeClock
from frys_node.testing.data_cluster import DictStore
from frys_node.testing.disk import Failure, FakeDisk
from frys_node.testing.executor import InlineExecutor
from tests.unit.replication.test_replication_log import PATH, held, put
from tests.unit.replication.test_replication_log import UNIT as SHARD
from tests.unit.replication.test_replication_machines import (
    N1,
    N2,
    N3,
    UNIT,
    Bench,
    ack,
    begin,
    coordinator,
    key,
    record,
    sent,
    write,
)

T = TypeVar("T")

FULL = "storage.full"


def refusal(asked: fx.Send, code: str = FULL) -> WriteRefused:
    """Return the target's refusal."""
    message = asked.message
    assert isinstance(message, Write)
    return WriteRefused(message.epoch, UNIT, message.request, message.attempt, code)


@pytest.mark.parametrize("failure", [Failure.FULL, Failure.READ_ONLY])
def test_a_refused_group_leaves_the_log_as_it_was_and_may_be_tried_again(failure: Failure) -> None:
    """No byte, no number and no size change; the same group goes in later and is recovered once."""
    disk = FakeDisk()
    log = Log(disk)
    log.replay()
    log.append([put(1)])
    before = disk.read(PATH), log.size_bytes, disk.unsynced_bytes(PATH)
    disk.fail_next(failure)
    assert log.append([put(2)]) is not None
    assert (disk.read(PATH), log.size_bytes, disk.unsynced_bytes(PATH)) == before
    assert log.append([put(2)]) is None
    assert held(Log(disk).replay())[SHARD][1] == {b"k1": b"v1", b"k2": b"v2"}


def test_a_replica_whose_disk_is_full_refuses_writes_and_answers_reads() -> None:
    """What cannot become durable is not merged: a write is told why, repairs and pulls are dropped; reads go on."""
    bench = Bench()
    bench.adopt(record(2, STABLE, [N1, N2]))
    bench.receive(N2, write(2, 1))
    bench.sync()
    bench.machine.disk_refusal = FULL
    later = Entry(b"k", Version(9, 0, N2, 1), b"later")
    assert bench.receive(N2, write(2, 5)) == [fx.Send(N2, WriteRefused(key(2), UNIT, 5, 1, FULL))]
    assert bench.receive(N2, Repair(key(2), UNIT, 6, [later])) == []
    assert bench.receive(N2, LeafPage(key(2), UNIT, 7, b"", True, [later], False)) == []
    assert bench.tokens == []
    reply = sent(bench.receive(N2, Read(key(2), UNIT, 8, 1, [b"k"])), ReadReply)[0].message
    assert isinstance(reply, ReadReply)
    assert [entry.value for entry in reply.entries if entry is not None] == [b"v1"]
    assert len(bench.receive(N2, TreeAsk(key(2), UNIT, 9))) == 1
    bench.machine.disk_refusal = ""
    bench.receive(N2, write(2, 5))
    assert len(sent(bench.sync(), WriteAck)) == 1


def test_units_in_memory_do_not_care_for_the_disk() -> None:
    """A cache takes writes while the disk is full."""
    machine = ReplicaMachine(N1, random.Random(1), ReplicaConfig(bulk_by_messages=True))
    machine.declare("cache", lambda _unit: DictStore(), durable=False)
    machine.adopt(record(2, STABLE, [N1]), 0.0)
    machine.disk_refusal = FULL
    assert len(sent(machine.receive(N2, write(2), 0.0), WriteAck)) == 1


def test_a_write_goes_on_without_a_full_target_and_its_acknowledgement_may_still_come() -> None:
    """Two of three are a quorum; one that refused and then had room counts like any other."""
    machine = coordinator(record(1, STABLE, [N1, N2, N3]))
    _, asked = begin(machine)
    assert machine.receive(asked[0].to, refusal(asked[0]), 0.1) == []
    assert machine.receive(asked[1].to, ack(asked[1]), 0.1) == []
    again = sent(machine.advance(machine.next_deadline_s), Write)
    assert [s.to for s in again] == [asked[0].to, asked[2].to]
    assert isinstance(machine.receive(asked[0].to, ack(asked[0]), 0.4)[0], fx.WriteDone)
    assert machine.receive(asked[2].to, refusal(asked[2]), 0.4) == []


def test_a_write_fails_at_once_when_the_targets_with_room_are_too_few() -> None:
    """Nobody waits for the deadline; the failure names the full ones and the reason. Old attempts do not count."""
    machine = coordinator(record(1, STABLE, [N1, N2, N3]))
    request, asked = begin(machine)
    targets = tuple(s.to for s in asked)
    assert machine.receive(targets[0], ack(asked[0]), 0.1) == []
    assert machine.receive(targets[1], refusal(asked[1]), 0.1) == []
    failed = machine.receive(targets[2], refusal(asked[2]), 0.1)
    assert failed == [fx.RequestFailed(request, UNIT, targets[:1], targets, targets[1:], FULL)]
    assert machine.receive(targets[2], refusal(asked[2]), 0.2) == []
    request, asked = begin(machine)
    machine.receive(targets[1], refusal(asked[1]), 0.3)
    found = machine.advance(9.0)
    assert fx.RequestFailed(request, UNIT, (), targets, targets[1:2]) in found


class Commits:
    """A group commit on a disk that a test fills, with what it reported."""

    def __init__(self) -> None:
        self.disk = FakeDisk()
        self.log = Log(self.disk)
        self.log.replay()
        self.durable: list[int] = []
        self.codes: list[str] = []
        self.group = self.commit(lambda: iter(()), 1 << 20)

    def commit(
        self,
        dump: Callable[[], Iterator[Iterable[list[LogRecord]]]],
        checkpoint_bytes: int,
        executor: Executor | None = None,
    ) -> GroupCommit:
        """Return a group commit on the log."""
        return GroupCommit(
            self.log,
            executor or InlineExecutor(),
            self.durable.append,
            self._refused,
            dump,
            checkpoint_bytes=checkpoint_bytes,
            turns=Turns(FakeClock()),
        )

    def _refused(self, found: StorageError | None) -> None:
        self.codes.append("" if found is None else found.code)

    def add(self, *numbers: int) -> None:
        """Queue one record each; 0 waits only."""
        for number in numbers:
            self.group.add(fx.Persist(number, (put(number),) if number else ()))


async def test_a_refused_group_keeps_its_place_until_there_is_room(autojump_clock: MockClock) -> None:
    """Nothing of it, or behind it, is durable before; then everything is, in order. A flush does not wait for room."""
    commits = Commits()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(commits.group.run)
        commits.add(1)
        await commits.group.flush()
        commits.disk.capacity_bytes = commits.disk.used_bytes
        commits.add(2, 0)
        with trio.fail_after(1):
            await commits.group.flush()
        commits.add(3)
        await trio.sleep(10 * DISK_RETRY_S)
        assert (commits.durable, commits.codes) == ([1], [FULL])
        commits.disk.capacity_bytes = None
        commits.add(4)
        await trio.sleep(DISK_RETRY_S)
        await commits.group.flush()
        assert (commits.durable, commits.codes) == ([1, 2, 0, 3, 4], [FULL, ""])
        nursery.cancel_scope.cancel()
    commits.disk.crash()
    assert held(Log(commits.disk).replay())[SHARD][1] == {b"k%d" % n: b"v%d" % n for n in range(1, 5)}


async def test_a_failed_sync_ends_the_log_and_is_never_tried_again() -> None:
    """A second sync could succeed although the bytes are gone: nothing more is written."""
    commits = Commits()
    commits.disk.fail_call(commits.disk.calls + 2, Failure.FULL)
    commits.add(1, 2)
    with pytest.raises(StorageError):
        await commits.group.run()
    await wait_all_tasks_blocked()
    assert (commits.durable, commits.codes, commits.disk.syncs) == ([], [], 0)


async def test_a_checkpoint_that_finds_no_room_is_made_later(autojump_clock: MockClock) -> None:
    """The logs before it count on, and what is written behind it is durable."""
    commits = Commits()
    durable = commits.durable
    commits.group = commits.commit(lambda: iter([[[put(n) for n in durable]]]), 1)
    commits.disk.fail_call(3, Failure.FULL)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(commits.group.run)
        nursery.start_soon(commits.group.run_checkpoints)
        for number in (1, 2):
            commits.add(number)
            await commits.group.flush()
            assert commits.codes == []
            await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert commits.disk.list("replication") == ["checkpoint-00000002"]
    assert held(Log(commits.disk).replay())[SHARD][1] == {b"k1": b"v1", b"k2": b"v2"}


async def test_writes_go_on_while_a_checkpoint_is_made(autojump_clock: MockClock) -> None:
    """They are durable before it is; a crash before its end, or behind it, loses none of them."""
    may_end = trio.Event()

    class Slow(InlineExecutor):
        async def run(self, function: Callable[..., T], *args: object) -> T:
            if function == commits.log.write_checkpoint:
                await may_end.wait()
            return await super().run(function, *args)

    commits = Commits()
    dumped = [put(1)]
    commits.group = commits.commit(lambda: iter([[list(dumped)]]), 1, Slow())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(commits.group.run)
        nursery.start_soon(commits.group.run_checkpoints)
        for number in (1, 2, 3):
            commits.add(number)
            with trio.fail_after(1):
                await commits.group.flush()
        assert commits.durable == [1, 2, 3]
        assert commits.disk.list("replication") == ["log-00000000", "log-00000001"]
        early = copy.deepcopy(commits.disk)
        may_end.set()
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    for disk, names in ((early, early.list("replication")), (commits.disk, ["checkpoint-00000001", "log-00000001"])):
        disk.crash()
        log = Log(disk)
        assert held(log.replay())[SHARD][1] == {b"k%d" % n: b"v%d" % n for n in (1, 2, 3)}
        assert (disk.list("replication"), log.holes, log.torn) == (names, [], [])
