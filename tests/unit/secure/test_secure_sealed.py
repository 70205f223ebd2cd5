"""Sealed files: what was sealed comes out, whole, for whom it was sealed, and nothing else ever does."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given, settings
from hypothesis import strategies as st

from frys_node.base.errors import FrysError, UsageError
from frys_node.secure import sealed, sealed_header
from frys_node.secure.errors import NotSealed, SealedCut, SealedDamaged, SealedFormat, SealedKey
from frys_node.secure.hpke import hkdf, unwrap, wrap
from frys_node.secure.kem import PROVIDERS, load_kem
from frys_node.secure.recipient import SealKey, parse_key
from frys_node.secure.sealed import CHUNK_BYTES, TAG_BYTES, Opener, Sealer, content_bytes, sealed_bytes
from frys_node.secure.sealed_header import RECIPIENTS_MAX, head_bytes, make_head, read_head, unlock
from frys_node.testing.entropy import FakeEntropy
from frys_node.transport.entropy import SystemEntropy

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
SEALED_CHUNK = CHUNK_BYTES + TAG_BYTES
HEAD = head_bytes(1)

KEMS = {provider: load_kem(provider) for provider in PROVIDERS}
KEYS = {provider: SealKey.of(provider, kem.generate()) for provider, kem in KEMS.items()}
KEY = KEYS["cryptography"]


def seal(content: bytes, *keys: SealKey, provider: str = "cryptography", piece: int = 1 << 20) -> bytes:
    """Seal content to keys, pushed in pieces of one size."""
    sealer = Sealer([key.recipient for key in keys or (KEY,)], kem=KEMS[provider], entropy=SystemEntropy())
    parts = [sealer.push(content[start : start + piece]) for start in range(0, len(content), piece)]
    return b"".join([*parts, sealer.finish()])


def unseal(data: bytes, key: SealKey = KEY, piece: int = 1 << 20) -> bytes:
    """Open a file, pushed in pieces of one size."""
    opener = Opener(key, kem=KEMS[key.provider])
    parts = [opener.push(data[start : start + piece]) for start in range(0, len(data), piece)]
    return b"".join([*parts, opener.finish()])


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 3),
    st.integers(-17, 17),
    st.sampled_from([1_000, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, SEALED_CHUNK, 1 << 20]),
    st.sampled_from([997, CHUNK_BYTES, SEALED_CHUNK - 1, SEALED_CHUNK, SEALED_CHUNK + 1, 1 << 20]),
)
def test_content_of_any_size_comes_back_whatever_the_pieces(chunks: int, more: int, push: int, pull: int) -> None:
    """Around every chunk boundary, in pieces around them too; the length is as foretold."""
    content = random.Random(chunks).randbytes(max(0, chunks * CHUNK_BYTES + more))
    data = seal(content, piece=push)
    assert len(data) == sealed_bytes(len(content), 1)
    assert unseal(data, piece=pull) == content


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=300), st.integers(1, 40), st.integers(1, 40))
def test_small_content_comes_back_from_tiny_pieces(content: bytes, push: int, pull: int) -> None:
    """Whatever it is, and if the head itself arrives in crumbs."""
    assert unseal(seal(content, piece=push), piece=pull) == content


@pytest.mark.parametrize("maker", PROVIDERS)
@pytest.mark.parametrize("holder", PROVIDERS)
def test_each_provider_opens_what_the_other_sealed(maker: str, holder: str) -> None:
    """Files are of no provider; only private keys are."""
    content = b"across" * 20_000
    assert unseal(seal(content, KEYS[holder], provider=maker), KEYS[holder]) == content


def test_every_recipient_opens_the_file_and_nobody_else() -> None:
    """One file for several keys of both providers; a foreign key is told whose file it is, and gets nothing."""
    other = SealKey.of("cryptography", KEMS["cryptography"].generate())
    data = seal(b"shared", KEYS["pqcrypto"], KEY, KEY)
    assert len(data) == sealed_bytes(6, 2)
    assert unseal(data, KEY) == unseal(data, KEYS["pqcrypto"]) == b"shared"
    with pytest.raises(SealedKey) as caught:
        unseal(data, other)
    assert repr(KEY.recipient)[len("Recipient(") : -1] in caught.value.message
    assert repr(other.recipient)[len("Recipient(") : -1] in caught.value.message


def test_a_key_whose_public_half_is_anothers_opens_nothing() -> None:
    """The fingerprint only finds the entry; what opens it is the private half, and the public one is bound too."""
    other = KEMS["cryptography"].generate()
    data = seal(b"mine")
    with pytest.raises(SealedDamaged):
        unseal(data, SealKey(KEY.provider, KEY.recipient, other.private))


def test_every_flipped_bit_of_a_small_file_is_refused() -> None:
    """All of them, head and content, each with its own class of error; nothing else is ever accepted."""
    data = bytearray(seal(b"sixteen bytes ok"))
    refused: dict[type[FrysError], int] = {}
    for bit in range(8 * len(data)):
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises(FrysError) as caught:
            unseal(bytes(data))
        refused[type(caught.value)] = refused.get(type(caught.value), 0) + 1
        data[bit // 8] ^= 1 << bit % 8
    assert unseal(bytes(data)) == b"sixteen bytes ok"
    # Magic; version; fingerprint. A count that names more recipients than there are bytes for is a file cut off.
    assert refused.pop(NotSealed) == 8 * 12
    assert refused.pop(SealedFormat) == 16
    assert refused.pop(SealedKey) == 8 * 15
    assert refused.pop(SealedCut) == 3
    assert refused == {SealedDamaged: 8 * len(data) - 8 * 12 - 16 - 8 * 15 - 3}


def test_a_file_cut_at_any_byte_is_refused() -> None:
    """In the head, at its end, within a chunk, exactly between chunks, one byte before the end."""
    data = seal(random.Random(1).randbytes(2 * CHUNK_BYTES + 5))
    between = [HEAD, HEAD + 1, HEAD + 15, HEAD + 16, HEAD + SEALED_CHUNK, HEAD + 2 * SEALED_CHUNK]
    near = [at + more for at in between for more in (-1, 0, 1)]
    for size in [*range(0, HEAD, 37), *near, len(data) - 20, len(data) - 16, len(data) - 1]:
        with pytest.raises((SealedCut, SealedDamaged)) as caught:
            unseal(data[:size])
        assert "cut off" in caught.value.message, size
    for chunks in (1, 2):
        with pytest.raises(SealedCut):
            unseal(data[: HEAD + chunks * SEALED_CHUNK])


def test_chunks_open_only_in_their_own_place_of_their_own_file() -> None:
    """Left out, repeated, swapped, moved to the end, taken from another file of the same recipient and content."""
    content = random.Random(2).randbytes(3 * CHUNK_BYTES)
    one, two = seal(content), seal(content)
    first, second, third = (one[HEAD + n * SEALED_CHUNK : HEAD + (n + 1) * SEALED_CHUNK] for n in range(3))
    foreign = two[HEAD + SEALED_CHUNK : HEAD + 2 * SEALED_CHUNK]
    head = one[:HEAD]
    assert unseal(head + first + second + third) == content
    for chunks in (
        (second, third),
        (first, third),
        (first, first, second, third),
        (first, second, second, third),
        (second, first, third),
        (first, third, second),
        (third, second, first),
        (first, foreign, third),
        (first, second, third, third),
        (first, second, third, foreign),
    ):
        with pytest.raises(SealedDamaged):
            unseal(head + b"".join(chunks))
    with pytest.raises(SealedDamaged):
        unseal(two[:HEAD] + one[HEAD:])


@pytest.mark.parametrize("size", [0, 5, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 7])
@pytest.mark.parametrize("more", [1, 16, 17, SEALED_CHUNK, SEALED_CHUNK + 1])
def test_bytes_after_the_end_are_refused(size: int, more: int) -> None:
    """However few or many: zeros, or a second copy of the file."""
    data = seal(bytes(size))
    for tail in (bytes(more), (data * 2)[:more]):
        with pytest.raises(SealedDamaged):
            unseal(data + tail)


def test_an_empty_last_chunk_after_others_is_refused() -> None:
    """A file has one form only: its maker's key does not let anybody write it in two."""
    sealer = Sealer([KEY.recipient], kem=KEMS["cryptography"], entropy=FakeEntropy())
    data = sealer.push(bytes(CHUNK_BYTES + 1))
    sealer._kept.clear()  # what no caller can do
    with pytest.raises(SealedDamaged, match="empty chunk"):
        unseal(data + sealer.finish())


