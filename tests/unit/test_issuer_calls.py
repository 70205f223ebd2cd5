"""What is said when the issuer does not answer, or when a removal cannot end."""

from __future__ import annotations

import argparse

import pytest

from frys_node.base.errors import DeadlineExceeded, IssuerUnreachable
from frys_node.cli import node_remove
from frys_node.issuer_calls import issuer_calls


async def test_a_call_that_only_the_issuer_answers_names_the_way_out_when_it_is_gone() -> None:
    """Keys, tokens, expulsions and the authority: the hint of the ring's own requests speaks of none of them."""

    async def ask(method: str, request: int) -> int:
        if request:
            return request
        raise IssuerUnreachable("the issuer a does not answer", hint=f"{method} waits")

    call = issuer_calls(ask)
    assert await call("m", 7) == 7
    with pytest.raises(IssuerUnreachable, match="does not answer") as failed:
        await call("m", 0)
    assert "frys-node issuer promote" in failed.value.hint


def test_a_removal_that_waits_for_members_that_may_never_live_says_how_to_end_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In a cluster of two it would wait for ever, and the way out was named nowhere."""

    class Node:
        """Answers as a node whose other member is dead."""

        def call(self, *_request: object) -> dict[str, object]:
            """Answer any request."""
            waits = ["b: dead, and without it too few members live of cache/1"]
            return {"name": "b", "state": "waiting", "waits_for": waits}

    arguments = argparse.Namespace(node="b", accept_loss=False, keyless=False, timeout=0.0)
    with pytest.raises(DeadlineExceeded) as failed:
        node_remove.run(arguments, Node())  # type: ignore[arg-type]
    assert "--accept-loss" in failed.value.hint
    assert "as in a cluster of two, add --accept-loss" in capsys.readouterr().err
