"""Runs the verification and prints what was tried, what of it deviated as written down, and what nothing explains.

``make verify`` runs all of it; ``verify.py NAME...`` runs some sections. Exit code 1 means that something was accepted
that nothing explains, that an attack on a broken model was not found, that a call failed beside the flood, or that less
was tried than was promised.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE), str(ROOT / "tests" / "fuzz"), str(ROOT / "tests" / "unit" / "membership")]

from verify_sections import LEAST, SECTIONS, shortfalls  # noqa: E402 - the path comes first
from verify_tally import HEADER, Tally, row, timed  # noqa: E402 - the path comes first


def main() -> int:
    """Run the sections that were asked for."""
    parser = argparse.ArgumentParser(description="Verify the channel, the packets, the keys and the model behind them.")
    parser.add_argument("names", nargs="*", help=f"sections: {', '.join(SECTIONS)}; all of them without any")
    parser.add_argument("--json", action="store_true", help="print counts and findings as JSON")
    chosen = parser.parse_args()
    unknown = set(chosen.names) - set(SECTIONS)
    if unknown:
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    names = chosen.names or list(SECTIONS)
    begun_s, load = time.monotonic(), os.getloadavg()[0]
    if not chosen.json:
        print(row(HEADER), flush=True)
    tallies: list[Tally] = []
    for name in names:
        try:
            found = timed(SECTIONS[name])
        except (FileNotFoundError, ModuleNotFoundError) as error:
            found = [Tally(name, "-")]
            found[0].wrong.append(f"it could not run: {error}")
        tallies += found
        if not chosen.json:
            print("\n".join(line for tally in found for line in tally.lines()), flush=True)
    missing = shortfalls(tallies, LEAST if set(names) == set(SECTIONS) else {})
    wrong = sum(len(tally.wrong) for tally in tallies) + len(missing)
    totals = {unit: sum(tally.tried for tally in tallies if tally.unit == unit) for unit in LEAST}
    cpu_s = sum(tally.cpu_s for tally in tallies)
    if chosen.json:
        about = {"totals": totals, "missing": missing, "wrong": wrong, "cpu_s": round(cpu_s, 1), "load_average": load}
        print(json.dumps({**about, "sections": [tally.as_dict() for tally in tallies]}, indent=2))
    else:
        print("\n".join(f"MISSING {text}" for text in missing) + "\n" * bool(missing), end="")
        counts = ", ".join(f"{count:,} {unit}" for unit, count in totals.items() if count)
        seconds = f"{cpu_s:.1f} CPU-s, {time.monotonic() - begun_s:.1f} s, load {load:.1f}"
        print(f"{counts}; {wrong} unexplained; {seconds}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
