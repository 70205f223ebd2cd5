"""What may go wrong in a simulated run: profiles of rates, and schedules of partitions, pauses and crashes.

A profile is a preset by name; each seed draws a random *subset* of its faults and a random strength of each
(swarm testing: a run that has every fault at once hides the bugs that need a calm stretch). A schedule injects them
over a window and then heals everything, so that a scenario can demand liveness, not only safety.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from frys_node.base.errors import UsageError
from frys_node.testing.disk import Failure, Tear

if TYPE_CHECKING:
    from frys_node.testing.simulator import Simulator


class FaultProfile(msgspec.Struct, frozen=True, kw_only=True):
    """Rates of every fault. Probabilities are per packet, `*_per_min` per cluster-minute, times in seconds."""

    name: str = "none"
    delay_s: float = 0.0005
    """Least time on the wire."""
    jitter_s: float = 0.0005
    """Added time, uniform from 0: neighbours overtake one another within it."""
    tail: float = 0.0
    """Chance of a heavy-tailed delay (Pareto, shape 1.2, from 10 times the base, at most `tail_max_s`)."""
    tail_max_s: float = 2.0
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    """Chance that a packet waits up to `reorder_s` longer, so that later ones pass it."""
    reorder_s: float = 0.2
    late: float = 0.0
    """Chance that a packet comes once more, up to `late_s` later: an old packet replayed."""
    late_s: float = 30.0
    corrupt: float = 0.0
    """Chance that a packet is cut short or has a bit flipped. No preset has it: below the real machines packets are
    sealed or inside TLS, so only machines that check integrity themselves can be asked to survive it."""
    partitions_per_min: float = 0.0
    partition_s: float = 8.0
    """Mean length of a partition: one-way, two-way or group, drawn each time."""
    pauses_per_min: float = 0.0
    pause_s: float = 3.0
    slow_per_min: float = 0.0
    slow_s: float = 0.5
    """Mail to a slow node waits so much longer; its timers run."""
    crashes_per_min: float = 0.0
    down_s: float = 6.0
    torn: float = 0.0
    """Share of crashes that tear or reorder unsynced bytes instead of losing them all."""
    kept: float = 0.0
    """Share of crashes of the process alone, which keep unsynced bytes."""
    in_call: float = 0.0
    """Share of crashes that hit between two disk calls of one input, instead of between two inputs."""
    disk_errors_per_min: float = 0.0
    """How often one disk call fails (I/O error or full); a node that lets the error escape stops, as a process does."""
    disk_full_per_min: float = 0.0
    """How often a node's disk has no room for a while. No preset has it: it is for designs that outlive it."""
    full_s: float = 2.0
    wipe: float = 0.0
    """Share of restarts on an empty disk. Only for designs that say they survive it."""
    clock_steps_per_min: float = 0.0
    clock_step_s: float = 5.0
    clock_drift: float = 0.0
    """Largest drift of a node's wall clock, in seconds per second."""
    outages_per_min: float = 0.0
    """How often every node crashes at the same instant: the building has lost power."""

    @classmethod
    def named(cls, name: str) -> FaultProfile:
        """Return the preset.

        Raises:
            UsageError: There is none of that name; the message lists them.
        """
        try:
            return PROFILES[name]
        except KeyError:
            raise UsageError(f"no fault profile '{name}'", hint=f"choose one of: {', '.join(PROFILES)}") from None

    def draw(self, seed: int) -> FaultProfile:
        """Return this seed's subset: each fault that the profile has stays with 2/3, at 0.2 to 1 of its strength."""
        rng = random.Random(f"{seed}/profile/{self.name}")
        changes: dict[str, float] = {}
        for field in _RATES:
            rate: float = getattr(self, field)
            if rate:
                changes[field] = rate * rng.uniform(0.2, 1.0) if rng.random() < 2 / 3 else 0.0
        return msgspec.structs.replace(self, **changes) if changes else self

    def calm(self) -> FaultProfile:
        """The same wires without any fault: for the liveness phase."""
        return msgspec.structs.replace(self, **dict.fromkeys(_RATES, 0.0))

    def expand(self) -> dict[str, str | float]:
        """Every value, for the report of a run."""
        return msgspec.structs.asdict(self)


