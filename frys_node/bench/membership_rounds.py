"""One round of each scenario of the membership benchmark: hurt both clusters in the same way and read what they say.

A round returns a sample for each side: metric -> figure, None where the thing waited for did not happen in time. Both
sides are struck at the same time, so that both see the same weather on the machine; they share nothing else. A cluster
that has found its dead starts them again at once and recovers while the other is still being watched.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from frys_node.bench import namespaces
from frys_node.bench.membership_observer import ACCUSED, ALIVE, DEAD, EVENT, LEFT, STALLED, SUSPECT, Saying
from frys_node.bench.membership_rig import Arena, Node, Side

Sample = dict[str, float | None]
Samples = dict[str, Sample]

WATCH_S = 0.25
"""Progress is shown this often while a round waits."""

LATER_S = 3.0
"""After a leave, how long a wrong word about the one that left is waited for."""

BUSY_PER_CORE = 2
FLAPPERS = 4
FLAP_OFF_S, FLAP_ON_S = 8.0, 0.5
PARTITION_S_MAX = 40.0
HEAL_S_MAX = 90.0
QUIET_S = 6.0
QUIET_S_MAX = 60.0


class Spec(NamedTuple):
    """What one scenario asks of its round."""

    seconds: float = 0.0
    """How long the fault lasts."""
    limit_s: float = 40.0
    """How long the outcome is waited for."""
    loss: int = 0
    """Percent of packets lost at each node meanwhile."""
    is_busy: bool = False
    event: bool = False
    """User events are read."""
    is_cut: bool = False
    """Flappers are cut off and run on; otherwise they are stopped, and their kernels answer."""


Turn = Callable[[Arena, Side, random.Random, Spec], Sample]
Play = Callable[[Arena, random.Random, Spec], Samples]


def in_turn(turn: Turn) -> Play:
    """Play a round on one side after the other, in an order drawn anew: for what is over in an instant."""

    def play(arena: Arena, rng: random.Random, spec: Spec) -> Samples:
        sides = list(arena.sides.values())
        rng.shuffle(sides)
        return {side.label: turn(arena, side, rng, spec) for side in sides}

    return play


def together(turn: Turn) -> Play:
    """Play a round on both sides at once, each with its own choices; a side that is through recovers meanwhile."""

    def play(arena: Arena, rng: random.Random, spec: Spec) -> Samples:
        with ThreadPoolExecutor(len(arena.sides)) as pool:
            own = {label: random.Random(rng.random()) for label in arena.sides}
            turns = {label: pool.submit(turn, arena, side, own[label], spec) for label, side in arena.sides.items()}
            return {label: each.result() for label, each in turns.items()}

    return play


def kill(arena: Arena, side: Side, rng: random.Random, spec: Spec) -> Sample:
    """`kill -9` of a random node; it is started again without being waited for."""
    victim = rng.choice(side.nodes[1:])
    survivors = side.others(victim)
    sample = _death(arena, side, victim, survivors, victim.kill(), spec)
    side.start(victim)
    return sample


def silence(arena: Arena, side: Side, rng: random.Random, spec: Spec) -> Sample:
    """A node's packets are dropped in both directions, without a word to anybody."""
    victim = rng.choice(side.nodes[1:])
    survivors = side.others(victim)
    begun = time.monotonic()
    namespaces.isolate(victim.name)
    try:
        sample = _death(arena, side, victim, survivors, begun, spec)
        # A host that returns is another scenario: this one starts anew, so that the next round need not wait for it.
        victim.kill()
    finally:
        namespaces.forget(victim.name, namespaces.CUT)
    side.start(victim)
    return sample


def _death(arena: Arena, side: Side, victim: Node, survivors: list[str], begun: float, spec: Spec) -> Sample:
    def known() -> dict[str, float]:
        return arena.observer.firsts(victim.name, DEAD, survivors, begun)

    _until(arena, side, f"{victim.name} to be dead at all", lambda: len(known()) == len(survivors), spec.limit_s)
    dead = known()
    said = arena.observer.since(begun)
    accused = [s.at_s for s in said if s.subject == victim.name and s.state in {SUSPECT, ACCUSED}]
    return {
        "first_suspect_s": accused[0] - begun if accused else None,
        "first_dead_s": min(dead.values()) - begun if dead else None,
        "all_dead_s": max(dead.values()) - begun if len(dead) == len(survivors) else None,
        "false_deaths": float(_count(said, {DEAD}, set(survivors), set(survivors))),
    }


