"""Certificates in time: renewal under load, the week of grace, and its end."""

from __future__ import annotations

import logging

import pytest
import trio
import trio.testing

from frys_node.base.errors import NotReady
from frys_node.channel.driver import Channel
from frys_node.observe.metrics import Counter, Gauge
from frys_node.secure import certificates
from frys_node.secure.errors import HandshakeRefused, InvalidCertificate
from frys_node.testing.network import FakeNetwork
from frys_node.trust.renewal import LOOK_EVERY_S, RETRY_S, Renewed, RenewRequest
from tests.unit.channel.test_channel_time import ECHO, FakeNode, _cluster

DAY_S = 86_400
LIFE_DAYS = 364
"""Of a new certificate, which begins a day before it is made."""


def _metric(node: FakeNode, name: str) -> float:
    metric = next(metric for metric in node.metrics if metric.name == name)
    assert isinstance(metric, (Counter, Gauge))
    return sum(metric.values.values()) if isinstance(metric, Counter) else metric.source()  # type: ignore[misc]


def _cut(*channels: Channel) -> None:
    for channel in channels:
        for connection in channel._peers.all():
            connection.close()


async def test_a_renewal_drops_no_request(autojump_clock: trio.testing.MockClock) -> None:
    """Requests go on in both directions through the renewal at two thirds of life, and through rekeying."""
    network = FakeNetwork()
    async with _cluster(network) as (a, one, b, two):
        await two.call(one.self_id, ECHO, b"x")
        before = [channel.identity.certificate for channel in (one, two)]
        answered = 0

        async def ask(caller: Channel, other: Channel) -> None:
            nonlocal answered
            for _ in range(400):
                assert await caller.call(other.self_id, ECHO, b"y") == b"y"
                answered += 1
                await trio.sleep(120)

        for node in (a, b):
            node.clock.step(LIFE_DAYS * DAY_S * 0.7)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, one, two)
            nursery.start_soon(ask, two, one)
        assert answered == 800
        assert all(channel.identity.certificate != old for channel, old in zip((one, two), before, strict=True)), (
            "the renewal fell into the time of the requests"
        )
        assert a.refused() == b.refused() == {}


async def test_expired_members_are_accepted_for_a_week_and_named(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Both sides count and log it; with the next look both are renewed, and the grace is over."""
    network = FakeNetwork()
    async with _cluster(network) as (a, one, b, two):
        await two.call(one.self_id, ECHO, b"x")
        assert _metric(a, "frys_channel_certificate_left_seconds") == pytest.approx(LIFE_DAYS * DAY_S, abs=60)
        for node in (a, b):
            node.clock.step((LIFE_DAYS + 3) * DAY_S)
        _cut(one, two)
        await trio.sleep(1)
        assert await two.call(one.self_id, ECHO, b"x") == b"x"
        assert (_metric(a, "frys_channel_grace_total"), _metric(b, "frys_channel_grace_total")) == (1, 1)
        assert _metric(b, "frys_channel_certificate_left_seconds") < 0
        (line,) = [r for r in caplog.records if r.message == "channel.certificate_in_grace" and r.peer_name == "b"]  # type: ignore[attr-defined]
        assert line.refused_in_s == pytest.approx(4 * DAY_S, abs=60)  # type: ignore[attr-defined]
        await trio.sleep(LOOK_EVERY_S + RETRY_S)
        assert not one._upkeep.renewal.is_due()
        assert not two._upkeep.renewal.is_due()
        _cut(one, two)
        await trio.sleep(1)
        assert await two.call(one.self_id, ECHO, b"x") == b"x"
        assert _metric(a, "frys_channel_grace_total") >= 1


async def test_the_grace_ends_after_a_week_and_never_covers_an_expelled_member(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Eight days after the end the refusal is `expired`; within the week an expelled one is `revoked`."""
    network = FakeNetwork()
    async with _cluster(network) as (a, one, _b, two):
        a.clock.step((LIFE_DAYS + 8) * DAY_S)
        with pytest.raises(HandshakeRefused):
            await two.connect_address(one.advertise)
        assert a.refused() == {("expired",): 1}
        a.clock.step(-2 * DAY_S)
        one.revoke(two.self_id)
        await two.connect_address(one.advertise)
        await trio.testing.wait_all_tasks_blocked()
        assert two.is_expelled, "it is told why, and nothing else"
        assert a.refused() == {("expired",): 1, ("revoked",): 1}
        assert _metric(a, "frys_channel_grace_total") == 0


async def test_a_certificate_that_cannot_be_renewed_is_an_error_once_it_has_expired(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Before its end a warning, after it an error that says how long it is still accepted, and the fix."""
    network = FakeNetwork()
    async with _cluster(network) as (_a, _one, b, two):

        async def refuse(_request: RenewRequest) -> Renewed:
            await trio.lowlevel.checkpoint()
            raise NotReady("the issuer is down")

        two._upkeep.renewal._ask = refuse
        b.clock.step((LIFE_DAYS - 1) * DAY_S)
        await trio.sleep(LOOK_EVERY_S + 1)
        levels = [r.levelno for r in caplog.records if r.message.startswith("channel.certificate_")]
        assert set(levels) == {logging.WARNING}
        early = [r for r in caplog.records if r.message == "channel.certificate_not_renewed"]
        assert all("issuer" in r.fix for r in early)  # type: ignore[attr-defined]
        await trio.sleep(DAY_S)
        last = [r for r in caplog.records if r.message.startswith("channel.certificate_")][-1]
        assert (last.message, last.levelno) == ("channel.certificate_expired", logging.ERROR)
        assert 6 * DAY_S < last.accepted_for_s < certificates.EXPIRY_GRACE_S  # type: ignore[attr-defined]
        assert "issuer" in last.fix  # type: ignore[attr-defined]


async def test_a_renewal_that_would_end_earlier_is_refused(autojump_clock: trio.testing.MockClock) -> None:
    """The issuer's clock has fallen behind by a month: the certificate that is there lasts longer, and stands."""
    network = FakeNetwork()
    async with _cluster(network) as (a, one, b, two):
        await two.call(one.self_id, ECHO, b"x")
        a.clock.step(-30 * DAY_S)
        present = two.identity.certificate
        with pytest.raises(InvalidCertificate, match="before the present one") as refused:
            await two._upkeep.renewal.renew()
        assert "clock" in refused.value.hint
        assert two.identity.certificate is present
        a.clock.step(31 * DAY_S)
        b.clock.step(DAY_S)
        await two._upkeep.renewal.renew()
        assert two.identity.certificate.not_valid_after_utc > present.not_valid_after_utc


async def test_members_in_grace_do_not_fill_the_log(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A hundred connections in a second make one line; the next says how many were left out, and all are counted."""
    network = FakeNetwork()
    async with _cluster(network) as (_a, one, _b, two):
        await two.call(one.self_id, ECHO, b"x")
        (connection,) = two._peers.all()
        peer = connection.peer._replace(is_in_grace=True)
        caplog.clear()
        for _ in range(100):
            two._upkeep.met(peer)
        await trio.sleep(2)
        two._upkeep.met(peer)
        lines = [r for r in caplog.records if r.message == "channel.certificate_in_grace"]
        assert [line.skipped for line in lines] == [0, 99]  # type: ignore[attr-defined]
