"""What the observer reads out of both sides' logs, and what it then believes."""

from __future__ import annotations

import os

import pytest

from frys_node.bench.membership_observer import (
    ACCUSED,
    ALIVE,
    DEAD,
    EVENT,
    LEFT,
    STALLED,
    SUSPECT,
    Observer,
    Record,
    Saying,
    parse_ours,
    parse_serf,
)

OURS = (
    b'{"ts": "2026-11-26T13:22:27.301Z", "level": "warning", "event": "membership.member_changed", "node": "f1", '
    b'"cluster": "frys", "peer": "f3", "peer_id": "167b", "status": "dead", "incarnation": 1}'
)


def test_our_log_tells_who_changed_and_which_bearer_of_the_name() -> None:
    """A member's change is read with its identity and whether it was held back; other events and half lines are not."""
    assert parse_ours(OURS) == ("f3", DEAD, "167b", False)
    assert parse_ours(OURS.replace(b"member_changed", b"change_held")) == ("f3", DEAD, "167b", True)
    assert parse_ours(OURS[:-20]) is None
    assert parse_ours(b'{"event": "kernel.node_started", "node": "f1", "peer": "f3"}') is None
    assert parse_ours(b"node f2 of cluster frys is ready") is None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"serf: EventMemberJoin: s3 10.77.1.3", ("s3", ALIVE, "", False)),
        (b"serf: EventMemberFailed: s3 10.77.1.3", ("s3", DEAD, "", False)),
        (b"serf: EventMemberLeave: s3 10.77.1.3", ("s3", LEFT, "", False)),
        (b"memberlist: Suspect s3 has failed, no acks received", ("s3", ACCUSED, "", False)),
        (b"agent: Received event: user-event: mark-12", ("mark-12", EVENT, "", False)),
        (b"agent: Received event: member-failed", None),
        (b"memberlist: Marking s3 as failed, suspect timeout reached (0 peer confirmations)", None),
        (b"serf: EventMemberUpdate: s3", None),
    ],
)
def test_serfs_log_is_read_by_its_first_words(line: bytes, said: tuple[str, str, str, bool] | None) -> None:
    """Joins, failures, leaves, accusations and user events count; what repeats them a second later does not."""
    assert parse_serf(b"    2026/11/26 13:18:21 [INFO] " + line) == said


def test_our_log_tells_who_is_stalled_and_that_is_no_status() -> None:
    """A stopped process is read as stalled; another condition is not, and neither changes what is seen of it."""
    line = (
        b'{"event": "membership.condition_changed", "node": "f1", "peer": "f3", "peer_id": "a", "condition": "stalled"}'
    )
    assert parse_ours(line) == ("f3", STALLED, "a", False)
    assert parse_ours(line.replace(b'"stalled"', b'"slow"')) is None
    assert parse_ours(line[:-20]) is None
    record = Record()
    record.add(Saying(1.0, "f1", "f3", ALIVE, "a"))
    record.add(Saying(2.0, "f1", "f3", STALLED, "a"))
    assert record.firsts("f3", STALLED, ["f1", "f2"], 0.0) == {"f1": 2.0}
    assert record.agree(["f1"], ["f3"])


def test_the_latest_word_counts_and_an_accusation_changes_no_view() -> None:
    """Serf takes an accusation back without a word, so it must not stick; our suspicions are answered by `alive`."""
    record = Record()
    for state in (ALIVE, ACCUSED):
        record.add(Saying(1.0, "a", "b", state))
    assert record.agree(["a"], ["a", "b"])
    record.add(Saying(2.0, "a", "b", SUSPECT))
    assert not record.agree(["a"], ["a", "b"])
    record.add(Saying(3.0, "a", "b", ALIVE))
    assert record.agree(["a"], ["a", "b"])
    record.forget("a")
    assert not record.agree(["a"], ["a", "b"])


def test_news_of_an_earlier_bearer_of_a_name_are_no_news_of_the_present_one() -> None:
    """A node that joins learns of those that left long ago, after it met their successors of the same name."""
    record = Record()
    record.add(Saying(1.0, "a", "b", ALIVE, "new"))
    record.add(Saying(1.0, "a", "b", LEFT, "old"))
    assert record.agree(["a"], ["b"])
    record.add(Saying(2.0, "a", "b", LEFT, "new"))
    assert record.agree(["a"], ["b"], LEFT)


def test_the_first_word_of_each_observer_since_an_instant() -> None:
    """What was said before the fault, of others, by others, or once more, is not counted."""
    record = Record()
    for saying in (
        Saying(1.0, "a", "v", DEAD),
        Saying(2.0, "a", "v", DEAD),
        Saying(2.5, "a", "v", DEAD),
        Saying(2.6, "b", "w", DEAD),
        Saying(2.7, "c", "v", DEAD),
    ):
        record.add(saying)
    assert record.firsts("v", DEAD, ["a", "b"], 1.5) == {"a": 2.0}
    assert [saying.at_s for saying in record.since(2.6)] == [2.6, 2.7]


def test_lines_are_put_together_and_a_waiter_is_woken() -> None:
    """A line that arrives in two pieces is one line; the end of the pipe closes it."""
    observer = Observer()
    reader, writer = os.pipe()
    try:
        observer.watch("a", reader, parse_serf, is_fresh=True)
        os.write(writer, b"serf: EventMember")
        os.write(writer, b"Join: b 10.0.0.1\nhalf a li")
        assert observer.wait(lambda record: record.agree(["a"], ["b"]), 10.0)
        assert observer.tail("a") == "serf: EventMemberJoin: b 10.0.0.1"
        assert observer.firsts("b", ALIVE, ["a"], 0.0).keys() == {"a"}
    finally:
        os.close(writer)
        observer.close()


def test_a_node_has_started_until_it_is_started_again() -> None:
    """Its port is bound long before it answers; what it said in an earlier life does not count."""
    record = Record()
    said = parse_ours(b'{"ts": "2026-11-26T13:22:27.301Z", "event": "membership.started", "node": "f1", "peers": 0}')
    assert said is not None
    record.add(Saying(1.0, "f1", *said))
    assert record.started == {"f1"}
    assert record.view("f1") == {}
    record.forget("f1")
    assert record.started == set()