_RATES = (
    "tail", "loss", "duplicate", "reorder", "late", "corrupt", "partitions_per_min", "pauses_per_min",
    "slow_per_min", "crashes_per_min", "torn", "kept", "in_call", "disk_errors_per_min", "wipe", "clock_steps_per_min",
    "clock_drift", "outages_per_min", "disk_full_per_min",
)  # fmt: skip

_LAN = FaultProfile(name="lan", loss=0.0005, tail=0.001, tail_max_s=0.2, reorder=0.001, reorder_s=0.01)
_LOSSY = FaultProfile(name="lossy", jitter_s=0.02, tail=0.02, loss=0.1, duplicate=0.05, reorder=0.1, late=0.005)

PROFILES: dict[str, FaultProfile] = {
    profile.name: profile
    for profile in (
        FaultProfile(),
        _LAN,
        _LOSSY,
        FaultProfile(name="loss20", loss=0.2),
        FaultProfile(name="loss40", loss=0.4),
        FaultProfile(name="partitions", loss=0.01, reorder=0.02, partitions_per_min=8.0),
        FaultProfile(
            name="crashes", loss=0.01, reorder=0.02, pauses_per_min=3.0, crashes_per_min=8.0, torn=0.4, kept=0.2
        ),
        FaultProfile(
            name="disk", loss=0.01, crashes_per_min=8.0, torn=0.5, kept=0.1, in_call=0.6, disk_errors_per_min=4.0
        ),
        FaultProfile(
            name="outages", loss=0.01, reorder=0.02, crashes_per_min=2.0, torn=0.4, kept=0.2, outages_per_min=2.0
        ),
        FaultProfile(
            name="chaos",
            jitter_s=0.01,
            tail=0.02,
            loss=0.06,
            duplicate=0.04,
            reorder=0.08,
            late=0.004,
            partitions_per_min=5.0,
            pauses_per_min=4.0,
            slow_per_min=3.0,
            crashes_per_min=5.0,
            torn=0.4,
            kept=0.2,
            clock_steps_per_min=4.0,
            clock_drift=500e-6,
            outages_per_min=0.5,
        ),
    )
}
"""The presets, by name. None of them wipes disks: scenarios that survive that add it themselves."""


class Fault(msgspec.Struct, frozen=True, tag_field="fault"):
    """Base of scheduled faults; each is undone by itself after `lasts_s`."""

    at_s: float
    lasts_s: float


class Partition(Fault, frozen=True, tag="partition"):
    """Cut every a from every b."""

    a: tuple[str, ...]
    b: tuple[str, ...]
    one_way: bool


class Pause(Fault, frozen=True, tag="pause"):
    """Stop a node as SIGSTOP does."""

    node: str


class Slow(Fault, frozen=True, tag="slow"):
    """Hold a node's mail back."""

    node: str
    by_s: float


class Crash(Fault, frozen=True, tag="crash"):
    """Crash a node and restart it."""

    node: str
    tear: Tear
    wipe: bool
    calls: int = 0
    """The crash hits in this many changing disk calls from now on, 0 at once."""


class DiskError(Fault, frozen=True, tag="disk_error"):
    """Make a node's next changing disk call fail; it starts again at the end if that stopped it."""

    node: str
    failure: Failure


class DiskFull(Fault, frozen=True, tag="disk_full"):
    """Leave no room on a node's disk; a node that this stopped starts again at the end."""

    node: str


class ClockStep(Fault, frozen=True, tag="clock_step"):
    """Step a node's wall clock; nothing is undone."""

    node: str
    by_s: float


class Victim(NamedTuple):
    """What an outage does to one node: how its unsynced bytes fare, and how long after the crash it is back."""

    node: str
    tear: Tear
    down_s: float


class Outage(Fault, frozen=True, tag="outage"):
    """Crash every node at one instant; they come back one by one, as machines do that share a power line."""

    victims: tuple[Victim, ...]


