"""Name the seed of every planted error anew: ``PYTHONPATH=. .venv/bin/python tests/sim/planted_seeds.py``.

After a change of the engine. A seed that still shows its error stays; for the others the first one from 0 on is taken,
and `seeds_planted.txt` is written after each. Exit code 1 if an error was not found: it wants a shape of plans that
brings it out, or a directed run.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping

import test_replication_planted as data
import test_replication_planted_floors as floors
import test_replication_planted_recovery as recovery
import test_replication_planted_topology as topology
from planted import HEADER, SEEDS_FILE, Planted, named_seeds

SEEDS_MAX = 500
"""Seeds tried for one error."""

MODULES = (data, floors, topology, recovery)


def everything() -> dict[str, Planted]:
    """Return every planted error by its name."""
    return {name: planted for module in MODULES for name, planted in module.PLANTED.items()}


def find(planted: Planted, named: int | None, seeds_max: int) -> int | None:
    """Return the named seed if it shows the error, else the lowest that does, or None."""
    first = () if named is None else (named,)
    return next((seed for seed in (*first, *range(seeds_max)) if planted.is_caught(seed)), None)


def write(seeds: Mapping[str, int]) -> None:
    """Write the seeds in the order of the errors."""
    lines = [f"{seeds[name]} {name}\n" for name in everything() if name in seeds]
    SEEDS_FILE.write_text(HEADER + "".join(lines), encoding="utf-8")


def main() -> int:
    """Try every named seed, or those of some errors, and find another where it shows nothing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these errors")
    parser.add_argument("--seeds", type=int, default=SEEDS_MAX, help=f"seeds to try for each (default {SEEDS_MAX})")
    arguments = parser.parse_args()
    planted = everything()
    unknown = [name for name in arguments.names if name not in planted]
    if unknown:
        parser.error(f"there is no planted error '{unknown[0]}'; there are: {', '.join(planted)}")
    seeds, missing = dict(named_seeds()), []
    for name in arguments.names or planted:
        begun_s = time.process_time()
        named = seeds.pop(name, None)
        found = find(planted[name], named, arguments.seeds)
        told = "not found" if found is None else f"seed {found}" + ("" if found == named else f", was {named}")
        print(f"{name}: {told} ({time.process_time() - begun_s:.1f} CPU-s)", flush=True)
        if found is None:
            missing.append(name)
        else:
            seeds[name] = found
        write(seeds)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