def test_entries_of_two_files_cannot_be_mixed() -> None:
    """The head is proven as a whole: a recipient cannot be added, taken out or replaced by who has no key."""
    other = KEYS["pqcrypto"]
    one, both = seal(b"x"), seal(b"x", KEY, other)
    size = head_bytes(2) - head_bytes(1)
    front, entry, rest = both[:15], both[15 : 15 + size], both[15 + size :]
    without = front[:-1] + b"\x01" + entry + rest[size:]
    swapped = front + rest[:size] + entry + rest[size:]
    spliced = front + one[15 : 15 + size] + rest
    for data in (without, swapped, spliced):
        with pytest.raises(SealedDamaged):
            unseal(data)


def test_nothing_of_the_content_shows_in_the_file_and_no_file_is_like_another() -> None:
    """Two files of the same content share nothing but magic, version, count and fingerprint."""
    content = b"the plain marker" * 10_000
    one, two = seal(content), seal(content)
    assert b"plain marker" not in one + two
    assert one[:30] == two[:30]
    runs = [one[at : at + 16] for at in range(30, len(one) - 16, 16)]
    assert [run for run in runs if run in two] == []


def test_a_head_for_nobody_or_for_too_many_is_not_made() -> None:
    """Without a recipient nobody could open the file; the limit is told."""
    kem = KEMS["cryptography"]
    for count in (0, RECIPIENTS_MAX + 1):
        recipients = [SealKey.of("cryptography", kem.generate()).recipient for _ in range(count)]
        with pytest.raises(UsageError, match=f"1 to {RECIPIENTS_MAX} recipients"):
            Sealer(recipients, kem=kem, entropy=FakeEntropy())