def _count(said: list[Saying], states: set[str], subjects: set[str], by: set[str]) -> int:
    """Count what some said about others in one of these states."""
    return sum(
        saying.state in states
        and saying.subject in subjects
        and saying.observer in by
        and saying.observer != saying.subject
        for saying in said
    )


def _until(arena: Arena, side: Side | None, what: str, probe: Callable[[], bool], limit_s: float) -> bool:
    """Wait, with progress, until something is so; False if it is not in time."""
    label = side.label if side else "both"
    begun = time.monotonic()
    while not arena.observer.wait(lambda _: probe(), WATCH_S):
        waited_s = time.monotonic() - begun
        if waited_s > limit_s:
            return False
        arena.console.progress(f"  {label}: {what} ({waited_s:.1f} s)", key=label + what.partition(" ")[2])
    return True


def _pass(arena: Arena, what: str, seconds: float) -> None:
    """Let time go by, with progress."""
    end_s = time.monotonic() + seconds
    while (left_s := end_s - time.monotonic()) > 0:
        arena.console.progress(f"  {what} ({left_s:.0f} s left)", key=what)
        time.sleep(min(1.0, left_s))


def pause(arena: Arena, rng: random.Random, spec: Spec) -> Samples:
    """SIGSTOP of a random node of each side for a while, then SIGCONT."""
    victims = {side.label: rng.choice(side.nodes[1:]) for side in arena.sides.values()}
    begun = time.monotonic()
    for victim in victims.values():
        victim.signal(signal.SIGSTOP)
    try:
        _pass(arena, "paused", spec.seconds)
    finally:
        resumed = {label: victim.signal(signal.SIGCONT) for label, victim in victims.items()}
    return {
        side.label: _pause_sample(arena, side, victims[side.label], begun, resumed[side.label], spec)
        for side in arena.sides.values()
    }


def _pause_sample(arena: Arena, side: Side, victim: Node, begun: float, resumed: float, spec: Spec) -> Sample:
    survivors = side.others(victim)
    is_back = _until(
        arena,
        side,
        f"{victim.name} to be back at all",
        lambda: arena.observer.record.agree(survivors, [victim.name]),
        spec.limit_s,
    )
    # A woken node that accuses does so from timers that ran out in its sleep: soon, or never.
    _pass(arena, "accusations by the woken", QUIET_S)
    said = arena.observer.since(begun)
    returns = [s.at_s for s in said if s.subject == victim.name and s.state == ALIVE and s.at_s >= resumed]
    return {
        "marked_dead_at": float(len(arena.observer.firsts(victim.name, DEAD, survivors, begun))),
        "not_stalled_at": float(len(survivors) - len(arena.observer.firsts(victim.name, STALLED, survivors, begun))),
        "back_s": max([resumed, *returns]) - resumed if is_back else None,
        "accusations": float(_count(said, {SUSPECT, ACCUSED, DEAD}, set(survivors), {victim.name})),
        "false_deaths": float(_count(said, {DEAD}, set(survivors), set(survivors))),
    }


