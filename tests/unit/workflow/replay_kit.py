"""A virtual-time driver for one host: no trio, no store, every schedule from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from frys_node.plugins.workflow.api import Run, Step, Workflow
from frys_node.plugins.workflow.journal import DeadlineFired, Ended, Entry, Signalled, Started, StepDone, StepStopped
from frys_node.plugins.workflow.journal import StepFailed as StepFailedEntry
from frys_node.plugins.workflow.machine import RunStep
from frys_node.plugins.workflow.replay import Host
from frys_node.plugins.workflow.values import decode_value, encode_value

RUN = "kit-run"


def make_host(workflow: Workflow, started: Started) -> Host:
    """A host as the engine makes it."""

    async def main() -> object:
        return await workflow(host.context, workflow.decode_input(started.input))

    host = Host(started.run, main)
    host.context = Run(host, run=started.run, workflow=workflow, started_at=started.at)
    return host


class Driver:
    """Runs a workflow to its end; each turn a seeded choice picks what happens next."""

    def __init__(
        self,
        workflow: Workflow,
        value: Any = None,
        *,
        seed: int = 0,
        signals: Sequence[tuple[str, Any]] = (),
        journal: Sequence[Entry] = (),
        on_body: Callable[[str], None] | None = None,
    ) -> None:
        self.workflow = workflow
        self.rng = random.Random(seed)
        self.journal: list[Entry] = list(journal)
        self.bodies: list[str] = []
        self.on_body = on_body
        self.signals = list(signals)
        self.open: dict[str, RunStep] = {}
        self.stopping: dict[str, RunStep | None] = {}
        started = (
            journal[0] if journal else Started(1000.0, RUN, "default", workflow.name, "1", encode_value(value, ""))
        )
        assert isinstance(started, Started)
        self.started = started
        self.host = make_host(workflow, started)
        if journal:
            self.signals = self.signals[sum(isinstance(entry, Signalled) for entry in journal) :]
            self.host.replay(self.journal)
            self._after([])
        else:
            self.feed(started)

    def feed(self, entry: Entry) -> None:
        """Apply one entry and journal it."""
        self.host.apply(entry)
        self._after([entry])

    def _after(self, entries: list[Entry]) -> None:
        self.journal += [*entries, *self.host.notes]
        self.host.notes = []
        for effect in self.host.take_effects():
            if isinstance(effect, RunStep):
                self.open[effect.id] = effect
            else:
                self.stopping[effect.id] = self.open.pop(effect.id, None)

    def forget(self) -> None:
        """Evict and rebuild, keeping bodies that run."""
        assert self.host.evict(), "a branch was left over"
        self.host = make_host(self.workflow, self.started)
        self.host.replay(self.journal)
        assert self.host.failure is None, self.host.failure
        for effect in self.host.take_effects():
            if isinstance(effect, RunStep):
                self.open.setdefault(effect.id, effect)
            else:
                self.stopping.setdefault(effect.id, None)

    def turn(self) -> bool:
        """Let one thing happen; False when the run is over or stuck."""
        host = self.host
        if host.ended is not None or host.failure is not None:
            return False
        choices: list[str] = [*self.open, *(f"stop {id_}" for id_ in self.stopping)]
        if self.signals:
            choices.append("signal")
        if host.wake_at_s is not None:
            choices.append("deadline")
        if not choices:
            return False
        choice = self.rng.choice(choices)
        if choice == "signal":
            name, value = self.signals.pop(0)
            self.feed(Signalled(host.now, f"s{len(self.signals)}", name, encode_value(value, "")))
        elif choice == "deadline":
            wake = host.wake_at_s
            assert wake is not None
            at = max(host.now, wake)
            self.feed(DeadlineFired(at, host.due(at)[0]))
        elif choice.startswith("stop "):
            id_ = choice[5:]
            effect = self.stopping.pop(id_)
            if effect is not None and host.is_open(id_) and self.rng.random() < 0.4:
                self.body(effect)  # it succeeded (or failed) in spite of being told to stop
            elif host.is_open(id_):
                call = host.ledger.calls[id_.partition("/")[0]]
                self.feed(StepStopped(host.now, id_, call.step.name))
        else:
            self.body(self.open.pop(choice))
        return True

    def body(self, effect: RunStep) -> None:
        """Run a body (synchronously: bodies of these tests are plain functions) and deliver its outcome."""
        step: Step = effect.step
        self.bodies.append(effect.id)
        at = self.host.now + 1
        if not self.host.is_open(effect.id):
            return
        try:
            value = encode_value(step.function(*effect.args, **effect.kwargs), "result")
        except RuntimeError as error:
            failed = StepFailedEntry(at, effect.id, step.name, effect.crc, "RuntimeError", str(error), 1, at)
            self.feed(failed)
            return
        self.feed(StepDone(at, effect.id, step.name, effect.crc, value, 1, at))

    def finish(self) -> Ended:
        """Turn until the end and return it."""
        while self.turn():
            pass
        assert self.host.failure is None, self.host.failure
        assert self.host.ended is not None, "the run is stuck"
        return self.host.ended

    def result(self) -> Any:
        """The completed run's output."""
        ended = self.finish()
        assert ended.status == "completed", ended
        return decode_value(ended.value)


def replayed(workflow: Workflow, journal: Sequence[Entry]) -> Host:
    """A fresh host fed from a journal."""
    started = journal[0]
    assert isinstance(started, Started)
    host = make_host(workflow, started)
    host.replay(journal)
    return host
