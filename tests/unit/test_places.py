"""Places of a listener: whoever floods it turns itself out, and known clients keep theirs."""

from __future__ import annotations

from frys_node.base.places import Places


def come(places: Places[str], who: str, network: str, *, total: int = 8, each: int = 100) -> str | None:
    """One more stranger; returns who went for it."""
    gone = places.make_room(network, total, each)
    places.enter(who, network, is_stranger=True)
    return gone


def test_strangers_hold_half_of_the_places_and_the_largest_crowd_makes_room() -> None:
    """Its oldest goes, not whoever else waits to be known, and not the newcomer."""
    places: Places[str] = Places()
    assert come(places, "honest", "h") is None
    assert [come(places, f"f{n}", "flood") for n in range(3)] == [None] * 3
    assert [come(places, f"f{n}", "flood") for n in range(3, 6)] == ["f0", "f1", "f2"]
    assert come(places, "another", "n") == "f3"
    assert len(places) == 4


def test_known_clients_are_never_turned_out() -> None:
    """Full of them, a listener has no room to make; their places come back when they leave."""
    places: Places[str] = Places()
    for n in range(8):
        come(places, f"k{n}", f"net{n % 2}")
        places.known(f"k{n}")
    assert places.make_room("x", 8, 100) is None
    assert (len(places), places.held_by("net0"), places.held_by("x")) == (8, 4, 0)
    places.leave("k0")
    places.leave("k0")
    assert (len(places), places.held_by("net0")) == (7, 3)
    assert come(places, "s", "x") is None


def test_a_full_network_makes_room_of_its_own_strangers_alone() -> None:
    """Others lose nothing to it; with none of its own it has to wait."""
    places: Places[str] = Places()
    come(places, "other", "o")
    come(places, "first", "n", each=2)
    come(places, "second", "n", each=2)
    places.known("first")
    assert come(places, "third", "n", each=2) == "second"
    places.known("third")
    assert places.make_room("n", 8, 2) is None
    assert places.held_by("n") == 2


def test_places_are_forgotten_with_those_who_held_them() -> None:
    """A million networks that came and went leave nothing behind."""
    places: Places[int] = Places()
    for n in range(1_000):
        places.enter(n, f"net{n}", is_stranger=n % 2 == 0)
    for n in range(1_000):
        places.leave(n)
    assert (len(places), places._networks, places._strangers, places._strangers_count) == (0, {}, {}, 0)
