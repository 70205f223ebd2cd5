"""Ask every live member, through this node, whom it sees and reaches; show who does not answer and who disagrees.

Exit code 1 if anything is unreachable or seen otherwise. Members have two seconds to answer.
"""

from __future__ import annotations

import argparse
from typing import Any

from frys_node.cli.admin import AdminClient, add_common, show
from frys_node.cli.main import FAILED, OK
from frys_node.cli.terminal import escaped

MATRIX_MAX = 24
"""Members up to which the matrix fits a terminal."""

PROBLEMS_MAX = 50
"""Problems that are told one by one; --json has them all."""

SIGNS = {"alive": ".", "suspect": "s", "dead": "x", "left": "l", "unknown": "?"}
LEGEND = ". alive   s suspect   x dead   l left   ? unknown   ! alive, and not reached directly   - no answer"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_common(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print who sees whom, and what is wrong."""
    body = AdminClient(arguments).call("GET", "/v1/reachability")
    show(arguments, body, text(body))
    return OK if body["is_whole"] else FAILED


def text(body: dict[str, Any]) -> str:
    """Tell the body of ``GET /v1/reachability``."""
    body = escaped(body)
    rows, members, problems = body["rows"], body["members"], body["problems"]
    answered = sum(row["error"] is None for row in rows)
    dead = sum(member["status"] == "dead" for member in members)
    lines = [
        f"{answered} of {len(rows)} live members answered {_name(body['observer'])}; dead: {dead}",
        "",
    ]
    if len(members) <= MATRIX_MAX:
        lines += [*_matrix(body), LEGEND, ""]
    lines += [_problem(problem) for problem in problems[:PROBLEMS_MAX]]
    if len(problems) > PROBLEMS_MAX:
        lines.append(f"... and {len(problems) - PROBLEMS_MAX} more; --json has them all")
    return "\n".join([*lines, "everybody reaches everybody"] if body["is_whole"] else lines)


def _matrix(body: dict[str, Any]) -> list[str]:
    """Lay out a row per observer and a column per member, in the same order."""
    members = body["members"]
    width = max(len(member["name"]) for member in members)
    columns = len(str(len(members)))
    head = " ".join(f"{number:>{columns}}" for number in range(1, len(members) + 1))
    lines = [f"{'':>{columns}} {'':<{width}}  {head}"]
    by_id = {row["id"]: row for row in body["rows"]}
    for number, observer in enumerate(members, 1):
        row = by_id.get(observer["id"])
        if row is None:
            # The dead are only looked at.
            cells = [" "] * len(members)
        elif row["error"] is not None:
            cells = ["-"] * len(members)
        else:
            seen = {each["id"]: each["status"] for each in row["deviations"]}
            cut_off = {each["id"] for each in (*row["cut_off"], *row.get("cannot_send", ()))}
            cells = [
                "!" if member["id"] in cut_off else SIGNS[seen.get(member["id"], member["status"])]
                for member in members
            ]
        shown = " ".join(f"{cell:>{columns}}" for cell in cells).rstrip()
        lines.append(f"{number:>{columns}} {observer['name']:<{width}}  {shown}".rstrip())
    return lines


def _problem(problem: dict[str, Any]) -> str:
    name, observer = _name(problem["member"]), _name(problem["observer"])
    match problem["kind"]:
        case "dead":
            return f"{name} is dead; if it is not coming back: frys-node node remove {name} (its copies are made anew)"
        case "no_answer":
            return f"{name} did not answer {observer}: {problem['detail']}"
        case "seen_otherwise":
            return f"{observer} sees {name} {problem['detail']}"
        case "cut":
            return f"{observer} gets no answer from {name} directly, which answers all the same"
        case "refused":
            return f"{name} refuses connections of {observer}, and answers its packets"
        case "cannot_send":
            return f"{observer} cannot send to {name}: its own system refuses; look at addresses, routes and filters"
        case "isolated":
            return f"{name} is isolated: it hears nobody"
        case kind:
            return f"{kind}: {name} {problem['detail']}"


def _name(who: dict[str, str] | None) -> str:
    return "" if who is None else who["name"] or who["id"]