def leave(arena: Arena, side: Side, rng: random.Random, spec: Spec) -> Sample:
    """A graceful leave; the node then starts anew, as a new member with the old name."""
    leaver = rng.choice(side.nodes[1:])
    survivors = side.others(leaver)
    begun = time.monotonic()
    side.request_leave(leaver)

    def known() -> dict[str, float]:
        return arena.observer.firsts(leaver.name, LEFT, survivors, begun)

    _until(arena, side, f"{leaver.name} to have left at all", lambda: len(known()) == len(survivors), spec.limit_s)
    left = known()
    goodbye = arena.observer.firsts(leaver.name, LEFT, [leaver.name], begun)
    _until(arena, side, f"{leaver.name} to end", lambda: not leaver.is_running, spec.limit_s)
    _pass(arena, "wrong words about the one that left", LATER_S)
    said = arena.observer.since(begun)
    if leaver.is_running:
        leaver.kill()
    side.forget(leaver)
    side.start(leaver)
    is_whole = len(left) == len(survivors)
    first_s = min([*left.values(), *goodbye.values()], default=begun)
    return {
        "goodbye_to_all_s": max(left.values()) - first_s if is_whole else None,
        "request_to_all_s": max(left.values()) - begun if is_whole else None,
        "wrong_words": float(_count(said, {DEAD}, {leaver.name}, set(survivors))),
        "false_deaths": float(_count(said, {DEAD}, set(survivors), set(survivors))),
    }


def event(arena: Arena, side: Side, rng: random.Random, spec: Spec) -> Sample:
    """A user event from a random node until every node has told its readers."""
    mark = f"mark-{rng.randrange(10**9)}"
    sender = rng.choice(side.nodes)
    begun = time.monotonic()
    if not side.send_event(sender, mark):
        return {"to_all_s": None}
    names = side.running()

    def heard() -> dict[str, float]:
        return arena.observer.firsts(mark, EVENT, names, begun)

    _until(arena, side, "the event at all", lambda: len(heard()) == len(names), spec.limit_s)
    instants = heard()
    # From the first that shows it: starting the command that sends it costs more than the cluster does.
    return {"to_all_s": max(instants.values()) - min(instants.values()) if len(instants) == len(names) else None}


def idle(arena: Arena, rng: random.Random, spec: Spec) -> Samples:
    """Nothing happens: what leaves each node, what it costs, and whether anybody is declared dead."""
    for side in arena.sides.values():
        side.wait(arena.console, "nothing to be on its way", side.is_quiet, QUIET_S_MAX)
    _pass(arena, "quiet before the count", QUIET_S)
    nodes = [node for side in arena.sides.values() for node in side.nodes]
    for node in nodes:
        namespaces.count_traffic(node.name)
    begun = time.monotonic()
    before = {node.name: node.usage() for node in nodes}
    _pass(arena, "idle", spec.seconds)
    window_s = time.monotonic() - begun
    samples: Samples = {}
    for side in arena.sides.values():
        count = len(side.nodes)
        sent = [namespaces.counted(node.name) for node in side.nodes]
        usage = [node.usage() for node in side.nodes]
        cpu_s = sum(now.cpu_s - before[node.name].cpu_s for node, now in zip(side.nodes, usage, strict=True))
        samples[side.label] = {
            "udp_bps": sum(each["udp"][1] for each in sent) / window_s / count,
            "all_bps": sum(each["udp"][1] + each["tcp"][1] for each in sent) / window_s / count,
            "packets_ps": sum(each["udp"][0] + each["tcp"][0] for each in sent) / window_s / count,
            "cpu_percent": cpu_s / window_s / count * 100,
            "rss_mib": sum(each.rss_mib for each in usage) / count,
            "false_deaths": float(_false_deaths(arena, side, begun)),
        }
    for node in nodes:
        namespaces.forget(node.name, namespaces.COUNT)
    return samples


def _false_deaths(arena: Arena, side: Side, begun: float) -> int:
    names = set(side.running())
    return _count(arena.observer.since(begun), {DEAD}, names, names)


def endure(arena: Arena, rng: random.Random, spec: Spec) -> Samples:
    """Packets are lost at every node (see `Spec.loss`) and nobody dies: every death is false."""
    begun = time.monotonic()
    _pass(arena, f"{spec.loss} % of packets lost", spec.seconds)
    samples: Samples = {}
    for side in arena.sides.values():
        names = set(side.running())
        samples[side.label] = {
            "false_deaths": float(_false_deaths(arena, side, begun)),
            "suspicions": float(_count(arena.observer.since(begun), {SUSPECT, ACCUSED}, names, names)),
        }
    return samples


