"""The deterministic simulator: pure machines on a heap of events, one process, no trio, no real time.

Theory of operation. Every input of a node (mail, a timer, a finished disk call) is an event with an instant
and a sequence number; the heap yields them in that order, so that one seed is one run. Each node has its own
generator, the network has one, and nothing else is random. Timers are lazy: a node is asked for its next deadline
after each input, and an event is pushed only when that comes before the one already armed; an event that comes too
early is pushed again without calling the node.

The rules that keep this honest are in style.md 2.5 and reliability.md 2c: never iterate a set where order reaches
output, derive each generator from the seed, and heal at the end to demand liveness.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import heappop, heappush

from frys_node.base.errors import StorageError
from frys_node.testing.disk import Failure, PowerLost, Tear
from frys_node.testing.faults import FaultProfile
from frys_node.testing.scenario import Replay, SimulationFailed
from frys_node.testing.simnode import Packet, SimEvent, SimHost, SimNode
from frys_node.testing.trace import Trace, TraceEvent

__all__ = ["Packet", "SimEvent", "SimHost", "SimNode", "Simulator"]

STUCK_MAX = 1_000
"""Times that a node may be advanced at one instant before the run fails: its deadline does not move on."""

HELD_MAX = 4_096
"""Events held for a paused node; mail beyond is dropped, as by a full socket buffer."""

_MAIL, _TIMER, _WAKE, _CALL, _VERB = range(5)
_KINDS = ("mail", "timer", "wake", "call", "verb")


class _Slot:
    """A host and the node that runs on it, if any."""

    __slots__ = (
        "armed_s",
        "boot",
        "factory",
        "held",
        "host",
        "index",
        "is_paused",
        "name",
        "node",
        "slow_s",
        "stuck",
        "tear",
    )

    def __init__(self, host: SimHost, factory: Callable[[SimHost], SimNode]) -> None:
        self.host = host
        self.name, self.index = host.name, host.index
        self.factory = factory
        self.node: SimNode | None = None
        self.boot = 0
        self.armed_s = math.inf
        self.is_paused = False
        self.held: list[tuple[int, object, str, int]] = []
        self.slow_s = 0.0
        self.stuck = 0
        self.tear = Tear.LOST


_Event = tuple[float, int, int, _Slot | None, object, str, int]
"""Instant, sequence, kind, target, payload or token or function, source, boot."""


class Simulator:
    """One simulated cluster.

    Args:
        seed: Decides everything.
        profile: Rates of the faults on the wires; draw it for the seed first (`FaultProfile.draw`).
        replay: How to run this again, for the report of a failure.
        keep_tail: Keep the last events in readable form (slower).
    """

    def __init__(
        self, seed: int, profile: FaultProfile, replay: Replay | None = None, *, keep_tail: bool = False
    ) -> None:
        self.seed = seed
        self.profile = profile
        self._is_rough = False
        self.set_profile(profile)
        self.replay = replay or Replay(scenario="swarm", nodes=0, seconds=0.0, seed=seed, faults=profile.name)
        self.now_s = 0.0
        self.counts: Counter[str] = Counter()
        """Injected faults by class, and what became of packets."""
        self.sometimes: Counter[str] = Counter()
        """Rare states that were reached; a batch of seeds fails if one never was."""
        self.trace = Trace(keep_tail=keep_tail)
        self._rng = random.Random(f"{seed}/network")
        self._heap: list[_Event] = []
        self._sequence = 0
        self._slots: dict[str, _Slot] = {}
        self._cuts: dict[int, frozenset[tuple[str, str]]] = {}
        self._cut: frozenset[tuple[str, str]] = frozenset()
        self._cut_number = 0
        self._hooks: list[Callable[[SimEvent], None]] = []
        self._crash_hooks: list[Callable[[str], None]] = []

    # What a scenario asks.

    @property
    def names(self) -> list[str]:
        """Every node, in the order in which they were added."""
        return list(self._slots)

    @property
    def events(self) -> int:
        """Inputs and verbs so far."""
        return self.trace.events

    @property
    def digest(self) -> str:
        """Hex digest of every event so far."""
        return self.trace.digest

    def host(self, name: str) -> SimHost:
        """The machine of that name."""
        return self._slots[name].host

    def node(self, name: str) -> SimNode | None:
        """The node that runs there, None while it is down."""
        return self._slots[name].node

    def is_up(self, name: str) -> bool:
        """True if the node's process exists, paused or not."""
        return self._slots[name].node is not None

    def is_paused(self, name: str) -> bool:
        """True between `pause` and `resume`."""
        return self._slots[name].is_paused

    def is_cut(self, source: str, target: str) -> bool:
        """True if a partition stops mail from source to target."""
        return (source, target) in self._cut

    def on_event(self, hook: Callable[[SimEvent], None]) -> None:
        """Call a checker after each input of each node."""
        self._hooks.append(hook)

    def on_crash(self, hook: Callable[[str], None]) -> None:
        """Call a hook with the name of each node that has just crashed."""
        self._crash_hooks.append(hook)

    def reach(self, name: str) -> None:
        """Count a rare state ("sometimes" assertion)."""
        self.sometimes[name] += 1

    def fail(self, text: str) -> SimulationFailed:
        """Return the error for a violated invariant, with the way to replay it; raise it."""
        return SimulationFailed(text, replay=self.replay, at_s=self.now_s, tail=tuple(map(str, self.trace.tail or ())))

    def check(self, condition: object, text: str) -> None:
        """Raise `SimulationFailed` unless the condition holds."""
        if not condition:
            raise self.fail(text)

    # Verbs.

    def add(self, name: str, factory: Callable[[SimHost], SimNode], *, start: bool = True) -> SimHost:
        """Add a machine; the factory makes its node at each boot."""
        assert name not in self._slots, name
        host = SimHost(self, name, len(self._slots))
        drift = self.profile.clock_drift
        host.wall_drift = random.Random(f"{self.seed}/{name}/clock").uniform(-drift, drift)
        self._slots[name] = _Slot(host, factory)
        if start:
            self.restart(name)
        return host

    def crash(self, name: str, tear: Tear = Tear.LOST, *, in_calls: int = 0) -> None:
        """Kill a node; its disk keeps what was synced and what the tear leaves. Nothing happens if it is down.

        With `in_calls` it dies inside the so-manyeth changing disk call from now on, in the middle of an input.
        """
        slot = self._slots[name]
        if slot.node is None:
            return
        if in_calls:
            slot.tear = tear
            slot.host.disk.crash_call(slot.host.disk.calls + in_calls)
            return
        self._verb("crash", f"{name} {tear}")
        self.counts["crash"] += 1
        lost = slot.host.disk.crash(tear, self._rng)
        if lost:
            self.counts["crash_lost_unsynced"] += 1
        if tear in (Tear.TORN, Tear.SECTORS):
            self.counts["crash_torn"] += 1
        slot.node = None
        slot.armed_s = math.inf
        slot.is_paused = False
        slot.held.clear()
        for hook in self._crash_hooks:
            hook(name)

    def black_out(self, tears: Mapping[str, Tear]) -> None:
        """Crash all these nodes at one instant, before any of them can answer another."""
        self._verb("outage", ",".join(tears))
        self.counts["outage"] += 1
        for name, tear in tears.items():
            self.crash(name, tear)

    def fail_disk(self, name: str, failure: Failure) -> None:
        """Make a node's next changing disk call fail. If it lets the error escape, it stops and loses what it held."""
        if self._slots[name].node is not None:
            self._verb("disk", f"{name} {failure}")
            self.counts["disk_error"] += 1
            self._slots[name].host.disk.fail_next(failure)

    def fill_disk(self, name: str) -> None:
        """Leave no room on a node's disk: what would grow it is refused until `free_disk`."""
        disk = self._slots[name].host.disk
        self._verb("full", name)
        self.counts["disk_full"] += 1
        disk.capacity_bytes = disk.used_bytes

    def free_disk(self, name: str) -> None:
        """End `fill_disk`."""
        if self._slots[name].host.disk.capacity_bytes is not None:
            self._verb("free", name)
            self._slots[name].host.disk.capacity_bytes = None

    def restart(self, name: str, *, wipe: bool = False) -> None:
        """Boot a node that is down, on its disk or on an empty one. If it is up, only planned disk faults end."""
        slot = self._slots[name]
        slot.host.disk.calm()
        if slot.node is not None:
            return
        host = slot.host
        if wipe:
            host.disk.wipe()
            self.counts["wipe"] += 1
        host.boot += 1
        slot.boot = host.boot
        if host.boot > 1:
            self.counts["restart"] += 1
        host.rng = random.Random(f"{self.seed}/{name}/{host.boot}")
        self._verb("restart", name)
        slot.node = slot.factory(host)
        self._after(slot, slot.node.start(self.now_s), _VERB, "", b"")

    def pause(self, name: str) -> None:
        """Stop a node as SIGSTOP does: timers and mail are held."""
        slot = self._slots[name]
        if slot.node is not None and not slot.is_paused:
            self._verb("pause", name)
            self.counts["pause"] += 1
            slot.is_paused = True

    def resume(self, name: str) -> None:
        """Let a paused node go on: everything held arrives now, in order, then what its timers want."""
        slot = self._slots[name]
        if slot.node is None or not slot.is_paused:
            return
        self._verb("resume", name)
        slot.host.resumed_s = self.now_s
        slot.is_paused = False
        held, slot.held = slot.held, []
        for kind, payload, source, boot in held:
            self._push(self.now_s, kind, slot, payload, source, boot)
        slot.armed_s = math.inf
        self._arm(slot)

    def slow(self, name: str, by_s: float) -> None:
        """Hold each packet to a node back by so many seconds, 0 to end it; its timers run on."""
        slot = self._slots[name]
        if by_s and not slot.slow_s:
            self.counts["slow"] += 1
        self._verb("slow", f"{name} {by_s:.6f}")
        slot.slow_s = by_s

    def step_clock(self, name: str, by_s: float) -> None:
        """Step a machine's wall clock."""
        self._verb("clock", f"{name} {by_s:.6f}")
        self.counts["clock_step"] += 1
        self._slots[name].host.wall_offset_ms += by_s * 1000.0

    def partition(self, a_names: Iterable[str], b_names: Iterable[str], *, one_way: bool = False) -> int:
        """Stop mail from every a to every b (and back, unless `one_way`); returns the number for `heal`."""
        a, b = list(a_names), list(b_names)
        self._verb("cut", f"{','.join(a)} {'->' if one_way else '<->'} {','.join(b)}")
        self.counts["partition_one_way" if one_way else "partition"] += 1
        pairs = {(x, y) for x in a for y in b}
        if not one_way:
            pairs |= {(y, x) for x in a for y in b}
        self._cut_number += 1
        self._cuts[self._cut_number] = frozenset(pairs)
        self._cut |= pairs
        return self._cut_number

    def heal(self, number: int | None = None) -> None:
        """End one partition, or all."""
        if number is None:
            self._cuts.clear()
        elif self._cuts.pop(number, None) is None:
            return
        self._verb("heal", str(number or "all"))
        self._cut = frozenset().union(*self._cuts.values())

    def make_whole(self) -> None:
        """End every fault: heal, resume, restart, calm wires. What was sent before may still be late."""
        self.set_profile(self.profile.calm())
        self.heal()
        for name, slot in self._slots.items():
            self.slow(name, 0.0)
            self.free_disk(name)
            self.resume(name)
            if slot.node is None and slot.host.boot:
                self.restart(name)

    def set_profile(self, profile: FaultProfile) -> None:
        """Change the rates of the faults on the wires, from the next packet on."""
        self.profile = profile
        self._is_rough = any((profile.tail, profile.reorder, profile.duplicate, profile.late, profile.corrupt))

    def at(self, t_s: float, function: Callable[[], object]) -> None:
        """Call a function at an instant; one in the past is called next."""
        self._push(max(t_s, self.now_s), _CALL, None, function, "", 0)

    def inject(self, name: str, token: object) -> None:
        """Give a node an input from outside at once, e.g. a client's command: its `wake(token, now_s)`."""
        self.wake_later(name, 0.0, token)

    def wake_later(self, name: str, delay_s: float, token: object) -> None:
        """Plan a `wake` of the node that runs there now."""
        slot = self._slots[name]
        self._push(self.now_s + delay_s, _WAKE, slot, token, "", slot.boot)

    def send(self, source: str, packets: Sequence[Packet]) -> None:
        """Put packets on the wire as if a node had sent them."""
        self._send(self._slots[source], packets)

    def run_until(self, t_s: float) -> None:
        """Run every event up to and including an instant."""
        heap = self._heap
        try:
            while heap and heap[0][0] <= t_s:
                at_s, _, kind, slot, payload, source, boot = heappop(heap)
                self.now_s = at_s
                try:
                    if slot is None:
                        payload()  # type: ignore[operator]
                    elif kind == _TIMER:
                        self._timer(slot, boot)
                    else:
                        self._input(slot, kind, payload, source, boot)
                except (PowerLost, StorageError) as stop:
                    self._stopped(slot, stop)
        except SimulationFailed:
            raise
        except Exception as error:
            raise self.fail(f"{type(error).__name__}: {error}") from error
        self.now_s = max(self.now_s, t_s)

    # The engine.

    def _push(self, at_s: float, kind: int, slot: _Slot | None, payload: object, source: str, boot: int) -> None:
        self._sequence += 1
        heappush(self._heap, (at_s, self._sequence, kind, slot, payload, source, boot))

    def _verb(self, verb: str, text: str) -> None:
        self.trace.record(self.now_s, 0, _VERB, f"{verb} {text}".encode())
        self.trace.note(TraceEvent(self.now_s, "", verb, text))

    def _stopped(self, slot: _Slot | None, stop: PowerLost | StorageError) -> None:
        """End a node in the middle of an input: what it would have sent is lost."""
        if isinstance(stop, PowerLost):
            self.counts["crash_in_call"] += 1
            slot = next(other for other in self._slots.values() if other.host.disk is stop.disk)
        elif slot is not None and slot.host.disk.failures_met:
            self.counts["storage_stop"] += 1
        else:
            raise stop
        self.crash(slot.name, slot.tear)

    def _timer(self, slot: _Slot, boot: int) -> None:
        node, now_s = slot.node, self.now_s
        # A timer of an earlier boot, or one that a nearer one has overtaken.
        if node is None or boot != slot.boot or slot.armed_s > now_s or slot.is_paused:
            return
        slot.armed_s = math.inf
        if node.next_deadline_s > now_s:
            self._arm(slot)
            return
        slot.stuck += 1
        if slot.stuck > STUCK_MAX:
            raise self.fail(f"node {slot.name} does not move its deadline on: {node.next_deadline_s}")
        self.trace.record(now_s, slot.index, _TIMER, b"")
        self._after(slot, node.advance(now_s), _TIMER, "", b"")
        if node.next_deadline_s > now_s:
            slot.stuck = 0

    def _input(self, slot: _Slot, kind: int, payload: object, source: str, boot: int) -> None:
        """Hand mail or a wake to a node."""
        node = slot.node
        if node is None or (kind == _WAKE and boot != slot.boot):
            self.counts["to_dead"] += 1
            return
        if slot.is_paused:
            if len(slot.held) < HELD_MAX or kind == _WAKE:
                slot.held.append((kind, payload, source, boot))
            else:
                self.counts["overflow"] += 1
            return
        now_s = self.now_s
        if kind == _MAIL:
            assert isinstance(payload, bytes)
            self.trace.record(now_s, slot.index, _MAIL, payload, self._slots[source].index)
            self._after(slot, node.receive(payload, source, now_s), _MAIL, source, payload)
        else:
            self.trace.record(now_s, slot.index, _WAKE, b"")
            self._after(slot, node.wake(payload, now_s), _WAKE, "", b"")

    def _after(self, slot: _Slot, packets: Sequence[Packet], kind: int, source: str, payload: bytes) -> None:
        """Send what an input made the node send, arm its timer, tell the checkers."""
        if packets:
            self._send(slot, packets)
        node = slot.node
        if node is not None and node.next_deadline_s < slot.armed_s:
            self._arm(slot)
        if self.trace.tail is not None:
            self.trace.note(TraceEvent(self.now_s, slot.name, _KINDS[kind], f"{source} {payload[:40].hex()}"))
        if self._hooks:
            event = SimEvent(self.now_s, slot.name, _KINDS[kind], source, payload, packets)
            for hook in self._hooks:
                hook(event)

    def _arm(self, slot: _Slot) -> None:
        assert slot.node is not None
        deadline_s = slot.node.next_deadline_s
        if deadline_s < math.inf:
            slot.armed_s = max(deadline_s, self.now_s)
            self._push(slot.armed_s, _TIMER, slot, None, "", slot.boot)

    def _send(self, slot: _Slot, packets: Sequence[Packet]) -> None:
        profile, rng, slots, cut, name = self.profile, self._rng, self._slots, self._cut, slot.name
        for destination, payload in packets:
            target = slots.get(destination)
            if target is None:
                self.counts["to_nobody"] += 1
                continue
            if target is slot:
                self._push(self.now_s, _MAIL, slot, payload, name, 0)
                continue
            if cut and (name, destination) in cut:
                self.counts["cut"] += 1
                continue
            if profile.loss and rng.random() < profile.loss:
                self.counts["loss"] += 1
                continue
            at_s = self.now_s + profile.delay_s + profile.jitter_s * rng.random() + target.slow_s
            if self._is_rough:
                at_s, payload = self._mangle(at_s, payload, target, name)
            self._sequence += 1
            heappush(self._heap, (at_s, self._sequence, _MAIL, target, payload, name, 0))

    def _mangle(self, at_s: float, payload: bytes, target: _Slot, source: str) -> tuple[float, bytes]:
        """Apply the rarer faults of the wires; returns when the packet arrives and as what."""
        profile, rng, counts = self.profile, self._rng, self.counts
        if profile.tail and rng.random() < profile.tail:
            counts["delay_tail"] += 1
            at_s += min(profile.tail_max_s, 10.0 * profile.delay_s * rng.paretovariate(1.2))
        if profile.reorder and rng.random() < profile.reorder:
            counts["reorder"] += 1
            at_s += profile.reorder_s * rng.random()
        if profile.duplicate and rng.random() < profile.duplicate:
            counts["duplicate"] += 1
            self._push(at_s + profile.jitter_s * rng.random(), _MAIL, target, payload, source, 0)
        if profile.late and rng.random() < profile.late:
            counts["late"] += 1
            self._push(at_s + profile.late_s * rng.random(), _MAIL, target, payload, source, 0)
        if profile.corrupt and payload and rng.random() < profile.corrupt:
            counts["corrupt"] += 1
            if rng.random() < 0.5:
                payload = payload[: rng.randrange(len(payload))]
            else:
                spoiled = bytearray(payload)
                spoiled[rng.randrange(len(spoiled))] ^= 1 << rng.randrange(8)
                payload = bytes(spoiled)
        return at_s, payload
