"""What decoders do with any bytes: a short run of the fuzz harnesses under atheris; `make fuzz` is the long one."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path

import fuzz
from verify_tally import Tally

HARNESSES = ("frames", "packets", "seal", "tokens", "bearers", "saved", "topology", "http")
"""Frames, packets (the machine behind them too), tokens of both kinds, manifests, topology messages, HTTP and JSON."""

INPUTS = 3_000
"""Of each harness."""

SECONDS_MAX = 30
"""Longest time of each, its start not counted."""

SEED = 1

Fuzz = Callable[[str, Path, int, int, int], fuzz.Row]


def decoders(run: Fuzz = fuzz.fuzz, inputs: int = INPUTS) -> list[Tally]:
    """Run each harness in a process of its own, from its seeds alone.

    Raises:
        ModuleNotFoundError: atheris is missing.
    """
    if run is fuzz.fuzz and importlib.util.find_spec("atheris") is None:
        raise ModuleNotFoundError("atheris is missing: make verify brings it, or .ci/install requirements-fuzz.lock")
    with tempfile.TemporaryDirectory(prefix="frys-verify-") as home:
        return [
            _judge(run(name, Path(home) / name, inputs, SECONDS_MAX, SEED), Path(home) / name) for name in HARNESSES
        ]


def _judge(row: fuzz.Row, folder: Path) -> Tally:
    tally = Tally(f"decoders under atheris: {row.name}", "inputs")
    tally.tried = row.inputs
    if row.code:
        log = folder / "log"
        said = log.read_text(errors="replace").splitlines()[-12:] if log.exists() else []
        replay = f"run make fuzz, or tests/fuzz/fuzz.py {row.name}, to keep the input"
        tally.wrong.append("; ".join([f"ended with {row.code}: {replay}", *said]))
    tally.notes.append(f"{row.coverage} edges, {row.features} features")
    return tally
