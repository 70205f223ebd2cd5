"""The picture of the ring: its size, its marks, its colours, and what narrow terminals get."""

from __future__ import annotations

import re

import pytest

from frys_node.cli import ring, ring_picture

COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def body(count: int = 3, *, is_changing: bool = False) -> dict:
    """Return the body of a ring of equal members."""
    members = [
        {"name": f"node-{n}", "weight": 1.0, "zone": "", "rack": "", "change": "", "share": 1 / count, "units": 10,
         "next_units": 10, "bytes": 2_048, "error": ""}
        for n in range(count)
    ]  # fmt: skip
    sectors = [number * count // 720 for number in range(720)]
    changing = {"next_sectors": sectors[::-1]} if is_changing else {}
    return {
        "epoch": "1.4", "phase": "joint" if is_changing else "stable", "settled": True, "partitions": 256,
        "issuer": {"name": "node-0", "answers": True}, "replication_factor": 3, "copies_to_make": 0, "waits_for": [],
        "queued": [], "pinned": [], "members": members, "sectors": sectors, **changing,
    }  # fmt: skip


@pytest.mark.parametrize("width", [20, 40, 60, 100, 200])
@pytest.mark.parametrize("with_colours", [False, True])
@pytest.mark.parametrize("is_changing", [False, True])
def test_no_line_of_the_picture_is_wider_than_the_terminal(width: int, with_colours: bool, is_changing: bool) -> None:
    """Whatever the width, the drawing keeps to it; without colours there is nothing but printable ASCII."""
    text = ring.ring_text(body(is_changing=is_changing), width=width, height=30, with_colours=with_colours)
    plain = COLOUR.sub("", text)
    assert plain.isascii()
    if not with_colours:
        assert plain == text
    drawn = [line for line in plain.split("\n") if re.fullmatch(r"[ABC ]*[ABC]+[ABC ]*", line)]
    assert max(len(line.rstrip()) for line in drawn) <= width


def test_the_circle_is_cut_clockwise_from_the_top() -> None:
    """Of four equal arcs the first is at the upper right, the second at the lower right, and so on."""
    lines = ring_picture.circle([0, 1, 2, 3], [], ["stable"], rows=17, is_painted=False)
    assert {len(line) for line in lines} == {34}
    assert (lines[1].split()[0][-1], lines[1].split()[0][0]) == ("A", "D")
    assert (lines[15].split()[0][-1], lines[15].split()[0][0]) == ("B", "C")
    assert lines[8].split() == ["C" * 4, "stable", "B" * 4] or "stable" in lines[8]


def test_while_the_ring_changes_the_next_one_lies_around_it() -> None:
    """The outer ring is the next one; between the two is a gap."""
    lines = ring_picture.circle([0], [1], [], rows=17, is_painted=False)
    assert lines[0].strip(" B") == ""
    assert re.fullmatch(r"B+ +A+ +A+ +B+", lines[8].strip())


def test_a_terminal_that_is_too_low_gets_a_band_and_many_members_only_a_list() -> None:
    """Where the circle does not fit there is one line of letters; more members than letters are only listed."""
    low = ring.ring_text(body(), width=100, height=8, with_colours=False).split("\n")
    assert set(low[1]) == set("ABC")
    assert len(low) == 6
    many = ring.ring_text(body(70), width=100, height=40, with_colours=False).split("\n")
    assert len(many) == 72
    assert ring_picture.mark_of(70) == "*"


def test_each_letter_stands_on_its_members_colour() -> None:
    """Colours repeat after twelve members; the letters tell those apart."""
    text = ring.ring_text(body(13), width=100, height=40, with_colours=True)
    assert ring_picture.paint("A", 0) in text
    assert ring_picture.paint("M", 12) in text
    assert ring_picture.paint("A", 0)[:-5] == ring_picture.paint("M", 12)[:-5]


def test_units_that_wait_for_a_disk_are_counted_and_a_few_are_named() -> None:
    """A dead node holds dozens of partitions: they are one short line, and one of them is one unit."""
    units = [f"workflow/{number}" for number in range(75)]
    many, one = (
        ring.ring_text(body() | {"pinned": pinned}, width=80, height=30, with_colours=False)
        for pinned in (units, units[:1])
    )
    named = "workflow/0, workflow/1, workflow/2, workflow/3 and 71 more (--json names them)"
    assert f"75 units wait for their silent owner's disk: {named}" in many.split("\n")
    assert "1 unit waits for its silent owner's disk: workflow/0" in one.split("\n")
