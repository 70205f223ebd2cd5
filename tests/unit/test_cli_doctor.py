"""What `frys-node doctor` finds in the answers of one node."""

from __future__ import annotations

from typing import Any

from frys_node.cli.doctor import Seen, findings, text


def seen(**changes: Any) -> Seen:
    """A healthy cluster of two, with changes."""
    status = {
        "node": {"name": "a", "data_dir": "/data/a"},
        "waiting_for": [],
        "components": [{"name": "cache", "state": "ready", "error": ""}],
        "replication": {"disk_refuses": "", "damaged": [], "quorums": ["one death stops writes"]},
        "topology": {"frozen": "", "do": ""},
        "settings_differ": [],
    }
    members = [{"name": name, "id": f"id of {name}", "status": "alive", "condition": "ok"} for name in ("a", "b")]
    on_ring = [{"name": name, "id": f"id of {name}", "weight": 1.0} for name in "abc"]
    ring = {"epoch": "1.7", "phase": "stable", "waits_for": [], "members": on_ring}
    issuer = {"name": "a", "answers": True, "can_admit": True}
    made = {"status": status, "members": members, "absent": [], "ring": ring, "issuer": issuer} | changes
    return Seen(**made)


def test_of_a_cluster_that_is_well_it_says_so_in_one_line() -> None:
    """Two nodes: that one death would stop writes is no news while both live. Nor is a node without a record yet."""
    assert list(findings(seen())) == []
    assert text(seen(), []) == "nothing is wrong as a sees it: 2 alive, the ring is stable at 1.7, a writes its record"
    assert text(seen(ring=None, issuer=None), []) == "nothing is wrong as a sees it: 2 alive, no ring yet"


def test_a_dead_member_is_named_with_what_it_stops_and_what_to_do() -> None:
    """Also one that nobody remembers, one that is unwell, and an issuer that is gone or has no key."""
    dead, slow = {"status": "dead", "condition": "ok"}, {"status": "alive", "condition": "slow"}
    states = {"b": dead, "c": slow, "removed a day ago": dead}
    members = [{"name": name, "id": f"id of {name}"} | state for name, state in states.items()]
    issuer = {"name": "b", "answers": False, "can_admit": None}
    found = list(findings(seen(members=members, absent=["f00d"], issuer=issuer)))
    assert [finding.about for finding in found] == ["b", "c", "f00d", "data", "b"]
    assert "frys-node node remove b" in found[0].fix
    assert found[1].fix == "frys-node why c"
    assert found[3].what == "one death stops writes"
    assert "issuer promote" in found[4].fix
    lines = text(seen(), found).splitlines()
    assert lines[0] == "b: is dead"
    assert lines[1].startswith("  frys-node why b; start it again")
    (finding,) = findings(seen(issuer={"name": "a", "answers": True, "can_admit": False}))
    assert "issuer handover" in finding.fix


def test_what_is_wrong_with_the_node_itself_comes_first() -> None:
    """Not ready, a full disk, a damaged log, a component that failed, settings of its own, and a step that waits."""
    status = seen().status | {
        "waiting_for": ["gossip: no member heard"],
        "components": [{"name": "vector", "state": "failed", "error": "StorageFull"}],
        "replication": {
            "disk_refuses": "storage.full",
            "damaged": [{"unit": "vector/1/0", "fix": "restore it"}],
            "tombstones_wait_for": [],
        },
        "topology": {"frozen": "2.5", "do": "promote"},
        "settings_differ": [{"member": "b", "setting": "cluster.mtu", "there": "9000", "here": "1400"}],
    }
    ring = (seen().ring or {}) | {"waits_for": [{"name": "b", "reason": "dead, and too few live"}]}
    found = list(findings(seen(status=status, ring=ring)))
    assert [finding.about for finding in found] == ["a"] * 6 + ["ring"]
    assert [finding.what.split()[0] for finding in found[:6]] == ["is", "its", "vector/1/0", "two", "vector", "b"]
    assert found[6].what == "no change can begin: b: dead, and too few live"
    assert list(findings(seen(ring=ring | {"phase": "joining"}))) == [], "a step under way waits for its members"


def test_who_was_removed_and_has_partitions_on_its_disk_is_no_death_to_mend() -> None:
    """It is on the ring without weight: `node remove` is done, and with two replicas of each unit all is served."""
    ring = seen().ring or {}
    ring |= {"members": [*ring["members"][:2], {"name": "c", "id": "id of c", "weight": 0.0}]}
    members = [*seen().members, {"name": "c", "id": "id of c", "status": "dead", "condition": "ok"}]
    (finding,) = findings(seen(members=members, ring=ring))
    assert finding.what == "was removed, and workflow partitions wait for its disk"
    assert "node remove c --accept-loss" in finding.fix


def test_a_section_that_failed_is_a_finding_and_no_traceback() -> None:
    """`status` gives the error of a section in its place; a name that is none is quoted in what to type."""
    broken = {"error": "RuntimeError: no idea"}
    names = ("replication", "topology", "settings_differ")
    found = list(findings(seen(status=seen().status | dict.fromkeys(names, broken))))
    assert [finding.what for finding in found] == [f"cannot tell of its {n}: RuntimeError: no idea" for n in names]
    member = {"name": "x; rm -rf ~", "id": "id of b", "status": "dead", "condition": "ok"}
    assert "node remove 'x; rm -rf ~'" in next(findings(seen(members=[member]))).fix


def test_a_node_that_starts_is_told_of_by_what_it_waits_for() -> None:
    """Sections that nobody has contributed yet are no reason for a traceback."""
    status = {"node": {"name": "a", "data_dir": "/d"}, "waiting_for": ["channel: starting"], "components": []}
    (finding,) = findings(seen(status=status, members=[], ring=None, issuer=None))
    assert (finding.about, finding.what) == ("a", "is not ready: channel: starting")