def flap(arena: Arena, rng: random.Random, spec: Spec) -> Samples:
    """A few nodes go and come in turns for a while (see `Spec.is_cut`); counts the deaths that are announced."""
    flappers = {side.label: rng.sample(side.nodes[1:], FLAPPERS) for side in arena.sides.values()}
    everybody = [node for nodes in flappers.values() for node in nodes]
    begun = time.monotonic()
    while time.monotonic() - begun < spec.seconds:
        for node in everybody:
            namespaces.isolate(node.name) if spec.is_cut else node.signal(signal.SIGSTOP)
        try:
            _pass(arena, "flapping", FLAP_OFF_S)
        finally:
            for node in everybody:
                namespaces.forget(node.name, namespaces.CUT) if spec.is_cut else node.signal(signal.SIGCONT)
        time.sleep(FLAP_ON_S)
    samples: Samples = {}
    for side in arena.sides.values():
        names, hurt = set(side.running()), {node.name for node in flappers[side.label]}
        # A death that is known and held back has woken nobody: that is what damping is for.
        said = [saying for saying in arena.observer.since(begun) if not saying.is_held]
        samples[side.label] = {
            "death_events": float(_count(said, {DEAD}, hurt, names)),
            "false_deaths": float(_count(said, {DEAD}, names - hurt, names - hurt)),
        }
    return samples


def partition(arena: Arena, rng: random.Random, spec: Spec) -> Samples:
    """Both clusters are cut in halves until each half has buried the other (or for a while), then healed."""
    halves = {side.label: _halves(side, rng) for side in arena.sides.values()}
    for left, right in halves.values():
        for near, far in ((left, right), (right, left)):
            for node in near:
                namespaces.cut(node.name, [other.host for other in far])
    try:
        _until(
            arena,
            None,
            "each half to bury the other",
            lambda: all(_is_split(arena, *pair) for pair in halves.values()),
            PARTITION_S_MAX,
        )
        buried = {label: _is_split(arena, *pair) for label, pair in halves.items()}
        # The phase of slow reconnect timers decides what is seen: draw it.
        _pass(arena, "partitioned", rng.uniform(0.0, spec.seconds))
    finally:
        healed = time.monotonic()
        for side in arena.sides.values():
            for node in side.nodes:
                namespaces.forget(node.name, namespaces.CUT)
    _until(arena, None, "healing", lambda: all(_is_whole(arena, side) for side in arena.sides.values()), HEAL_S_MAX)
    samples: Samples = {}
    for side in arena.sides.values():
        names = set(side.running())
        firsts: dict[tuple[str, str], float] = {}
        for said in arena.observer.since(healed):
            if said.state == ALIVE and said.observer in names:
                firsts.setdefault((said.observer, said.subject), said.at_s)
        is_good = _is_whole(arena, side) and buried[side.label]
        samples[side.label] = {"heal_s": max(firsts.values(), default=healed) - healed if is_good else None}
    return samples


def _halves(side: Side, rng: random.Random) -> tuple[list[Node], list[Node]]:
    nodes = rng.sample(side.nodes, len(side.nodes))
    return nodes[: len(nodes) // 2], nodes[len(nodes) // 2 :]


def _is_split(arena: Arena, left: list[Node], right: list[Node]) -> bool:
    record, near, far = arena.observer.record, [n.name for n in left], [n.name for n in right]
    return record.agree(near, far, DEAD) and record.agree(far, near, DEAD)


def _is_whole(arena: Arena, side: Side) -> bool:
    names = side.running()
    return arena.observer.record.agree(names, names)


@contextlib.contextmanager
def weather(arena: Arena, spec: Spec) -> Iterator[None]:
    """Lose packets at every node, or keep the processors busy, while a scenario runs."""
    nodes = [node for side in arena.sides.values() for node in side.nodes] if spec.loss else []
    spinners: list[subprocess.Popen[bytes]] = []
    if spec.is_busy:
        count = BUSY_PER_CORE * (os.cpu_count() or 1)
        spinners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        for node in nodes:
            namespaces.lose(node.name, spec.loss)
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()
        for node in nodes:
            with contextlib.suppress(namespaces.ToolFailed):
                namespaces.forget(node.name, namespaces.LOSS)
