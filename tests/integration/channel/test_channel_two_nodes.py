"""Two real nodes on loopback: create, join, call, note, drain."""

from __future__ import annotations

from pathlib import Path

import trio

from tests.integration.channel.channel_rig import ECHO, create, join, running


async def test_two_nodes_join_and_call_each_other(tmp_path: Path) -> None:
    """A token that the issuer wrote lets a second node in, and calls and notes work in both directions."""
    async with running(await create(tmp_path / "a", "a")) as a, running(await join(tmp_path / "b", a, "b")) as b:
        with trio.fail_after(10):
            assert await b.channel.call(a.id, ECHO, b"up") == b"up"
            assert await a.channel.call(b.id, ECHO, b"down") == b"down"
            assert await a.channel.call(a.id, ECHO, b"self") == b"self"
            assert b.channel.note(a.id, "n", b"1")
            assert a.channel.note(a.id, "n", b"2")
            await a.until_notes(2)
        assert sorted(a.notes) == sorted([(b.id, b"1"), (a.id, b"2")])
        assert a.channel.is_connected(b.id)
        assert b.identity.cluster_id == a.identity.cluster_id
        assert b.channel.secrets.keyring.keys == a.channel.secrets.keyring.keys
        assert b.channel.secrets.admin.hashes == a.channel.secrets.admin.hashes
