"""The sheet of API tokens on its way to members, over real connections: told, taken, revoked, handed on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio

from frys_node.base.errors import FrysError, NotReady, SecurityError
from frys_node.base.types import NodeId
from frys_node.secure.api_tokens import API_TOKENS_PATH, Grant
from frys_node.trust.api_tokens import TELL_TOKENS, ApiTokenDesk, HeldTokens, TellTokens
from frys_node.trust.token_uses import TOKEN_USES, AskUses, TokenUses, ToldUses
from tests.integration.channel.channel_rig import CLOCK, ENTROPY, Node, create, join, open_node, running

READ = Grant(role="read", ttl_s=600)


class Office:
    """A node with its desk; `term` is what its topology record would say."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.term = 1
        self.live: list[Office] = []
        self.desk = ApiTokenDesk(
            node.channel.secrets.tokens,
            node.channel,
            ENTROPY,
            CLOCK,
            issuer=lambda: node.channel.issuer,
            term=lambda: self.term,
            members=lambda: [(office.node.id, office.node.identity.node_name) for office in self.live],
        )
        self.desk.serve()
        node.channel.on_connection(self.desk.connected)

    def knows(self, text: str) -> bool:
        """True if the bearer is somebody's here."""
        return self.node.channel.secrets.tokens.authenticate(text, CLOCK.unix_ns() // 1_000_000_000) is not None

    async def until(self, text: str, known: bool) -> None:
        """Wait until it is, or is not."""
        with trio.fail_after(20):
            while self.knows(text) is not known:  # noqa: ASYNC110 - nothing tells
                await trio.sleep(0.005)


def files_of(directory: Path) -> list[Path]:
    """Return every file below."""
    return [path for path in directory.rglob("*") if path.is_file()]


@asynccontextmanager
async def offices(tmp_path: Path, names: str) -> AsyncIterator[list[Office]]:
    """Run the issuer and members that know one another, each with its desk at work."""
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(running(await create(tmp_path / names[0], names[0])))]
        for name in names[1:]:
            nodes.append(await stack.enter_async_context(running(await join(tmp_path / name, nodes[0], name))))
        made = [Office(node) for node in nodes]
        nursery = await stack.enter_async_context(trio.open_nursery())
        for office in made:
            office.live = made
            for other in made:
                office.node.channel.learn(other.node.id, other.node.address, other.node.identity.node_name)
            nursery.start_soon(office.desk.run)
        yield made
        nursery.cancel_scope.cancel()


async def test_a_token_is_in_force_everywhere_when_it_is_told_and_nowhere_once_it_is_revoked(tmp_path: Path) -> None:
    """`tell_all` counts who holds the sheet; after it a bearer is known, or unknown, at each of them."""
    async with offices(tmp_path, "abc") as (a, b, c):
        text, info = a.desk.create(READ)
        assert await a.desk.tell_all() == (3, 3)
        assert [office.knows(text) for office in (a, b, c)] == [True] * 3
        assert [i.id for i in c.desk.infos()] == [info.id]
        a.desk.revoke(info.id)
        assert await a.desk.tell_all() == (3, 3)
        assert [office.knows(text) for office in (a, b, c)] == [False] * 3


async def test_a_member_that_was_away_learns_of_a_revocation_when_it_is_back(tmp_path: Path) -> None:
    """It comes up with what its disk says, and loses the token as soon as the issuer reaches it."""
    async with offices(tmp_path, "ab") as (a, b):
        text, info = a.desk.create(READ)
        await a.desk.tell_all()
        disk, identity = b.node.disk, b.node.identity
        b.live = a.live = [a]
        await b.node.channel.drain()
        a.desk.revoke(info.id)
        assert await a.desk.tell_all() == (1, 1)
        back = await open_node(disk, identity)
        async with running(back), trio.open_nursery() as nursery:
            again = Office(back)
            assert again.knows(text)
            a.live = [a, again]
            a.node.channel.learn(back.id, back.address, "b")
            again.node.channel.learn(a.node.id, a.node.address, "a")
            nursery.start_soon(again.desk.run)
            await again.node.channel.connect(a.node.id)
            await again.until(text, known=False)
            nursery.cancel_scope.cancel()


