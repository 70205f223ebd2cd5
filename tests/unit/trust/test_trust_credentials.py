"""What members tell each other: keys and expulsions that the authority signed, in any order and by any way."""

from __future__ import annotations

import hashlib
import itertools

import pytest

from frys_node.base.errors import NotReady, Overloaded, StorageError, UsageError, WireError
from frys_node.base.types import ClusterId, NodeId
from frys_node.channel.bootstrap import create_cluster
from frys_node.channel.messages import BODY_BYTES_MAX, CHANNEL_CODEC
from frys_node.secure import certificates
from frys_node.secure.admin import ADMIN_PATH, HASHES_MAX, AdminTokens, AdminWord, replace_admin_token
from frys_node.secure.api_tokens import ApiTokens
from frys_node.secure.identity import Identity
from frys_node.secure.keyring import EPOCHS_MAX, KEYRING_PATH, EpochKey
from frys_node.secure.signing_keys import new_key
from frys_node.secure.statements import EXPULSIONS_MAX, REVOKED_MAX, SIGNATURE_BYTES_MAX, Expulsion, Statements
from frys_node.testing.clock import FakeClock
from frys_node.testing.disk import FakeDisk
from frys_node.testing.entropy import FakeEntropy
from frys_node.trust import credentials
from frys_node.trust.credentials import MemberSecrets
from frys_node.trust.messages import Credentials

_CLUSTERS = itertools.count()
X, Y = NodeId("0e" * 16), NodeId("0f" * 16)


class Member:
    """One node's secrets on a disk of its own; the issuer's if it is the cluster's first."""

    def __init__(self, cluster: Identity | None = None) -> None:
        self.disk = FakeDisk()
        if cluster is None:
            entropy, clock = FakeEntropy(f"c{next(_CLUSTERS)}"), FakeClock(source=lambda: 9.0)
            cluster = create_cluster(self.disk, entropy, clock, cluster_name="test", node_name="a")
            self.identity = cluster
        else:
            self.identity = _without_authority(cluster)
        self.open()

    def open(self) -> None:
        """Start, or start again."""
        self.secrets = MemberSecrets(self.disk)
        self.secrets.statements = Statements(self.identity)

    def hear(self, other: Member, *, from_issuer: bool = False) -> bool:
        """Take what another member offers."""
        return self.secrets.take(other.secrets.offer(), from_issuer=from_issuer)

    @property
    def epochs(self) -> list[int]:
        return [key.epoch for key in self.secrets.keyring.keys]


def _without_authority(identity: Identity) -> Identity:
    held = identity.renewed(identity.certificate)
    held.ca_key = None
    return held


def _cluster() -> tuple[Member, Member, Member]:
    """The issuer and two members that hold the first key."""
    issuer = Member()
    b, c = Member(issuer.identity), Member(issuer.identity)
    assert b.hear(issuer, from_issuer=True)
    assert c.hear(b)  # signed: it need not come from the issuer
    return issuer, b, c


def test_a_key_that_the_authority_did_not_sign_is_taken_from_nobody_but_the_issuer() -> None:
    """A member that will be expelled could plant a key of its own, of an epoch that no rotation overtakes."""
    issuer, b, _ = _cluster()
    planted = EpochKey(1_000, b"p" * 32)
    foreign = Statements(Member().identity).sign_key(planted)
    held = b.secrets.keyring.keys
    altered = EpochKey(2, held[0].key, held[0].made_unix_s, 0, held[0].signature)
    for key in (planted, foreign, altered, EpochKey(2, b"x" * 32, signature=b"short")):
        assert not b.secrets.take(Credentials((key,)), from_issuer=False)
    assert b.secrets.keyring.keys == held
    assert not b.secrets.take(Credentials((EpochKey(1_000, b"p" * 32, expelled=7),)), from_issuer=True)
    assert b.secrets.take(Credentials((EpochKey(2, b"q" * 32),)), from_issuer=True)
    with pytest.raises(NotReady, match="authority"):
        b.secrets.rotate(b"n" * 32)
    issuer.secrets.rotate(b"n" * 32)


