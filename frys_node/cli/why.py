"""Tell why a member is as it is, as this node sees it: who accused or vouched, on which evidence, with how many votes.

Ask several nodes: each tells its own story of the same member.
"""

from __future__ import annotations

import argparse
import datetime as dt
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from frys_node.cli import arguments as given
from frys_node.cli.admin import AdminClient, add_common, show
from frys_node.cli.terminal import escaped

EVIDENCE = {
    "silence": "silence: it does not answer, which may be a pause",
    "refused": "refused: its port is closed; one observer, so a pause is not excluded",
    "unproven": "refused: its port is closed, and more observers must agree before that is a crash",
    "gone": "gone: it answered neither beats nor a nudge of its connection",
    "hearsay": "crash, as others say: it counts as gone until two have reported it themselves",
    "crash": "crash: its connection ended and its port refuses new ones",
}

VOUCHERS = {
    "kernel_ack": "its kernel acknowledges, so the process exists and does not run",
    "datagram": "it has sent a packet since",
    "helper": "its port accepts connections",
    "lifeline": "its kernel acknowledges on a connection that stands, while its port refuses others",
}

CONDITIONS = {
    "ok": "nothing speaks against it",
    "slow": "it answers later than it used to",
    "stalled": "its kernel answers and it does not",
    "degraded": "it is up, and hard to reach or often down",
    "isolated": "it hears neither acks nor helpers, so it accuses nobody",
}

PATHS = {"packets": "", "packets_alone": "; its connection answers", "connections": "; its port refuses, packets pass"}

OTHER_WORDS = {
    "met": "became known as {detail}",
    "restarted": "restarted, as {detail}",
    "refuted": "refuted it: {detail}",
    "dead": "declared dead: {detail}",
    "left": "left, as it said itself",
    "stopped": "closed its connections: it was stopped",
    "unsendable": "this node cannot send to it: its own system refuses",
    "replaced": "counted as left, because {who} lives under its name",
    "flaps": "flaps: it has come back from the dead too often",
    "paused": "stood still {detail}",
    "isolated": "isolated: {detail}",
    "rejoined": "hears others again",
    "not reached directly": "{who} gets no answer from it, and helpers do",
    "answers no packets": "{who} gets no packet answered, and answers on its connection",
    "reached again": "{who} gets answers from it again",
    "refuses connections": "{who} finds its port closed, and its packets answered",
    "connected again": "{who} has a connection to it again",
    "refused": "{who} found its port closed: {detail}",
    "silent": "{who} counts it as silent: {detail}",
}
"""How the turns of a story are told that are neither votes, vouchers nor conditions."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "node",
        type=given.name,
        metavar="NODE",
        help="a member's name or id (its first 4 digits do); this node's own tells of itself",
    )
    add_common(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the story."""
    body = AdminClient(arguments).call("GET", f"/v1/members/{quote(arguments.node, safe='')}/why")
    return show(arguments, body, explain(body, dt.datetime.now().astimezone().tzinfo))


def explain(body: dict[str, Any], zone: dt.tzinfo | None) -> str:
    """Tell the body of ``GET /v1/members/{name}/why`` to a person in a time zone."""
    body = escaped(body)
    clock = _Clock(body["unix_ns"], zone)
    lines = [
        *_state(body, clock),
        *_votes(body),
        *_suspicion(body, clock),
        *_vouchers(body, clock),
        *_paths(body, clock),
        *_tombstones(body, clock),
    ]
    lines.append(f"  {_health(body['observer'])}")
    if body["story"]:
        lines += ["", "story"]
        lines += [f"  {clock.time(unix_ns)}  {told}" for unix_ns, told in _turns(body["story"])]
    return "\n".join(lines)


class _Clock:
    """Shows instants as a person in a time zone reads them."""

    def __init__(self, now_ns: int, zone: dt.tzinfo | None) -> None:
        self._now_ns, self._zone = now_ns, zone

    def time(self, unix_ns: int) -> str:
        """Return the time of day with milliseconds, and the day if it is another one."""
        at = self._at(unix_ns)
        day = "" if at.date() == self._at(self._now_ns).date() else f"{at:%Y-%m-%d} "
        return f"{day}{at:%H:%M:%S}.{at.microsecond // 1000:03}"

    def whole(self, unix_ns: int) -> str:
        """Return the day and the time with its offset."""
        at = self._at(unix_ns)
        return f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03} {at:%Z}"

    def ago(self, unix_ns: int) -> str:
        """Return how long an instant is past."""
        return span(max(0.0, (self._now_ns - unix_ns) / 1e9))

    def ahead(self, unix_ns: int) -> str:
        """Return how far an instant is ahead."""
        return span(max(0.0, (unix_ns - self._now_ns) / 1e9))

    def _at(self, unix_ns: int) -> dt.datetime:
        # In whole milliseconds: a float of seconds would round some of them down.
        return dt.datetime.fromtimestamp(unix_ns // 1_000_000_000, self._zone).replace(
            microsecond=unix_ns % 1_000_000_000 // 1_000
        )