@pytest.mark.parametrize("begin", [b"x", b"frys-sealee", b"PK\x03\x04" * 9, b"age-encryption.org/v1\n"])
def test_other_files_are_told_apart_at_once(begin: bytes) -> None:
    """From the first byte that differs, before anything is waited for."""
    with pytest.raises(NotSealed):
        Opener(KEY, kem=KEMS["cryptography"]).push(begin)


def test_an_empty_file_is_one_that_was_cut_off() -> None:
    """Nothing at all is not a sealed file of nothing."""
    with pytest.raises(SealedCut):
        unseal(b"")
    assert unseal(seal(b"")) == b""


def test_the_wrapping_is_hpke_as_another_implementation_does_it() -> None:
    """`cryptography`'s HPKE opens what is wrapped here, and what it wraps is opened here."""
    suite = Suite(KEM.MLKEM768, KDF.HKDF_SHA384, AEAD.AES_256_GCM)
    kem = KEMS["cryptography"]
    keys = kem.generate()
    private = MLKEM768PrivateKey.from_seed_bytes(keys.private)
    for provider in PROVIDERS:
        wrapped = wrap(KEMS[provider], keys.public, b"k" * 32, b"label")
        info = b"label" + wrapped.ciphertext + keys.public
        assert suite.decrypt(wrapped.ciphertext + wrapped.sealed, private, info=info) == b"k" * 32
        assert unwrap(kem, keys.private, keys.public, wrapped, b"label") == b"k" * 32
        assert unwrap(kem, keys.private, keys.public, wrapped, b"labels") is None
    # Its info cannot name a ciphertext that is yet to be made, so the other way compares the schedule alone.
    from frys_node.secure import hpke

    made = suite.encrypt(b"k" * 32, MLKEM768PublicKey.from_public_bytes(keys.public), info=b"info")
    key, nonce = hpke._schedule(kem.decapsulate(keys.private, made[:1_088]), b"info")
    assert hpke.AESGCM(key).decrypt(nonce, made[1_088:], b"") == b"k" * 32