def test_an_expulsion_is_believed_from_anybody_and_only_if_the_authority_made_it() -> None:
    """A member that was away learns it with its first connection; nobody can expel another by itself."""
    issuer, b, c = _cluster()
    assert issuer.secrets.expel(X, b"k" * 32, 9)
    assert not issuer.secrets.expel(X, b"l" * 32, 9)
    assert b.hear(issuer, from_issuer=True)
    assert c.hear(b)
    assert list(c.secrets.revoked) == [X]
    assert c.epochs == [2, 1]
    forged = Statements(Member().identity).expel([Y])
    said = c.secrets.expulsions[0]
    wrong = (
        forged,
        Expulsion((X, Y), said.signature),
        Expulsion((X, X), said.signature),
        Expulsion(("zz" * 16,), said.signature),
        Expulsion((), said.signature),
    )
    assert not c.secrets.take(Credentials((), expulsions=wrong), from_issuer=True)
    for from_issuer in (False, True):
        # Any member can make itself the issuer: it must not shut everybody out by that.
        assert not c.secrets.take(Credentials((), revoked=(Y,)), from_issuer=from_issuer)
    c.open()
    assert list(c.secrets.revoked) == [X]
    assert c.epochs == [2, 1]


def test_a_key_is_not_passed_on_before_whom_it_shuts_out_is_known() -> None:
    """Keys and expulsions may come by different ways: in between the new key could be given to the expelled node."""
    issuer, b, _ = _cluster()
    issuer.secrets.expel(X, b"k" * 32, 9)
    told = issuer.secrets.offer()
    assert b.secrets.take(Credentials(told.keys), from_issuer=False)
    assert b.epochs == [2, 1]
    assert [key.epoch for key in b.secrets.offer().keys] == [1]
    assert b.secrets.take(Credentials((), expulsions=told.expulsions), from_issuer=False)
    assert [key.epoch for key in b.secrets.offer().keys] == [2, 1]
    assert b.secrets.farewell() == Credentials((), expulsions=told.expulsions)


def test_retired_keys_are_gone_from_the_disk_and_come_in_no_more() -> None:
    """What an expelled node knows opens nothing on a disk that is stolen later."""
    issuer, b, c = _cluster()
    first = b.secrets.keyring.keys[0].key
    issuer.secrets.expel(X, b"k" * 32, 9)
    b.hear(issuer)
    assert first in (b.disk.read(KEYRING_PATH) or b"")
    assert not b.secrets.retire()
    b.secrets.keyring.promote()
    assert b.secrets.retire()
    assert first not in (b.disk.read(KEYRING_PATH) or b"")
    assert not b.hear(c)
    b.open()
    assert not b.hear(c)
    assert b.epochs == [2]


def test_the_statements_of_two_issuers_are_all_kept_until_one_names_all() -> None:
    """One expelled and died, another was promoted and expelled somebody else: nobody comes back, in whatever order."""
    issuer, b, c = _cluster()
    second = Member(issuer.identity)
    second.identity.ca_key = issuer.identity.ca_key
    second.hear(issuer)
    issuer.secrets.expel(X, b"k" * 32, 1)
    second.secrets.expel(Y, b"l" * 32, 2)
    b.hear(issuer)
    c.hear(second)
    b.hear(c)
    c.hear(b)
    assert set(b.secrets.revoked) == set(c.secrets.revoked) == {X, Y}
    assert b.secrets.keyring.keys == c.secrets.keyring.keys  # of the same epoch, everybody chooses the same
    assert second.hear(b)
    assert second.secrets.endorse()
    assert not second.secrets.endorse()
    b.hear(second)
    assert [said.nodes for said in b.secrets.expulsions] == [(X, Y)]


def test_what_an_older_version_left_unsigned_is_signed_by_the_issuer() -> None:
    """Keys and expulsions of the first format go on, and then travel by any way."""
    issuer, _, c = _cluster()
    old = EpochKey(5, b"o" * 32)
    issuer.secrets.keyring.merge((old,))
    issuer.secrets.revoke(X)
    assert issuer.secrets.offer().revoked == (X,)
    assert not c.secrets.take(Credentials((old,), revoked=(X,)), from_issuer=False)
    assert issuer.secrets.endorse(77)
    assert [said.nodes for said in issuer.secrets.expulsions] == [(X,)]
    assert issuer.secrets.keyring.keys[0].made_unix_s == 77
    assert not issuer.secrets.endorse(78)
    assert c.hear(issuer)
    assert list(c.secrets.revoked) == [X]
    assert c.epochs == [5, 1]