def span(seconds: float) -> str:
    """Return a duration for people: ``0.50 s``, ``12 s``, ``5 min``, ``3 h``, ``2 d``."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    for unit, size_s, limit in (("s", 1, 120), ("min", 60, 120), ("h", 3_600, 48)):
        if seconds < limit * size_s:
            return f"{seconds / size_s:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"


def phi_text(phi: float) -> str:
    """Return phi for people; far beyond its thresholds only the order matters."""
    return f"{phi:.2f}" if phi < 100 else f"{phi:.0f}"


def _name(who: dict[str, str] | None) -> str:
    """Return a member's name; one that is forgotten has only its id."""
    return "" if who is None else who["name"] or who["id"]


def _state(body: dict[str, Any], clock: _Clock) -> Iterator[str]:
    member, observer = body["member"], body["observer"]
    is_self = member["id"] == observer["id"]
    yield f"{member['name']} is {member['status']}" + ("" if is_self else f", as {observer['name']} sees it")
    yield f"  now        {clock.whole(body['unix_ns'])}"
    yield f"  since      {clock.whole(member['changed_unix_ns'])} ({clock.ago(member['changed_unix_ns'])} ago)"
    yield f"  identity   {member['id']}, boot {member['boot']}, incarnation {member['incarnation']}"
    if member["status"] == "alive" or (member["status"] == "suspect" and member["condition"] != "ok"):
        yield f"  condition  {member['condition']}: {CONDITIONS[member['condition']]}"
    if member["phi"] is not None:
        yield f"  phi        {phi_text(member['phi'])}"
    rtt = body["rtt"]
    if rtt["srtt_s"] is not None:
        yield f"  rtt        {rtt['srtt_s'] * 1e3:.2f} ms, variation {rtt['rttvar_s'] * 1e3:.2f} ms"


def _votes(body: dict[str, Any]) -> Iterator[str]:
    """Name those on whose accusations a dead member was declared so: the story tells it, if it goes back so far."""
    if body["member"]["status"] != "dead":
        return
    votes: dict[str, str] = {}
    for turn in body["story"]:
        if turn["what"] in ("suspected", "refuted", "restarted"):
            votes.clear()
        if turn["what"] in ("suspected", "confirmed", "dead") and turn["who"] is not None:
            votes[_name(turn["who"])] = turn["evidence"]
    for number, (accuser, evidence) in enumerate(votes.items()):
        yield f"  {'' if number else 'accused by':<10} {accuser}: {EVIDENCE[evidence]}"


def _suspicion(body: dict[str, Any], clock: _Clock) -> Iterator[str]:
    suspicion = body["suspicion"]
    if suspicion is None:
        return
    votes, wanted = suspicion["votes"], suspicion["votes_wanted"]
    since_ns, deadline_ns = suspicion["since_unix_ns"], suspicion["deadline_unix_ns"]
    yield f"  suspected  since {clock.time(since_ns)} ({clock.ago(since_ns)} ago), {len(votes)} of {wanted} votes"
    for vote in votes:
        yield f"             {_name(vote['accuser'])}: {EVIDENCE[vote['evidence']]}"
    if suspicion["is_withheld"]:
        yield f"  deadline   none while {body['observer']['name']} distrusts its own senses"
    elif len(votes) < suspicion.get("votes_needed", 1):
        yield "  deadline   none while no other member accuses it: one alone buries nobody"
    else:
        why = " (the short clock of a crash)" if suspicion["is_crash"] else ""
        yield f"  deadline   {clock.time(deadline_ns)}, in {clock.ahead(deadline_ns)}, unless it refutes{why}"
    if suspicion["held_until_unix_ns"] is not None:
        yield f"  held       alive until {clock.time(suspicion['held_until_unix_ns'])} at least, by a voucher"
    elif suspicion["vetoed_until_unix_ns"] is not None:
        until = clock.time(suspicion["vetoed_until_unix_ns"])
        yield f"  vetoed     evidence of a crash counts as silence until {until}"


