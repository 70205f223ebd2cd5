"""Fuzzes the decoders and the machines behind them: `make fuzz`.

Each harness runs in a process of its own under atheris (libFuzzer), bounded by inputs and by time. The first uncaught
exception, hang or memory beyond the limit ends it: the input is saved, and the one command that replays it is printed.
Replaying needs no atheris.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE), str(ROOT / "tests" / "unit" / "membership")]

NAMES = (
    *("packets", "syncs", "rumours", "catch_up", "seal", "frames", "channel", "resp", "saved", "sealed"),
    *("topology", "tokens", "http", "bearers"),
)
INSTRUMENTED = [
    *("membership", "frys_node.wire", "frys_node.secure", "frys_node.channel", "frys_node.base", "snapshots"),
    *("frys_node.plugins.cache.resp", "frys_node.plugins.network", "frys_node.plugins.vector.filters", "balancer"),
]
INPUT_BYTES_MAX = 16_384
INPUT_SECONDS_MAX = 20
"""An input that takes longer is a hang."""
MEMORY_MB_MAX = 1_024


class Row(NamedTuple):
    """What one harness did."""

    name: str
    code: int
    inputs: int
    coverage: int
    features: int
    seconds: float


def fuzz_one(name: str, folder: Path, inputs: int, seconds: int, seed: int) -> None:
    """Run one harness in this process; libFuzzer ends it."""
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED):
        from fuzz_harnesses import HARNESSES
    from fuzz_mutation import mutate

    harness = HARNESSES[name]
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(harness.seeds()):
        (corpus / f"seed-{number:02}").write_bytes(data)

    def change(data: bytes, size_max: int, step: int) -> bytes:
        return mutate(data, size_max, step, lambda raw: atheris.Mutate(raw, size_max))

    flags = [
        f"-runs={inputs}",
        f"-max_total_time={seconds}",
        f"-seed={seed}",
        f"-max_len={INPUT_BYTES_MAX}",
        f"-timeout={INPUT_SECONDS_MAX}",
        f"-rss_limit_mb={MEMORY_MB_MAX}",
        f"-artifact_prefix={folder}/found-",
        "-len_control=0",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *flags, str(corpus)], harness.run, custom_mutator=change)
    atheris.Fuzz()


def fuzz(name: str, folder: Path, inputs: int, seconds: int, seed: int) -> Row:
    """Run one harness in a process of its own and read what it says."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("found-*"):
        old.unlink()
    started = time.monotonic()
    bounds = ["--inputs", str(inputs), "--seconds", str(seconds), "--seed", str(seed), "--folder", str(folder.parent)]
    command = [sys.executable, __file__, *bounds, "--child", name]
    with (folder / "log").open("w+b") as log:
        code = subprocess.run(command, cwd=ROOT, check=False, stdout=log, stderr=log).returncode
        log.seek(0)
        text = log.read().decode(errors="replace")
    seen = re.findall(r"cov: (\d+) ft: (\d+)", text)
    done = re.findall(r"stat::number_of_executed_units: *(\d+)|^#(\d+)\t", text, re.MULTILINE)
    coverage, features = map(int, seen[-1]) if seen else (0, 0)
    count = max((int(a or b) for a, b in done), default=0)
    return Row(name, code, count, coverage, features, time.monotonic() - started)


def report(row: Row, folder: Path) -> None:
    """Say what a harness found, and how to see it again."""
    found = sorted(folder.glob("found-*"))
    print("\n".join((folder / "log").read_text(errors="replace").splitlines()[-40:]))
    print(f"\n{row.name}: ended with {row.code}; the log is {folder / 'log'}")
    for path in found:
        print(f"replay: {Path(sys.executable)} {Path(__file__)} --replay {path} {row.name}")


def main() -> int:
    """Fuzz, or replay one input."""
    parser = argparse.ArgumentParser(description="Fuzz the decoders and the machines behind them.")
    parser.add_argument("names", nargs="*", help=f"harnesses: {', '.join(NAMES)}; all of them without any")
    parser.add_argument("--inputs", type=int, default=200_000, help="inputs of each harness")
    parser.add_argument("--seconds", type=int, default=600, help="longest time of each harness")
    parser.add_argument("--least", type=int, default=0, help="inputs of all together below which the run has failed")
    parser.add_argument("--seed", type=int, default=1, help="of libFuzzer; the corpus of former runs counts as well")
    parser.add_argument("--folder", type=Path, default=ROOT / ".cache" / "fuzz", help="corpora, logs and findings")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run one saved input without atheris")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    names = chosen.names or NAMES
    unknown = set(names) - set(NAMES)
    if unknown:
        parser.error(f"no harness {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    if chosen.replay is not None:
        from fuzz_harnesses import HARNESSES

        HARNESSES[names[0]].run(chosen.replay.read_bytes())
        print(f"{names[0]}: nothing is wrong with {chosen.replay}")
        return 0
    if chosen.child:
        fuzz_one(names[0], chosen.folder / names[0], chosen.inputs, chosen.seconds, chosen.seed)
        return 0
    rows = []
    print(f"{'harness':<10} {'inputs':>9} {'edges':>7} {'features':>9} {'seconds':>8}", flush=True)
    for name in names:
        row = fuzz(name, chosen.folder / name, chosen.inputs, chosen.seconds, chosen.seed)
        rows.append(row)
        print(f"{name:<10} {row.inputs:>9} {row.coverage:>7} {row.features:>9} {row.seconds:>8.0f}", flush=True)
        if row.code:
            report(row, chosen.folder / name)
    bad = [row.name for row in rows if row.code]
    total = sum(row.inputs for row in rows)
    print(f"{total} inputs in all; {'FAILED: ' + ', '.join(bad) if bad else 'nothing found'}")
    if total < chosen.least:
        print(f"FAILED: fewer than the {chosen.least} inputs that were asked for; give each harness more --seconds")
    return 1 if bad or total < chosen.least else 0


if __name__ == "__main__":
    sys.exit(main())
