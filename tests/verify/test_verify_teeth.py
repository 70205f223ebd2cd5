"""The verification sees what is planted: a window that forgets, a header nobody covers, an expiry nobody looks at."""

from __future__ import annotations

import pytest
import verify_downgrade
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from verify_downgrade import downgrades
from verify_handshake import Handshake, flipped, make_pair
from verify_model import CASES, JOIN, KEYS, TERMS, Model, explore
from verify_packets import flip_every_bit, replay

from frys_node.secure import certificates, packet
from frys_node.secure.replay import ReplayWindow


def test_a_window_that_forgets_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every replay opens, and each is named."""
    monkeypatch.setattr(ReplayWindow, "is_new", lambda self, counter: True)
    tally = replay(200)[0]
    assert len(tally.wrong) == tally.tried == 200


def test_a_header_that_is_not_authenticated_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under a key that the header has no part in, a packet opens as another sender's."""

    class Careless:
        """Leaves the associated data out."""

        def __init__(self, key: bytes) -> None:
            self._cipher = AESGCM(key)

        def encrypt(self, nonce: bytes, data: bytes, _associated: bytes) -> bytes:
            return self._cipher.encrypt(nonce, data, None)

        def decrypt(self, nonce: bytes, data: bytes, _associated: bytes) -> bytes:
            return self._cipher.decrypt(nonce, data, None)

    monkeypatch.setattr(packet, "AESGCM", Careless)
    monkeypatch.setattr(packet, "subkey", lambda key, sender, boot: key.key)
    tally = flip_every_bit(8, is_short=False)
    assert any("byte 4 " in text for text in tally.wrong)


def test_an_expiry_that_nobody_looks_at_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The matrix names the row that was let in."""
    monkeypatch.setattr(verify_downgrade, "ROW_S", 0.5)
    monkeypatch.setattr(certificates, "within_life", lambda certificate, unix_ns: True)
    (tally,) = downgrades()
    assert [text.partition(":")[0] for text in tally.wrong] == ["expired past the grace"]


def test_a_changed_handshake_is_told_from_a_good_one() -> None:
    """A good one is accepted, the version of its first record may be anything, and its next byte may not."""
    shake = Handshake("frys/1", make_pair())
    assert shake.is_accepted(0, lambda data: data)
    assert shake.is_accepted(0, lambda data: flipped(data, 2, 0))
    assert not shake.is_accepted(0, lambda data: flipped(data, 3, 0))


def test_an_attack_is_told_from_its_beginning_to_its_end() -> None:
    """The shortest way to the key of a stranger has every step in it."""
    pytest.importorskip("maude", reason="maude is missing: pip install -e '.[verify]'")
    case = next(case for case in CASES if case.about == "new keys sent under the old one")
    assert explore(case).attack == (
        "the-issuer-expels-the-attacker",
        "the-attacker-reads-a-key-sent-under-an-older-one",
    )


@pytest.mark.parametrize("model", [JOIN, KEYS, TERMS], ids=lambda model: model.module)
def test_each_check_of_a_model_is_needed_by_itself_and_each_property_can_be_broken(model: Model) -> None:
    """A check that is left out only beside others might do nothing, and a property that nothing breaks says nothing."""
    variants = [case for case in CASES if case.model is model and case.broken]
    assert {case.without[0] for case in variants if len(case.without) == 1} == set(model.checks)
    assert {name for case in variants for name in case.broken} == set(model.properties)
    # And where nothing is left out, every property is looked at by some beginning.
    sound = [case for case in CASES if case.model is model and not case.broken and not case.without]
    assert {name for case in sound for name in model.properties if name not in case.apart} == set(model.properties)
