"""A flood of junk handshakes beside a healthy peer: a short one of `frys-node bench flood`, which measures it.

What the peer's p99 came to is told, and bounds nothing: the attacker and whatever else runs share its cores.
"""

from __future__ import annotations

from verify_tally import Tally

from frys_node.bench import flood
from frys_node.bench.runner import percentile

CONNECTIONS = 2_000
CALLS_LEAST = 500
"""Calls that the peer has to get through while the flood lasts: one run of them."""


def floods(connections: int = CONNECTIONS) -> list[Tally]:
    """Throw junk at a node while a peer calls it without a pause: every call is answered, and there are many."""
    tally = Tally("junk connections beside a peer", "connections")
    try:
        (measured,) = flood.measure(1, connections).rounds
    except Exception as error:  # noqa: BLE001 (a call that fails comes out of the peer's nurseries)
        tally.wrong.append(f"the peer's calls did not all succeed: {error!r}")
        return [tally]
    tally.tried = connections
    if len(measured.beside) < CALLS_LEAST:
        tally.wrong.append(f"only {len(measured.beside)} calls were answered beside the flood")
    told = {name: percentile(getattr(measured, name), 99) for name in ("before", "aside", "beside")}
    tally.figures = {f"p99_{name}_ms": round(value, 3) for name, value in told.items()}
    for name in ("before", "aside"):
        tally.figures[f"p99_beside_to_{name}"] = round(told["beside"] / told[name], 2)
    by_before, by_aside = (tally.figures[f"p99_beside_to_{name}"] for name in ("before", "aside"))
    p99 = f"p99 {told['beside']:.1f} ms, {told['before']:.1f} before and {told['aside']:.1f} with the junk elsewhere"
    tally.notes.append(f"{len(measured.beside)} calls beside it; {p99}")
    ratios = f"{by_before:.1f} times what it was before (goal: 2, quiet), {by_aside:.1f} times that with junk elsewhere"
    tally.notes.append(f"the healthy peer's p99 is {ratios}")
    return [tally]