def test_a_cluster_expels_no_more_than_it_can_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the limit the command is refused; before, it was said to be done and nothing was."""
    issuer, *_ = _cluster()
    monkeypatch.setattr(credentials, "REVOKED_MAX", 1)
    issuer.secrets.expel(X, b"k" * 32, 1)
    with pytest.raises(Overloaded, match="expelled 1"):
        issuer.secrets.expel(Y, b"l" * 32, 1)
    assert list(issuer.secrets.revoked) == [X]
    assert issuer.epochs == [2, 1]


def test_who_was_expelled_is_durable_before_the_key_that_shuts_it_out() -> None:
    """A crash between the two writes leaves the expulsion; the next start makes the key."""
    issuer, *_ = _cluster()
    written: list[str] = []
    write = issuer.disk.write

    def refuse(path: str, data: bytes, *, durable: bool = True) -> None:
        if path == KEYRING_PATH:
            raise StorageError("the disk is full")
        written.append(path)
        write(path, data, durable=durable)

    issuer.disk.write = refuse  # type: ignore[method-assign]
    with pytest.raises(StorageError):
        issuer.secrets.expel(X, b"k" * 32, 1)
    assert written == [credentials.EXPULSIONS_PATH, credentials.REVOKED_PATH]
    del issuer.disk.write  # type: ignore[method-assign]
    issuer.open()
    newest = issuer.secrets.keyring.newest
    assert newest is not None
    assert (newest.expelled, len(issuer.secrets.revoked)) == (0, 1)  # which `KeyKeeper` mends


def test_statements_are_of_one_cluster() -> None:
    """The cluster's id is signed too: an authority that was copied to make another cluster says nothing of this one."""
    issuer, *_ = _cluster()
    said = issuer.secrets.statements
    assert said is not None
    expulsion = said.expel([X])
    assert said.is_said(expulsion)
    issuer.identity.cluster_id = ClusterId("0" * 32)
    assert not said.is_said(expulsion)


def test_what_a_new_authority_signed_anew_spreads_by_any_way_and_comes_to_rest() -> None:
    """While two authorities count, members with signatures of one and the other must not tell each other for ever."""
    issuer, b, c = _cluster()
    issuer.secrets.expel(X, b"k" * 32, 1)
    b.hear(issuer)
    c.hear(b)
    old = issuer.identity.ca_certificate
    key = new_key(FakeEntropy("follows"))
    certificate = certificates.create_authority(key, issuer.identity.cluster_id, "test", 9 * 10**18, is_first=False)
    for member in (issuer, b, c):
        member.identity.ca_certificate, member.identity.also_trusted = certificate, (old,)
    issuer.identity.ca_key = key
    assert issuer.secrets.endorse()
    assert b.hear(issuer)
    assert not issuer.hear(c)
    assert not b.hear(c)
    assert c.hear(b)  # not the issuer, and no key or expulsion is new
    assert not b.hear(c)
    assert c.secrets.expulsions == issuer.secrets.expulsions
    assert c.secrets.keyring.keys == issuer.secrets.keyring.keys


class FullDisk:
    """A disk that refuses every write while it is full."""

    def __init__(self, disk: FakeDisk) -> None:
        self._disk = disk
        self.is_full = True

    def write(self, path: str, data: bytes, *, durable: bool = True) -> None:
        """See `Disk.write`."""
        if self.is_full:
            raise StorageError("the disk is full")
        self._disk.write(path, data, durable=durable)


def test_an_expulsion_that_the_disk_refused_is_told_at_once_and_made_good_when_asked_again() -> None:
    """It was in force in memory alone before, told nobody, and asking again said that there was nothing to do."""
    issuer, b, _ = _cluster()
    told: list[int] = []
    issuer.secrets.on_change = lambda: told.append(len(issuer.secrets.revoked))
    full = FullDisk(issuer.disk)
    issuer.secrets._disk = full  # type: ignore[assignment]
    with pytest.raises(StorageError):
        issuer.secrets.expel(X, b"k" * 32, 1)
    assert told == [1]
    assert b.hear(issuer)
    assert list(b.secrets.revoked) == [X]
    full.is_full = False
    assert issuer.secrets.expel(X, b"k" * 32, 1)
    assert issuer.epochs == [2, 1]
    assert not issuer.secrets.expel(X, b"l" * 32, 1)
    issuer.open()
    assert list(issuer.secrets.revoked) == [X]
    assert issuer.epochs == [2, 1]