async def test_only_the_issuer_tells_and_only_it_makes(tmp_path: Path) -> None:
    """A member can neither slip a sheet to another nor make a token of its own."""
    async with offices(tmp_path, "abc") as (a, b, c):
        a.desk.create(READ)
        await a.desk.tell_all()
        forged = b.node.channel.secrets.tokens
        text, _ = forged.create(ENTROPY.token_bytes(36), READ, now_unix_s=CLOCK.unix_ns() // 10**9, term=1)
        for target in (a, c):
            with pytest.raises(SecurityError, match="only the issuer"):
                await b.node.channel.call(target.node.id, TELL_TOKENS, TellTokens(forged.sheet))
            assert not target.knows(text)
        with pytest.raises(NotReady, match="not the issuer"):
            b.desk.create(READ)
        with pytest.raises(FrysError, match="not the issuer"):
            b.desk.revoke("00000000")
        # With its next word the honest issuer outruns the forged sheet: the member is not deaf to it for ever.
        a.desk.create(READ)
        await b.until(text, known=False)


async def test_tokens_outlive_a_hand_over_and_the_old_issuers_word_is_worth_nothing_then(tmp_path: Path) -> None:
    """`b` takes the role with a higher term; a token that `a` made unseen is gone once `b` has told it."""
    async with offices(tmp_path, "abc") as (a, b, c):
        text, _ = a.desk.create(READ)
        await a.desk.tell_all()
        unseen, _ = a.node.channel.secrets.tokens.create(
            ENTROPY.token_bytes(36), READ, now_unix_s=CLOCK.unix_ns() // 10**9, term=1
        )
        for office in (a, b, c):
            office.term = 2
            office.node.channel.issuer = b.node.id
            office.desk.wake()
        await a.until(unseen, known=False)
        assert [office.knows(text) for office in (a, b, c)] == [True] * 3
        fresh, _ = b.desk.create(READ)
        assert await b.desk.tell_all() == (3, 3)
        assert [office.knows(fresh) for office in (a, b, c)] == [True] * 3


async def test_no_member_has_the_text_of_a_token(tmp_path: Path) -> None:
    """A search of every file of every node for the secret finds nothing."""
    async with offices(tmp_path, "ab") as (a, _):
        text, _ = a.desk.create(READ)
        await a.desk.tell_all()
        secret = text.rpartition("_")[2].encode()
        files = files_of(tmp_path)
        assert sum(path.match(API_TOKENS_PATH) for path in files) == 2
        assert not [path for path in files if secret in path.read_bytes()]
        assert all(path.stat().st_mode & 0o077 == 0 for path in files if path.match(API_TOKENS_PATH))


async def test_a_change_while_a_member_is_being_told_is_no_sign_of_an_old_disk(tmp_path: Path) -> None:
    """Two calls under way answer with the newest version: both are right, and nothing is written anew."""
    async with offices(tmp_path, "ab") as (a, b):
        await a.desk.tell_all()
        asked = trio.Event()
        serve, first = b.desk._serve_tell, True

        async def slow(caller: NodeId, request: TellTokens) -> HeldTokens:
            nonlocal first
            if first:
                first = False
                asked.set()
                while request.sheet.version >= b.node.channel.secrets.tokens.sheet.version:  # noqa: ASYNC110
                    await trio.sleep(0.001)
            return await serve(caller, request)

        b.node.channel.unserve(TELL_TOKENS)
        b.node.channel.serve(TELL_TOKENS, slow)
        a.desk._told.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.desk.tell, b.node.id)
            await asked.wait()
            a.desk.create(READ)
            version = a.node.channel.secrets.tokens.sheet.version
            await a.desk.tell(b.node.id)
        assert a.node.channel.secrets.tokens.sheet.version == version


async def test_a_promoted_node_that_missed_a_revocation_does_not_bring_the_token_back(tmp_path: Path) -> None:
    """`c` hears of it and `b` does not; then the issuer is gone and `b` reigns: `b` learns of it from `c`."""
    async with offices(tmp_path, "abc") as (a, b, c):
        text, info = a.desk.create(READ)
        assert await a.desk.tell_all() == (3, 3)
        a.live = [a, c]
        b.node.channel.unserve(TELL_TOKENS)
        a.desk.revoke(info.id)
        await c.until(text, known=False)
        assert b.knows(text)
        b.desk.serve()
        for office in (b, c):
            office.term, office.live = 2, [b, c]
            office.node.channel.issuer = b.node.id
        a.node.channel.issuer = b.node.id
        b.desk.wake()
        assert not c.knows(text)
        await b.until(text, known=False)
        assert await b.desk.tell_all() == (2, 2)
        assert not c.knows(text)


