"""What reaches a terminal of texts that other members wrote: escapes are shown, never obeyed."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from frys_node.cli import keys, members, monitor, reachability, rtt, status
from frys_node.cli import main as cli
from frys_node.cli.admin import table
from frys_node.cli.terminal import escaped, printable, printable_lines, say
from frys_node.cli.why import explain
from frys_node.observe.log import _quoted

EVIL = "x\x1b[2J\ny\x9b1A\u202e"
SHOWN = "x\\x1b[2J\\ny\\x9b1A\\u202e"
WHO = {"id": EVIL, "name": EVIL}
MEMBER: dict[str, Any] = WHO | {
    "status": "alive",
    "condition": "ok",
    "address": EVIL,
    "http": EVIL,
    "incarnation": 0,
    "boot": 1,
    "phi": None,
    "rtt_s": None,
    "tags": {EVIL: EVIL},
    "changed_unix_ns": 0,
}


def test_what_is_not_printable_is_shown_as_an_escape() -> None:
    """Controls of both sets, line breaks and marks that turn the writing round are spelled out; the rest stays."""
    assert printable("zone=köln 東京") == "zone=köln 東京"
    assert printable(EVIL) == SHOWN
    assert printable_lines("a\x1b\nb") == "a\\x1b\nb"
    assert escaped({EVIL: [EVIL, 1, None]}) == {SHOWN: [SHOWN, 1, None]}
    assert printable(printable(EVIL)) == SHOWN


def test_say_and_report_print_no_control(capsys: pytest.CaptureFixture[str]) -> None:
    """The last gate before a terminal lets nothing but line breaks through; an error is one line."""
    say(f"a\n{EVIL}")
    assert capsys.readouterr().out == "a\nx\\x1b[2J\ny\\x9b1A\\u202e\n"
    cli.report(type("E", (), {"message": EVIL, "code": "c", "hint": EVIL})())
    assert capsys.readouterr().err == f"frys-node: {SHOWN} [c]\n  fix: {SHOWN}\n"


def test_every_verb_about_members_shows_their_names_escaped() -> None:
    """A name of two lines takes one, in tables, stories and the monitor."""
    direction = {"a": WHO, "b": WHO, "srtt_s": None, "rttvar_s": None, "samples": 0, "status": "dead"}
    direction |= {"condition": None, "error": {"code": "x", "message": EVIL}}
    problem = {"kind": "seen_otherwise", "member": WHO, "observer": WHO, "detail": EVIL}
    row = {"id": EVIL, "name": EVIL, "error": None, "deviations": [], "cut_off": []}
    held = WHO | {"epochs": [1], "primary": 1, "error": EVIL}
    turn = {"unix_ns": 0, "what": "suspected", "who": WHO, "evidence": "crash", "detail": EVIL}
    observer = WHO | {"health_score": 0, "health_score_max": 8, "is_isolated": False, "is_quiet": False}
    told = {
        "member": MEMBER,
        "unix_ns": 0,
        "observer": observer,
        "suspicion": None,
        "vouchers": [],
        "edges": [],
        "is_flapping": False,
        "rtt": {"srtt_s": None, "rttvar_s": None, "samples": 0},
        "story": [turn, turn | {"what": EVIL}],
    }
    texts = [
        table([(EVIL,)], ("NAME",)),
        members.text({"members": [MEMBER]}),
        rtt.text({"directions": [direction], "estimate_s": None}),
        reachability.text(
            {"observer": WHO, "members": [MEMBER], "rows": [row], "problems": [problem], "is_whole": False}
        ),
        keys._verdict({"epoch": 1, "converged": 0, "total": 1, "members": [held], "dead": [EVIL]}),
        explain(told, dt.UTC),
        "\n".join(status._lines(escaped({"a": EVIL, "b": [{"c": EVIL}]}))),
        *(
            monitor._line(kind, escaped(data))
            for kind, data in (
                ("member", {"old": None, "new": MEMBER}),
                ("user", {"name": EVIL, "origin_name": EVIL, "payload": EVIL}),
                ("state", {"name": EVIL, "key": EVIL, "value": EVIL}),
                ("component", {"name": EVIL, "old": EVIL, "new": EVIL}),
            )
        ),
    ]
    for text in texts:
        assert SHOWN in text
        assert all(line.isprintable() for line in text.split("\n"))
    assert [text.count("\n") for text in texts[7:]] == [0, 0, 0, 0]


def test_a_log_line_on_a_terminal_obeys_no_name() -> None:
    """The log's text form quotes what is not printable, and leaves words of any language as they are."""
    assert _quoted("köln") == "köln"
    assert _quoted("a b ä") == '"a b ä"'
    assert _quoted("x\x1b[2J\x9b") == '"x\\u001b[2J\\u009b"'


def test_the_table_of_members_fits_a_narrow_terminal() -> None:
    """At 80 columns a round trip and the tags are in sight: columns that say less of how a member does give way."""
    far = {"address": "192.168.100.100:7946", "http": "127.0.0.1:18080", "incarnation": 4, "phi": 0.25, "rtt_s": 0.0123}
    body = {"members": [MEMBER | far | {"name": "a-node-with-a-name", "tags": {"zone": "a" * 40}}]}
    wide = members.text(body)
    assert members.text(body, 1_000) == wide
    for columns in (80, 100, 120):
        lines = members.text(body, columns).split("\n")
        assert len(lines[0]) <= columns
        assert all(text in lines[1][:columns] for text in ("12.30", "zone=aaaa"))
    assert "INCARNATION" in members.text(body, 140)


def test_the_monitor_does_not_tell_the_condition_of_the_dead() -> None:
    """`suspect -> dead` is not followed by `condition ok`; a living member's condition is told."""
    stalled = MEMBER | {"name": "bob", "condition": "stalled"}
    for status_of, line in (("dead", ""), ("left", ""), ("alive", "member     bob: condition ok")):
        old, new = stalled | {"status": status_of}, stalled | {"status": status_of, "condition": "ok"}
        assert monitor._line("member", {"old": old, "new": new}) == line


def test_the_keys_of_the_dead_are_not_counted_and_said_so() -> None:
    """Who is behind, who did not answer and who is dead are three things."""
    held = [
        {"name": "a", "epochs": [2], "primary": 2, "error": ""},
        {"name": "b", "epochs": [1], "primary": 1, "error": ""},
        {"name": "c", "epochs": [], "primary": None, "error": "no answer within 2 s"},
    ]
    body = {"epoch": 2, "converged": 1, "total": 3, "members": held, "dead": ["d"]}
    assert keys._verdict(body) == (
        "epoch 2: 1/3 members seal with it; behind: b (they get it with their next connection); did not answer: c; "
        "1 dead, not counted: d"
    )
    whole = {"epoch": 2, "converged": 1, "total": 1, "members": held[:1], "dead": []}
    assert keys._verdict(whole) == "epoch 2: 1/1 members seal with it"