def test_what_a_members_disk_refused_is_written_when_it_takes_it_again() -> None:
    """`KeyKeeper` flushes at each of its looks: a full disk must not bring the expelled back with the next restart."""
    issuer, b, _ = _cluster()
    issuer.secrets.expel(X, b"k" * 32, 1)
    full = FullDisk(b.disk)
    b.secrets._disk = full  # type: ignore[assignment]
    with pytest.raises(StorageError):
        b.hear(issuer)
    assert not b.hear(issuer)
    full.is_full = False
    b.secrets.flush()
    b.open()
    assert list(b.secrets.revoked) == [X]
    assert b.epochs == [2, 1]


def test_only_node_ids_are_expelled_and_all_of_them_together_fit_into_a_frame() -> None:
    """Anything else makes a statement that every member rejects, or one that is too large to be told."""
    issuer, b, _ = _cluster()
    for text in ("ab", "zz" * 16, "AB" * 16, "ab" * 400_000):
        for refused in (
            lambda text=text: issuer.secrets.expel(NodeId(text), b"k" * 32, 1),
            lambda text=text: issuer.secrets.revoke(NodeId(text)),
        ):
            with pytest.raises(UsageError, match="no node id"):
                refused()
        assert not b.secrets.take(Credentials((), revoked=(text,)), from_issuer=True)
    assert not issuer.secrets.revoked
    assert not b.secrets.revoked
    disk = FakeDisk()
    disk.write(credentials.REVOKED_PATH, b"ab\n" + X.encode())
    assert list(MemberSecrets(disk).revoked) == [X]
    nodes = tuple(f"{number:032x}" for number in range(REVOKED_MAX))
    words = tuple(Expulsion(nodes, b"s" * SIGNATURE_BYTES_MAX) for _ in range(EXPULSIONS_MAX))
    admin = AdminWord(1 << 53, (b"h" * 32,) * HASHES_MAX, b"s" * SIGNATURE_BYTES_MAX)
    keys = tuple(EpochKey(1, b"k" * 32, signature=b"s" * SIGNATURE_BYTES_MAX) for _ in range(EPOCHS_MAX))
    largest = CHANNEL_CODEC.encode(Credentials(keys, (b"h" * 32,) * HASHES_MAX, nodes, words, admin))
    assert len(largest) < BODY_BYTES_MAX
    assert CHANNEL_CODEC.decode(largest)


def test_every_expelled_node_is_named_for_members_that_know_no_statements() -> None:
    """An older member reads `revoked` from the issuer alone: without it it would hand the new key to the expelled."""
    issuer, b, _ = _cluster()
    issuer.secrets.expel(X, b"k" * 32, 1)
    b.hear(issuer)
    assert issuer.secrets.offer().revoked == b.secrets.offer().revoked == (X,)


@pytest.mark.parametrize(
    "bogus",
    [
        Credentials((), expulsions=tuple(Expulsion((f"{n:032x}",), b"s" * 64) for n in range(EXPULSIONS_MAX + 1))),
        Credentials(tuple(EpochKey(n + 1, b"k" * 32, signature=b"s") for n in range(EPOCHS_MAX + 1))),
        Credentials((), (b"h" * 32,) * (HASHES_MAX + 1)),
        Credentials((), expulsions=(Expulsion((X,), b"s" * (SIGNATURE_BYTES_MAX + 1)),)),
        Credentials((), expulsions=(Expulsion(("ab",), b"s"),)),
        Credentials((), revoked=("ab",)),
        Credentials((EpochKey(1, b"k" * 100_000),)),
    ],
)
def test_credentials_that_no_honest_member_tells_are_refused_before_any_signature(bogus: Credentials) -> None:
    """A frame of nine thousand statements held the loop up for a second."""
    with pytest.raises(WireError):
        CHANNEL_CODEC.decode(CHANNEL_CODEC.encode(bogus))


def test_a_forged_statement_is_counted_once_and_not_verified_again() -> None:
    """Who repeats what an authority of before has signed is honest; who brings a new one each time is not."""
    issuer, b, _ = _cluster()
    forged = [Expulsion((X,), bytes([number]) * 64) for number in range(3)]
    statements = b.secrets.statements
    assert statements is not None
    for _ in range(5):
        assert not b.secrets.take(Credentials((), expulsions=tuple(forged)), from_issuer=False)
    assert statements.refused == 3
    assert b.hear(issuer) is False