AnyFault = Partition | Pause | Slow | Crash | DiskError | DiskFull | ClockStep | Outage


class FaultSchedule(msgspec.Struct, frozen=True):
    """Faults over a window, in order of instant. At `heals_s` everything is undone and the wires are calm."""

    faults: tuple[AnyFault, ...]
    heals_s: float

    @classmethod
    def generate(
        cls,
        seed: int,
        profile: FaultProfile,
        names: Sequence[str],
        *,
        start_s: float,
        end_s: float,
        down_max: int | None = None,
    ) -> FaultSchedule:
        """Draw a schedule from a profile that was drawn for the seed.

        Args:
            seed: Of the run.
            profile: Rates and lengths.
            names: Nodes that may be hit.
            start_s: Where the window begins.
            end_s: Where it ends and every fault is undone.
            down_max: Nodes crashed or paused at once, None for no bound. Outages take every node all the same.
        """
        rng = random.Random(f"{seed}/schedule")
        found: list[AnyFault] = []
        for rate, make in (
            (profile.partitions_per_min, _partition),
            (profile.pauses_per_min, _pause),
            (profile.slow_per_min, _slow),
            (profile.crashes_per_min, _crash),
            (profile.clock_steps_per_min, _clock_step),
            (profile.disk_errors_per_min, _disk_error),
            (profile.outages_per_min, _outage),
            (profile.disk_full_per_min, _disk_full),
        ):
            at_s = start_s
            while rate > 0.0:
                at_s += rng.expovariate(rate / 60.0)
                if at_s >= end_s:
                    break
                found.append(make(rng, profile, names, at_s))
        found.sort(key=lambda fault: fault.at_s)
        return cls(_bounded(found, down_max), end_s)

    def without(self, index: int) -> FaultSchedule:
        """The schedule less one fault: the step of a minimiser."""
        return FaultSchedule((*self.faults[:index], *self.faults[index + 1 :]), self.heals_s)

    def install(self, simulator: Simulator) -> None:
        """Plan every fault and the healing."""
        for fault in self.faults:
            _plan(simulator, fault)
        simulator.at(self.heals_s, simulator.make_whole)


def minimise(schedule: FaultSchedule, fails: Callable[[FaultSchedule], bool]) -> FaultSchedule:
    """Return a schedule that still fails and from which no single fault can be dropped.

    Args:
        schedule: One that fails.
        fails: Runs the scenario with a schedule; True if it still breaks. Called at most n * n times.
    """
    index = 0
    while index < len(schedule.faults):
        smaller = schedule.without(index)
        if fails(smaller):
            # What was kept so far may have become needless: look at everything again.
            schedule, index = smaller, 0
        else:
            index += 1
    return schedule


def _length(rng: random.Random, mean_s: float) -> float:
    return mean_s * rng.uniform(0.2, 2.0)


