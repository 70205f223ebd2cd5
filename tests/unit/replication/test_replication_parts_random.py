"""Reads in parts under loss, delay and new records: no key is older than what was acknowledged before."""

from __future__ import annotations

import random

import pytest

from frys_node.base.types import Consistency, NodeId
from frys_node.kernel.services.replication import Version
from frys_node.replication import answers, batches
from frys_node.replication import effects as fx
from frys_node.replication.coordinator import CoordinatorConfig
from frys_node.replication.version import ZERO
from frys_node.testing.replica_desk import UNIT, Desk, record_of

RING = ["n1", "n2", "n3"]
KEYS = [b"k%d" % number for number in range(12)]
STEPS = 60


class Run:
    """One seed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.desk = Desk(3, coordinating=CoordinatorConfig())
        self.desk.adopt(record_of(2, RING))
        self.seq = 2
        self.acked: dict[bytes, Version] = dict.fromkeys(KEYS, ZERO)
        self.shown: dict[bytes, Version] = dict.fromkeys(KEYS, ZERO)
        self.writes: dict[int, list[bytes]] = {}
        self.reads: dict[int, tuple[list[bytes], dict[bytes, Version], bool]] = {}
        self.parts = self.finished = 0

    def disturb(self) -> None:
        """Lose and keep back other messages from now on, or have some nodes adopt a new record."""
        rng, desk = self.rng, self.desk
        ways = [(a, b) for a in RING for b in RING if a != b]
        desk.cut = set(rng.sample(ways, rng.choice([0, 0, 1, 2])))
        share = rng.choice([0.0, 0.1, 0.3])
        desk.keeps = lambda _a, _b, _message: rng.random() < share
        if rng.random() < 0.1:
            self.seq += 1
            for name in rng.sample(RING, 3):
                desk.adopt(record_of(self.seq, RING), name)

    def begin(self) -> None:
        """Begin a write or a read through some node."""
        rng, desk = self.rng, self.desk
        node = NodeId(rng.choice(RING))
        machine = desk.coordinators[node]
        keys = rng.sample(KEYS, rng.randint(1, len(KEYS)))
        if rng.random() < 0.5:
            items = [(key, None if rng.random() < 0.1 else bytes(rng.randint(0, 300))) for key in keys]
            request, effects = machine.write(
                UNIT,
                items,
                Consistency.QUORUM,
                deadline_s=desk.now_s + 4.0,
                now_s=desk.now_s,
                wall_ms=desk.wall_ms[node] + rng.randint(-3_000, 3_000),
            )
            self.writes[request] = keys
            if rng.random() < 0.4:
                self.half_write(node, request, effects)
                return
        else:
            waits = rng.random() < 0.4
            level = rng.choice([Consistency.QUORUM, Consistency.QUORUM, Consistency.ALL])
            request, effects = machine.read(
                UNIT, keys, level, deadline_s=desk.now_s + 4.0, now_s=desk.now_s, waits_repair=waits
            )
            before = {key: max(self.acked[key], self.shown[key]) for key in keys}
            self.reads[request] = (keys, before, waits)
        desk.take(node, effects)
        desk.run()

    def half_write(self, node: NodeId, request: int, effects: list[fx.Effect]) -> None:
        """Let one replica have a write, and nobody wait for it any more."""
        target = self.rng.choice(RING)
        self.desk.take(node, [effect for effect in effects if isinstance(effect, fx.Send) and effect.to == target])
        self.desk.run()
        self.desk.coordinators[node].abandon(request)

    def judge(self) -> None:
        """Look at what has ended."""
        for request, done in list(self.desk.done.items()):
            del self.desk.done[request]
            if isinstance(done, fx.WriteDone):
                for key in self.writes[request]:
                    self.acked[key] = max(self.acked[key], done.version)
            elif isinstance(done, fx.ReadDone):
                self.finished += 1
                keys, before, waits = self.reads[request]
                assert len(done.entries) == len(keys)
                for key, entry in zip(keys, done.entries, strict=True):
                    version = ZERO if entry is None else entry.version
                    assert entry is None or entry.key == key
                    assert version >= before[key], (key, version, before[key])
                    if waits:
                        self.shown[key] = max(self.shown[key], version)

    def go(self) -> None:
        """Run to the end."""
        for _ in range(STEPS):
            self.disturb()
            self.begin()
            self.judge()
            if self.rng.random() < 0.5:
                kept, self.desk.kept = self.desk.kept, []
                self.rng.shuffle(kept)
                self.desk.kept = kept
                self.desk.release()
            self.desk.pass_time(0.5)
            self.judge()


@pytest.mark.parametrize("seed", range(12))
def test_no_key_of_a_read_in_parts_is_older_than_what_was_known_when_it_began(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few values fit in each answer; what a waiting read has shown counts as much as what was acknowledged."""
    monkeypatch.setattr(answers, "READ_BYTES_MAX", 600)
    monkeypatch.setattr(batches, "READ_BYTES_MAX", 600)
    monkeypatch.setattr(batches, "KEYS_BYTES_MAX", 70)
    run = Run(seed)
    run.go()
    assert run.finished > 5