@pytest.mark.parametrize("claim", [HeldTokens(1, 2**53), HeldTokens(2**53, 1), HeldTokens(1, 9, ("00000000",) * 9)])
async def test_a_member_that_makes_things_up_stops_nobody(tmp_path: Path, claim: HeldTokens) -> None:
    """Its claims change nothing but a number; the issuer goes on, and the others are told."""
    async with offices(tmp_path, "abc") as (a, b, c):

        async def lie(_caller: NodeId, _request: TellTokens) -> HeldTokens:
            await trio.lowlevel.checkpoint()
            return claim

        b.node.channel.unserve(TELL_TOKENS)
        b.node.channel.serve(TELL_TOKENS, lie)
        text, _ = a.desk.create(READ)
        told, members = await a.desk.tell_all()
        assert (told <= 3, members) == (True, 3)
        await c.until(text, known=True)
        again, _ = a.desk.create(READ)
        await c.until(again, known=True)
        assert a.node.channel.secrets.tokens.sheet.version.seq < 100


async def test_an_issuer_with_an_old_disk_is_believed_only_once_its_sheet_is_above_the_members(tmp_path: Path) -> None:
    """It writes a sheet of the very version that a member holds with other rows: that is not taken for told."""
    async with offices(tmp_path, "ab") as (a, b):
        await a.desk.tell_all()
        tokens = a.node.channel.secrets.tokens
        old = tokens.sheet
        forgotten, _ = a.desk.create(READ)
        await a.desk.tell_all()
        held = tokens.sheet.version
        tokens._use(old)
        a.desk._told.clear()
        drawn = ENTROPY.token_bytes(36)
        text, _ = tokens.create(drawn, READ, now_unix_s=CLOCK.unix_ns() // 10**9, term=1)
        assert tokens.sheet.version == held
        with pytest.raises(NotReady, match="newer sheet"):
            await a.desk.tell(b.node.id)
        await a.desk.tell(b.node.id)
        assert [office.knows(each) for office in (a, b) for each in (text, forgotten)] == [True, False] * 2


async def test_the_last_use_is_that_of_whichever_node_saw_it_and_says_of_how_many(tmp_path: Path) -> None:
    """To the minute, from every node that answers; one that does not, or claims the future, spoils nothing."""
    async with offices(tmp_path, "abc") as made:
        a, b, c = made
        text, info = a.desk.create(READ)
        unused, _ = a.desk.create(READ)
        await a.desk.tell_all()
        desks = [
            TokenUses(
                office.node.channel.secrets.tokens,
                office.node.channel,
                CLOCK,
                members=lambda: [(each.node.id, "") for each in made],
            )
            for office in made
        ]
        desks[0].serve()
        desks[1].serve()
        assert b.knows(text)
        now = CLOCK.unix_ns() // 1_000_000_000
        listed, told, members = await desks[0].add_to(a.desk.infos())
        assert (told, members) == (2, 3)
        assert {each.id: each.last_used_at for each in listed} == {
            info.id: now - now % 60,
            unused.split("_")[1]: None,
        }

        async def lie(_caller: NodeId, _request: AskUses) -> ToldUses:
            await trio.lowlevel.checkpoint()
            return ToldUses({info.id: 2**53, "unknown": 1})

        c.node.channel.serve(TOKEN_USES, lie)
        listed, told, members = await desks[0].add_to(a.desk.infos())
        assert (told, members, len(listed)) == (3, 3, 2)
        assert max(each.last_used_at or 0 for each in listed) <= CLOCK.unix_ns() // 1_000_000_000


async def test_members_that_nobody_hears_count_among_those_that_are_not_told(tmp_path: Path) -> None:
    """A silent member may serve clients beyond a partition: the answer does not say that the token is refused there."""
    async with offices(tmp_path, "ab") as (a, b):
        a.live = [a]
        a.desk._enrolled = lambda: (a.node.id, b.node.id)
        a.desk.create(READ)
        assert await a.desk.tell_all() == (1, 2)


async def test_a_change_that_races_a_hand_over_is_not_called_done(tmp_path: Path) -> None:
    """The role moves while members are told: the answer is to look again, not how many hold a sheet of no worth."""
    async with offices(tmp_path, "ab") as (a, b):
        await a.desk.tell_all()
        serve = b.desk._serve_tell

        async def moved(caller: NodeId, request: TellTokens) -> HeldTokens:
            a.node.channel.issuer = b.node.id
            return await serve(caller, request)

        b.node.channel.unserve(TELL_TOKENS)
        b.node.channel.serve(TELL_TOKENS, moved)
        a.desk.create(READ)
        with pytest.raises(NotReady, match="role moved"):
            await a.desk.tell_all()