def _partition(rng: random.Random, profile: FaultProfile, names: Sequence[str], at_s: float) -> Partition:
    order = list(names)
    rng.shuffle(order)
    # One node cut off is as common as a split through the middle; a cut between two nodes leaves the others a bridge.
    size = rng.choice((1, 1, max(1, len(order) // 2), rng.randint(1, max(1, len(order) - 1))))
    a, b = order[:size], order[size:]
    if rng.random() < 0.25:
        a, b = order[:1], order[1:2]
    return Partition(at_s, _length(rng, profile.partition_s), tuple(a), tuple(b), rng.random() < 0.33)


def _pause(rng: random.Random, profile: FaultProfile, names: Sequence[str], at_s: float) -> Pause:
    return Pause(at_s, _length(rng, profile.pause_s), rng.choice(list(names)))


def _slow(rng: random.Random, profile: FaultProfile, names: Sequence[str], at_s: float) -> Slow:
    return Slow(at_s, _length(rng, 4 * profile.pause_s), rng.choice(list(names)), _length(rng, profile.slow_s))


def _crash(rng: random.Random, profile: FaultProfile, names: Sequence[str], at_s: float) -> Crash:
    tear = draw_tear(rng, profile)
    length_s, node, wipe = _length(rng, profile.down_s), rng.choice(list(names)), rng.random() < profile.wipe
    in_call = profile.in_call > 0 and rng.random() < profile.in_call
    return Crash(at_s, length_s, node, tear, wipe, rng.randint(1, 4) if in_call else 0)


def draw_tear(rng: random.Random, profile: FaultProfile) -> Tear:
    """Return what a crash under this profile does to unsynced bytes."""
    draw = rng.random()
    if draw < profile.torn:
        return rng.choice((Tear.TORN, Tear.SECTORS))
    return Tear.KEPT if draw < profile.torn + profile.kept else Tear.LOST


def _outage(rng: random.Random, profile: FaultProfile, names: Sequence[str], at_s: float) -> Outage:
    victims = tuple(Victim(name, draw_tear(rng, profile), _length(rng, profile.down_s)) for name in names)
    return Outage(at_s, max(victim.down_s for victim in victims), victims)


def _disk_error(rng: random.Random, profile: FaultProfile, names: Sequence[str], at_s: float) -> DiskError:
    failure = rng.choice((Failure.IO, Failure.FULL))
    return DiskError(at_s, _length(rng, profile.down_s), rng.choice(list(names)), failure)


def _disk_full(rng: random.Random, profile: FaultProfile, names: Sequence[str], at_s: float) -> DiskFull:
    return DiskFull(at_s, _length(rng, profile.full_s), rng.choice(list(names)))


def _clock_step(rng: random.Random, profile: FaultProfile, names: Sequence[str], at_s: float) -> ClockStep:
    return ClockStep(at_s, 0.0, rng.choice(list(names)), rng.uniform(-1.0, 1.0) * profile.clock_step_s)


def _bounded(faults: list[AnyFault], down_max: int | None) -> tuple[AnyFault, ...]:
    """Drop crashes and pauses that hit a node that is down, or that would take one too many down."""
    ends: dict[str, float] = {}
    kept: list[AnyFault] = []
    for fault in faults:
        if isinstance(fault, Crash | Pause | DiskError):
            ends = {node: end_s for node, end_s in ends.items() if end_s > fault.at_s}
            if fault.node in ends or (down_max is not None and len(ends) >= down_max):
                continue
            ends[fault.node] = fault.at_s + fault.lasts_s
        kept.append(fault)
    return tuple(kept)


def _plan(simulator: Simulator, fault: AnyFault) -> None:
    at_s, until_s = fault.at_s, fault.at_s + fault.lasts_s
    match fault:
        case Partition(a=a, b=b, one_way=one_way):

            def cut() -> None:
                number = simulator.partition(a, b, one_way=one_way)
                simulator.at(until_s, lambda: simulator.heal(number))

            simulator.at(at_s, cut)
        case Pause(node=node):
            simulator.at(at_s, lambda: simulator.pause(node))
            simulator.at(until_s, lambda: simulator.resume(node))
        case Slow(node=node, by_s=by_s):
            simulator.at(at_s, lambda: simulator.slow(node, by_s))
            simulator.at(until_s, lambda: simulator.slow(node, 0.0))
        case Crash(node=node, tear=tear, wipe=wipe, calls=calls):
            simulator.at(at_s, lambda: simulator.crash(node, tear, in_calls=calls))
            simulator.at(until_s, lambda: simulator.restart(node, wipe=wipe))
        case DiskError(node=node, failure=failure):
            simulator.at(at_s, lambda: simulator.fail_disk(node, failure))
            simulator.at(until_s, lambda: simulator.restart(node))
        case DiskFull(node=node):
            simulator.at(at_s, lambda: simulator.fill_disk(node))
            simulator.at(until_s, lambda: simulator.free_disk(node))
            simulator.at(until_s, lambda: simulator.restart(node))
        case ClockStep(node=node, by_s=by_s):
            simulator.at(at_s, lambda: simulator.step_clock(node, by_s))
        case Outage(victims=victims):
            simulator.at(at_s, lambda: simulator.black_out({victim.node: victim.tear for victim in victims}))
            for victim in victims:
                simulator.at(at_s + victim.down_s, partial(simulator.restart, victim.node))
