"""The harnesses of `make fuzz` on a fixed set of inputs, without atheris: seconds in every gate."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import fuzz
import msgspec
import pytest
from fuzz_harnesses import HARNESSES
from fuzz_machine import PACKET, STRANGER, Broken, MachineHarness, claim
from fuzz_mutation import mutate

from frys_node.base.types import NodeId
from membership.hearing import Hearing
from membership.messages import PACKETS, Gossip

INPUTS = 500
"""Changed inputs of each harness."""


@pytest.mark.parametrize("name", HARNESSES)
def test_nothing_is_wrong_with_any_of_the_fixed_inputs(name: str) -> None:
    """The golden seeds, and changes of them and of changes: decoders say no by their own errors, machines never."""
    harness = HARNESSES[name]
    pool = harness.seeds()
    for data in pool:
        harness.run(data)
    for seed in range(INPUTS):
        data = mutate(pool[seed % len(pool)], fuzz.INPUT_BYTES_MAX, seed)
        harness.run(data)
        if seed % 4 == 0:
            pool.append(data)


def test_the_same_seed_changes_an_input_in_the_same_way() -> None:
    """What is run here is the same everywhere."""
    for name, harness in HARNESSES.items():
        for data in harness.seeds():
            assert mutate(data, 4_096, 7) == mutate(data, 4_096, 7), name
            assert len(mutate(data, 64, 7)) <= 64


def test_a_planted_fault_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that takes everybody breaks a bound, and a name for oneself that others may write an identity."""
    everybody = PACKETS.encode(Gossip(tuple(claim(NodeId(f"{number:032x}")) for number in range(20))))
    harness = MachineHarness(0, [])
    harness.run(everybody)
    with monkeypatch.context() as planted:
        planted.setattr(Hearing, "_is_welcome", lambda self, update: True)
        with pytest.raises(Broken, match="members"):
            harness.run(everybody)
    with monkeypatch.context() as planted:
        planted.setattr(Hearing, "answer", lambda self, update, now_s: self._claims.merge(update, now_s))
        with pytest.raises(Broken, match="own"):
            harness.run(PACKETS.encode(Gossip((claim(NodeId("a" * 31 + "0"), incarnation=9, boot=6),))))
    harness.run(PACKETS.encode(Gossip((claim(STRANGER),))))


def test_a_claim_about_a_node_with_a_long_id_is_fed_like_any_other() -> None:
    """An id of as many letters as fit, each of two bytes: no input may end a harness for what its voices cannot do."""
    strange = msgspec.structs.replace(claim(STRANGER), node=NodeId("\u00e9" * 64))
    MachineHarness(PACKET, []).run(PACKETS.encode(Gossip((strange,))))


def test_a_saved_input_is_replayed_by_one_command(tmp_path: Path) -> None:
    """It needs no atheris, says that nothing is wrong when nothing is, and knows every harness by name."""
    assert set(fuzz.NAMES) == set(HARNESSES)
    saved = tmp_path / "found-crash-1"
    saved.write_bytes(HARNESSES["packets"].seeds()[0])
    command = [sys.executable, fuzz.__file__, "--replay", str(saved)]
    run = subprocess.run([*command, "packets"], check=False, capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout) == (0, f"packets: nothing is wrong with {saved}\n")
    run = subprocess.run([*command, "nothing"], check=False, capture_output=True, text=True, timeout=60)
    assert run.returncode == 2
    assert "no harness nothing" in run.stderr
