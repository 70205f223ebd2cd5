"""Recipients and keys as texts: read back as written, and refused without repeating a secret if not whole."""

from __future__ import annotations

import random

import pytest

from frys_node.base.errors import FrysError
from frys_node.secure.errors import InvalidRecipient, InvalidSealKey
from frys_node.secure.kem import PROVIDERS, PUBLIC_BYTES, load_kem
from frys_node.secure.recipient import (
    KEY_PREFIX,
    Recipient,
    SealKey,
    format_key,
    format_recipient,
    key_file,
    parse_key,
    parse_recipient,
    parse_recipients,
    recipient_file,
    shown,
)

KEYS = [SealKey.of(provider, load_kem(provider).generate()) for provider in PROVIDERS]


@pytest.mark.parametrize("key", KEYS, ids=PROVIDERS)
def test_texts_are_read_back(key: SealKey) -> None:
    """Bare, in files, with blanks and comments around them; a file of recipients may name several."""
    recipient = key.recipient
    assert parse_key(format_key(key)) == parse_key(key_file(key)) == parse_key(f"\n  {format_key(key)}\r\n#\n") == key
    assert parse_recipient(f"  {format_recipient(recipient)}\n") == recipient
    assert len(format_recipient(recipient)) == 1_910
    both = recipient_file(recipient) + "\n" + recipient_file(KEYS[0].recipient)
    assert parse_recipients(both) == [recipient, KEYS[0].recipient]


def test_a_fingerprint_is_short_and_of_one_key() -> None:
    """Six groups of four for people; two keys differ in it."""
    one, two = (shown(key.recipient.fingerprint) for key in KEYS)
    assert one != two
    assert [len(group) for group in one.split("-")] == [4] * 6
    assert repr(KEYS[0]) == f"SealKey({one})"
    assert repr(KEYS[0].recipient) == f"Recipient({one})"


def test_a_changed_or_shortened_text_is_refused_and_never_repeated() -> None:
    """One letter changed at 200 places, cut at either end, upper case, joined lines: no error holds any of the key."""
    key, recipient = format_key(KEYS[0]), format_recipient(KEYS[0].recipient)
    generator = random.Random(3)
    for text, parse in ((key, parse_key), (recipient, parse_recipient)):
        wrong = ["", "x", text[:-1], text[:6], text[1:], text.upper(), text + "a", text + text, f"{text} {text}"]
        for _ in range(200):
            at = generator.randrange(len(text))
            letter = generator.choice("abcdefghijklmnopqrstuvwxyz234567".replace(text[at], ""))
            wrong.append(text[:at] + letter + text[at + 1 :])
        for changed in wrong:
            with pytest.raises((InvalidRecipient, InvalidSealKey)) as caught:
                parse(changed)
            assert_silent(caught.value, key)


def assert_silent(error: FrysError, secret: str) -> None:
    """No twelve letters of a secret in a row are in what is told."""
    told = f"{error.message} {error.hint}"
    assert not any(secret[at : at + 12] in told for at in range(len(KEY_PREFIX), len(secret) - 12))


def test_a_key_where_a_recipient_belongs_and_the_reverse_name_the_mix_up() -> None:
    """The likeliest mistake has its own message."""
    with pytest.raises(InvalidRecipient) as caught:
        parse_recipients(key_file(KEYS[0]))
    assert "secret key" in caught.value.message
    assert_silent(caught.value, format_key(KEYS[0]))
    with pytest.raises(InvalidSealKey, match="the recipient, not the key"):
        parse_key(recipient_file(KEYS[0].recipient))
    with pytest.raises(InvalidRecipient, match="no recipient"):
        parse_recipients("# nothing\n")
    with pytest.raises(InvalidSealKey):
        parse_key(key_file(KEYS[0]) + key_file(KEYS[1]))


def test_a_recipient_of_another_size_is_refused() -> None:
    """A right checksum over too few or too many bytes is no key."""
    for size in (0, PUBLIC_BYTES - 1, PUBLIC_BYTES + 1):
        with pytest.raises(InvalidRecipient):
            parse_recipient(format_recipient(Recipient(bytes(size))))


def test_a_key_of_another_provider_or_size_is_refused() -> None:
    """An expanded key under the name of the provider of seeds, and a provider that nobody knows."""
    wrong = SealKey("cryptography", KEYS[1].recipient, KEYS[1].private)
    with pytest.raises(InvalidSealKey):
        parse_key(format_key(wrong))
