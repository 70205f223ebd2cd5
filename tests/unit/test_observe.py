"""Logs and health: formats, redaction, verdicts."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from frys_node.observe.health import component_checks, is_ok, loop_check
from frys_node.observe.log import REDACTED, configure, get_logger, register_secret


@pytest.fixture(autouse=True)
def _quiet_after() -> Iterator[None]:
    yield
    configure(level="info", form="text", stream=io.StringIO())


def _lines(out: io.StringIO) -> list[str]:
    return out.getvalue().splitlines()


def test_json_lines_hold_the_event_its_fields_and_the_nodes() -> None:
    """Off a terminal, `auto` is JSON; text, numbers and unserialisable values all arrive."""
    out = io.StringIO()
    configure(level="info", stream=out, fields={"node": "n1"})
    log = get_logger("frys_node.kernel.x")
    log.debug("kernel.unseen")
    log.info("kernel.node_started", components=3, path=object, text="a\nb")
    (line,) = map(json.loads, _lines(out))
    assert (line["event"], line["level"], line["node"], line["components"]) == ("kernel.node_started", "info", "n1", 3)
    assert line["text"] == "a\nb"
    assert line["ts"].endswith("Z")


@pytest.mark.parametrize("name", ["frys_node.channel.driver", "balancer.driver", "snapshots.pull", "membership.driver"])
def test_a_package_that_logs_by_itself_is_heard_with_its_fields(name: str) -> None:
    """Plain `logging` with ``extra=`` gives the same line, with level, node and fields, at info too."""
    out = io.StringIO()
    configure(level="info", stream=out, fields={"node": "n1"})
    logging.getLogger(name).info("channel.join_served", extra={"outcome": "accepted", "token": "frys1.abcdefgh"})
    register_secret("frys1.abcdefgh")
    logging.getLogger(name).warning("channel.refused", extra={"reason": "not_tls", "error": "frys1.abcdefgh"})
    served, refused = map(json.loads, _lines(out))
    assert served.keys() == {"ts", "level", "event", "node", "outcome", "token"}
    assert (served["event"], served["level"], served["node"]) == ("channel.join_served", "info", "n1")
    assert (refused["reason"], refused["error"]) == ("not_tls", REDACTED)


def test_text_lines_are_one_line_of_key_value_pairs() -> None:
    """Values with spaces are quoted, so that a line can be read back."""
    out = io.StringIO()
    configure(form="text", stream=out)
    get_logger("x").warning("network.port_moved", wanted="a b", taken=1)
    (line,) = _lines(out)
    assert line.endswith('warning network.port_moved wanted="a b" taken=1')


def test_failures_name_the_error_and_at_debug_level_its_whole_tree() -> None:
    """At info one line says what and where; at debug every member of a group is there."""
    try:
        raise ExceptionGroup("two", [ValueError("x"), KeyError("y")])
    except ExceptionGroup as group:
        caught = group
    for level, expected in (("info", "test_observe.py:"), ("debug", "KeyError: 'y'")):
        out = io.StringIO()
        configure(level=level, form="json", stream=out)
        get_logger("x").failed("kernel.component_crashed", caught, component="a")
        line = json.loads(out.getvalue())
        assert line["error"] == "ValueError: x; KeyError: 'y'"
        assert (expected in line["traceback"]) or level == "info"


@pytest.mark.parametrize("form", ["json", "text"])
def test_registered_secrets_never_reach_a_line(form: str) -> None:
    """In messages, fields and tracebacks alike; short values are left alone."""
    register_secret("frys1.abcdefgh")
    register_secret("a")
    out = io.StringIO()
    configure(form=form, stream=out)
    log = get_logger("x")
    log.info("a.b", token="frys1.abcdefgh", text="Bearer frys1.abcdefgh!")
    log.failed("a.c", ValueError("bad token frys1.abcdefgh"))
    assert "frys1.abcdefgh" not in out.getvalue()
    assert out.getvalue().count(REDACTED) == 3


def test_liveness_is_the_loop_alone_and_readiness_every_component() -> None:
    """A loop that turned lately lives; a failed component is named, a stopped one is fine."""
    assert loop_check(100.0, 101.0).ok
    assert "11.0 s" in loop_check(100.0, 111.0).detail
    checks = component_checks(
        [("a", "ready", ""), ("b", "failed", "disk"), ("c", "stopped", ""), ("d", "starting", "")]
    )
    assert [(check.name, check.ok, check.detail) for check in checks] == [
        ("a", True, ""),
        ("b", False, "disk"),
        ("c", True, ""),
        ("d", False, "starting"),
    ]
    assert not is_ok(checks)
