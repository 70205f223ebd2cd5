"""The replay window and the keyrings in any order of events: Hypothesis drives them beside a judge."""

from __future__ import annotations

import traceback

import test_verify_keyring
import test_verify_window
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, run_state_machine_as_test
from verify_tally import Tally

WINDOW_RUNS = 150
WINDOW_STEPS = 40
KEY_RUNS = 120
KEY_STEPS = 50


def _counting(machine: type[RuleBasedStateMachine], tally: Tally) -> type[RuleBasedStateMachine]:
    """Return the machine with each of its steps counted, once all invariants held behind it."""

    class Counting(machine):  # type: ignore[misc, valid-type]
        @invariant()
        def zz_is_counted(self) -> None:
            tally.tried += 1

    return Counting


def drive(machine: type[RuleBasedStateMachine], name: str, runs: int, steps: int) -> Tally:
    """Drive a machine through so many runs of at most so many steps; what it finds is shrunk and told."""
    tally = Tally(name, "steps")
    chosen = settings(
        max_examples=runs,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    try:
        run_state_machine_as_test(_counting(machine, tally), settings=chosen)
    except Exception as error:  # noqa: BLE001 (whatever a machine raises is what was looked for)
        told = [line.strip() for line in traceback.format_exception_only(error)]
        tally.wrong.append("; ".join([*told, *getattr(error, "__notes__", ())])[:4_000])
    tally.notes.append(f"{runs} runs of up to {steps} steps")
    return tally


def machines(window_runs: int = WINDOW_RUNS, key_runs: int = KEY_RUNS) -> list[Tally]:
    """Drive both."""
    return [
        drive(test_verify_window.Window, "replay window, any order", window_runs, WINDOW_STEPS),
        drive(test_verify_keyring.Keys, "keyrings, any order", key_runs, KEY_STEPS),
    ]