def test_hashes_of_admin_tokens_are_taken_from_the_issuer_alone() -> None:
    """Any member could plant one, which outlived its expulsion, and fill the table before the real one came."""
    issuer, b, _ = _cluster()
    planted = Credentials((), admin_hashes=(b"h" * 32,))
    assert not b.secrets.take(planted, from_issuer=False)
    assert not issuer.secrets.take(planted, from_issuer=False)
    assert b"h" * 32 not in b.secrets.offer().admin_hashes
    assert b.secrets.take(planted, from_issuer=True)


def _token(member: Member) -> str:
    return (member.disk.read(ADMIN_PATH) or b"").decode().strip()


def test_a_replaced_admin_token_is_refused_everywhere_and_stays_so() -> None:
    """By the authority's word, from whoever brings it; neither restarts, nor members of before, nor its file help."""
    issuer, b, c = _cluster()
    old = _token(issuer)
    b.hear(issuer, from_issuer=True)
    assert b.secrets.admin.check(old)
    replace_admin_token(issuer.disk, FakeEntropy("new"), issuer.secrets.replace_admin)
    new = _token(issuer)
    assert new != old
    before = Credentials((), b.secrets.offer().admin_hashes)
    assert b.hear(issuer)  # not as from the issuer
    assert c.hear(b)
    assert not c.hear(b)
    for member in (issuer, b, c):
        member.secrets.take(before, from_issuer=True)
        for _ in range(2):
            assert member.secrets.admin.check(new)
            assert not member.secrets.admin.check(old)
            member.open()
    b.disk.write(ADMIN_PATH, old.encode())
    b.open()
    assert not b.secrets.admin.check(old)


def test_whoever_read_the_tokens_first_accepts_what_is_learned_later() -> None:
    """The HTTP front checks bearers by hashes that were read before the keys; it knows the issuer's words at once."""
    issuer = Member()
    member = Member(issuer.identity)
    admin, tokens = AdminTokens.load(member.disk), ApiTokens(member.disk)
    secrets = MemberSecrets(member.disk, admin, tokens)
    secrets.statements = Statements(member.identity)
    assert secrets.tokens is tokens
    assert not admin.check("one")
    secrets.take(Credentials((), (hashlib.sha256(b"one").digest(),)), from_issuer=True)
    assert admin.check("one")


def test_only_the_authoritys_word_replaces_the_admin_token_and_never_an_older_one() -> None:
    """A member cannot make one, alter one, or bring back what was said before."""
    issuer, b, _ = _cluster()
    with pytest.raises(NotReady, match="authority"):
        replace_admin_token(b.disk, FakeEntropy("b"), b.secrets.replace_admin)
    assert _token(b) == ""
    replace_admin_token(issuer.disk, FakeEntropy("1"), issuer.secrets.replace_admin)
    first = issuer.secrets.admin.word
    assert first is not None
    replace_admin_token(issuer.disk, FakeEntropy("2"), issuer.secrets.replace_admin)
    second = issuer.secrets.admin.word
    assert second is not None
    assert b.hear(issuer)
    own = b"o" * 32
    foreign = Statements(Member().identity).say_admin(9, (own,))
    for word in (
        first,
        foreign,
        AdminWord(3, (own,), second.signature),
        AdminWord(3, second.hashes, second.signature),
        AdminWord(3, (), b""),
        AdminWord(3, (b"short",), second.signature),
    ):
        assert not b.secrets.take(Credentials((), admin=word), from_issuer=True)
    assert b.secrets.admin.word == second


def test_the_word_on_the_admin_token_is_signed_anew_by_the_authority_that_follows() -> None:
    """Members that trust the new one alone would otherwise not believe it, and take the token of before."""
    issuer, b, c = _cluster()
    replace_admin_token(issuer.disk, FakeEntropy("1"), issuer.secrets.replace_admin)
    b.hear(issuer)
    old = issuer.identity.ca_certificate
    key = new_key(FakeEntropy("follows"))
    certificate = certificates.create_authority(key, issuer.identity.cluster_id, "test", 9 * 10**18, is_first=False)
    for member in (issuer, b):
        member.identity.ca_certificate, member.identity.also_trusted = certificate, (old,)
    c.identity.ca_certificate = certificate
    issuer.identity.ca_key = key
    assert not c.hear(b)
    assert issuer.secrets.endorse()
    assert not issuer.secrets.endorse()
    assert b.hear(issuer)
    assert not issuer.hear(b)
    assert c.hear(b)
    assert c.secrets.admin.check(_token(issuer))