@given(st.binary(max_size=80), st.binary(max_size=80), st.integers(1, 48), st.binary(max_size=64))
def test_hkdf_is_that_of_the_library(secret: bytes, info: bytes, size: int, salt: bytes) -> None:
    """RFC 5869 with SHA-384, as `cryptography` has it, for every secret, salt, use and size."""
    theirs = HKDF(algorithm=hashes.SHA384(), length=size, salt=salt or None, info=info).derive(secret)
    assert hkdf(secret, info, size, salt) == theirs


def test_a_file_of_the_first_format_is_opened() -> None:
    """The golden file and its key: sealed in November 2026, to two recipients, in two chunks."""
    key = parse_key((GOLDEN / "sealed-1.key").read_text())
    data = (GOLDEN / "sealed-1.bin").read_bytes()
    content = unseal(data, key)
    assert content == bytes(range(256)) * 256 + b"end"
    head = read_head(data)
    assert head is not None
    assert len(head.entries) == 2
    assert len(data) == sealed_bytes(len(content), 2)
    assert unseal((GOLDEN / "sealed-small-1.bin").read_bytes(), key) == b"small"


def test_memory_is_a_chunk_and_the_piece_that_was_pushed() -> None:
    """After a megabyte each machine keeps at most a chunk, sealed or plain."""
    sealer = Sealer([KEY.recipient], kem=KEMS["cryptography"], entropy=FakeEntropy())
    opener = Opener(KEY, kem=KEMS["cryptography"])
    for _ in range(3):
        opener.push(sealer.push(bytes(1_000_003)))
        assert len(sealer._kept) <= CHUNK_BYTES
        assert len(opener._kept) <= SEALED_CHUNK


def test_a_maker_cannot_show_two_recipients_different_contents() -> None:
    """Each recipient's entry holds another file key: the head's tag can be that of one of them only."""
    kem, other = KEMS["cryptography"], KEYS["pqcrypto"]
    true_key, false_key = b"t" * 32, b"f" * 32
    head, content_key = make_head(kem, [KEY.recipient, other.recipient], true_key)
    false_head, _ = make_head(kem, [KEY.recipient, other.recipient], false_key)
    size = head_bytes(2) - head_bytes(1)
    body = head[: 15 + size] + false_head[15 + size : 15 + 2 * size]
    for key in (true_key, false_key):
        tag = sealed_header._tag(key, body)
        read = read_head(body + tag)
        assert read is not None
        opened = 0
        for reader in (KEY, other):
            try:
                unlock(KEMS[reader.provider], reader, read)
                opened += 1
            except SealedDamaged:
                continue
        assert opened == 1
    assert len(content_key) == 32


def test_a_file_longer_than_its_limit_is_neither_made_nor_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a limit of three chunks: three pass, a byte more is refused by both ends."""
    content = bytes(3 * CHUNK_BYTES)
    data, longer = seal(content), seal(content + b"x")
    monkeypatch.setattr(sealed, "CHUNKS_MAX", 3)
    assert unseal(seal(content)) == unseal(data) == content
    with pytest.raises(UsageError, match="more than a sealed file holds"):
        seal(content + b"x")
    with pytest.raises(SealedDamaged, match="longer than one may be"):
        unseal(longer)


@given(st.integers(0, 5 * SEALED_CHUNK))
def test_the_length_of_the_content_is_told_from_that_of_the_file(size: int) -> None:
    """For each length that a file can have; of all others it is said that they are none."""
    chunks = sealed_bytes(size, 1) - HEAD
    assert content_bytes(chunks) == size
    told = content_bytes(size)
    assert told is None or sealed_bytes(told, 1) - HEAD == size
    if told is None:
        assert size % SEALED_CHUNK <= TAG_BYTES
