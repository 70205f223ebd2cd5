"""The sections of the verification, and how much of each kind has to be tried at least."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from verify_answers import known_answers, providers_agree
from verify_decoders import decoders
from verify_downgrade import downgrades
from verify_flood import floods
from verify_handshake import handshakes
from verify_machines import machines
from verify_model import models
from verify_packets import packets, replays
from verify_tally import Section, Tally

ROUNDS = 1_000
"""Keys of one Kem provider that the other one makes secrets for, in each direction."""

SECTIONS = {
    section.name: section
    for section in (
        Section("answers", known_answers),
        Section("providers", lambda: providers_agree(ROUNDS)),
        Section("handshakes", handshakes),
        Section("packets", packets),
        Section("replays", replays),
        Section("downgrades", downgrades),
        Section("models", models),
        # In the gate: test_verify_window.py and test_verify_keyring.py, fixed inputs in tests/fuzz, a shorter flood.
        Section("machines", machines, is_in_gate=False),
        Section("decoders", decoders, is_in_gate=False),
        Section("flood", floods, is_in_gate=False),
    )
}

GATE_LEAST = {
    "vectors": 3_700,
    "rounds": 2_000,
    "mutants": 21_000,
    "packets": 27_000,
    "attempts": 44,
    "states": 64_000,
    "variants": 19,
}
"""What the sections of the gate try at least, by unit."""

LEAST = GATE_LEAST | {"steps": 8_000, "inputs": 20_000, "connections": 2_000}
"""What a whole run tries at least, by unit; the order is that of the last line."""


def shortfalls(tallies: Iterable[Tally], promised: Mapping[str, int] = LEAST) -> list[str]:
    """Say of what too little was tried: of a unit in all, or nothing at all in one place."""
    found = dict.fromkeys(promised, 0)
    idle: list[str] = []
    for tally in tallies:
        found[tally.unit] = found.get(tally.unit, 0) + tally.tried
        idle += [f"nothing was tried: {tally.section}"] * (not tally.tried and not tally.wrong)
    return idle + [
        f"{found[unit]} {unit}, fewer than {least}" for unit, least in promised.items() if found[unit] < least
    ]
