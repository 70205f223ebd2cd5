"""Verbs with actions: what stands before the action counts, and a verb without one does the harmless thing."""

from __future__ import annotations

import argparse

import pytest

from frys_node.base.errors import UsageError
from frys_node.cli import keys, main, token
from frys_node.cli.admin import TIMEOUT_S
from frys_node.cli.confirm import add_yes, must_type


def _parsed(verb: object, *line: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    verb.add_arguments(parser)  # type: ignore[attr-defined]
    return parser.parse_args(line)


@pytest.mark.parametrize("verb", [keys, token])
def test_options_before_the_action_are_not_forgotten(verb: object) -> None:
    """`token --data-dir a list` asks the node in a, as `token list --data-dir a` does."""
    for line in (
        ("--data-dir", "a", "list", "--json"),
        ("list", "--data-dir", "a", "--json"),
        ("--json", "--data-dir", "a"),
    ):
        parsed = _parsed(verb, *line)
        assert (parsed.data_dir, parsed.json, parsed.timeout) == ("a", True, TIMEOUT_S)
        assert parsed.action in ("list", None)
    assert _parsed(verb, "--timeout", "2s", "list").timeout == 2.0
    assert _parsed(verb, "list", "--timeout", "2s").timeout == 2.0
    plain = _parsed(verb, "list")
    assert (plain.data_dir, plain.json, plain.timeout) == (None, False, TIMEOUT_S)


def test_the_overview_says_which_verb_expels_a_node_and_that_programs_have_tokens() -> None:
    """Whoever looks for it in a hurry finds it."""
    text = main.overview()
    assert "expel a node (revoke)" in text
    assert "for nodes to join with and for programs" in text


def test_without_a_terminal_nothing_is_said_that_the_verb_does_not_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An expulsion gives no data up: the refusal says that nobody confirmed it, and how to go on."""
    parser = argparse.ArgumentParser()
    add_yes(parser)
    with pytest.raises(UsageError, match="nobody is there to confirm it; nothing was done") as refusal:
        must_type(parser.parse_args([]), "b is expelled", "b")
    assert "--yes" in refusal.value.hint
    assert capsys.readouterr().err == "b is expelled\n"
    must_type(parser.parse_args(["--yes"]), "b is expelled", "b")