def _vouchers(body: dict[str, Any], clock: _Clock) -> Iterator[str]:
    for voucher in body["vouchers"]:
        said = f"{VOUCHERS[voucher['kind']]} ({clock.ago(voucher['unix_ns'])} ago)"
        yield f"  vouched    by {_name(voucher['voucher'])}: {said}"


def _paths(body: dict[str, Any], clock: _Clock) -> Iterator[str]:
    for edge in body["edges"]:
        what = PATHS[edge["kind"]]
        yield f"  path cut   {_name(edge['a'])} -> {_name(edge['b'])}, told {clock.ago(edge['unix_ns'])} ago{what}"
    since_ns = body.get("cannot_send_since_unix_ns")
    if since_ns is not None:
        told = f"{body['observer']['name']} cannot send to it: its own system refuses"
        yield f"  path cut   {told}, since {clock.time(since_ns)} ({clock.ago(since_ns)} ago)"
    if body["is_flapping"]:
        yield "  flapping   its changes are not announced until it has come to rest"


def _tombstones(body: dict[str, Any], clock: _Clock) -> Iterator[str]:
    """Say what is kept for a member's sake; the first live member of a unit's set tells that, and nobody else."""
    waits = body.get("tombstones")
    if waits is None:
        return
    since_ns, more = waits["since_unix_ns"], waits["units"] - len(waits["first"])
    units = ", ".join(waits["first"]) + (f" and {more} more units" if more else "")
    yield f"  tombstones of {units} wait for it since {clock.time(since_ns)} ({clock.ago(since_ns)} ago)"


def _health(observer: dict[str, Any]) -> str:
    score, worst = observer["health_score"], observer["health_score_max"]
    told = f"{observer['name']} trusts its own senses: " + ("well (0" if not score else f"less than usual ({score}")
    if observer["is_isolated"]:
        state = "; isolated: it buries nobody of whom it only hears nothing"
    elif observer["is_quiet"]:
        state = "; it stood still a moment ago, and accuses nobody yet"
    else:
        state = ""
    return f"observer   {told} of {worst}){state}"


def _turns(story: list[dict[str, Any]]) -> Iterator[tuple[int, str]]:
    """Tell when and what, and leave out what repeats the turn before in other words."""
    last: dict[str, Any] = {}
    accusers: set[str] = set()
    for turn in story:
        what, who = turn["what"], _name(turn["who"])
        is_same_time = last.get("unix_ns") == turn["unix_ns"]
        is_echo = what == last.get("what") or (
            what == "confirmed" and all(turn[key] == last.get(key) for key in ("who", "evidence"))
        )
        if not (is_same_time and is_echo and turn["who"] == last.get("who")):
            yield turn["unix_ns"], _turn(turn, who, is_known=who in accusers)
        if what == "suspected":
            accusers = {who}
        elif what == "confirmed":
            accusers.add(who)
        last = turn


def _called(standing: str, who: str, evidence: str) -> str:
    """Tell what others said of the node that tells its own story."""
    match standing:
        case "left":
            return "counted as left" + (f" by {who} (force-leave)" if who else "")
        case "dead":
            return "declared dead" + (f" on the word of {who}: {evidence}" if who else "")
    return f"called {standing}" + (f" by {who} for {evidence}" if who else "")


def _turn(turn: dict[str, Any], who: str, *, is_known: bool) -> str:
    what, detail, evidence = turn["what"], turn["detail"], turn["evidence"]
    match what:
        case "suspected":
            return f"{who} suspects it: {EVIDENCE[evidence]}"
        case "confirmed":
            return f"{who} {'knows more by now' if is_known else 'suspects it too'}: {EVIDENCE[evidence]}"
        case "vouched":
            return f"{who} vouches for it: {VOUCHERS[detail]}"
        case "dead" if who:
            return f"declared dead, {detail}, on the word of {who}: {EVIDENCE[evidence]}"
        case "left" if who:
            return f"counted as left by {who} (force-leave)"
        case "left" if detail:
            return f"counted as left, {detail}"
        case "refutes":
            return f"was {_called(detail, who, evidence)}; it refuted"
    if what in CONDITIONS and detail.startswith("was "):
        return f"{what} ({detail}): {CONDITIONS[what]}"
    told = OTHER_WORDS.get(what, f"{what}: {detail}" if detail else what).format(who=who, detail=detail)
    return told.removesuffix(": ")
