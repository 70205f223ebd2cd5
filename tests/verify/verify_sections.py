"""The sections of the verification, and how much of each kind has to be tried at least."""

from __future__ import annotations

from collections.abc import Iterable

from verify_answers import known_answers, providers_agree
from verify_downgrade import downgrades
from verify_handshake import handshakes
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
    )
}

LEAST = {
    "vectors": 1_500,
    "rounds": 0,
    "mutants": 14_000,
    "packets": 20_000,
    "attempts": 0,
    "states": 50_000,
    "variants": 0,
}
"""What a whole run tries at least, by unit; the order is that of the last line."""


def shortfalls(tallies: Iterable[Tally]) -> list[str]:
    """Say of what too little was tried."""
    found = dict.fromkeys(LEAST, 0)
    for tally in tallies:
        found[tally.unit] = found.get(tally.unit, 0) + tally.tried
    return [f"{found[unit]} {unit}, fewer than {least}" for unit, least in LEAST.items() if found[unit] < least]
