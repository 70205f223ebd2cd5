"""Addresses as people write them, and what is bound for the wildcard of both families."""

from __future__ import annotations

import pytest

from frys_node.base.errors import InvalidAddress
from frys_node.base.types import Address
from frys_node.transport.addresses import to_bind


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.0.1:9000", Address("10.0.0.1", 9000)),
        ("[10.0.0.1]:9000", Address("10.0.0.1", 9000)),
        ("[fd00:10:244:1::5]:9000", Address("fd00:10:244:1::5", 9000)),
        ("fd00:10:244:1::5", Address("fd00:10:244:1::5", 7946)),
        ("::1", Address("::1", 7946)),
        ("fe80::1%eth0", Address("fe80::1%eth0", 7946)),
        ("2001:db8::1234", Address("2001:db8::1234", 7946)),
        ("1:2:3:4:5:6:7:7946", Address("1:2:3:4:5:6:7:7946", 7946)),
        ("[fd00::2:7946]", Address("fd00::2:7946", 7946)),
    ],
)
def test_an_address_of_either_family_is_read_with_and_without_a_port(text: str, address: Address) -> None:
    """Brackets hold any host; a bare IPv6 address is one whose end cannot be a port."""
    assert Address.parse(text, 7946) == address


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("fd00:10:244:1::5:7946", "write [fd00:10:244:1::5]:7946 if 7946 is the port"),
        ("fd00::2:7946", "write [fd00::2]:7946 if 7946 is the port, else [fd00::2:7946]:port"),
        ("::1:17946", "write [::1]:17946"),
        ("fe80::1%eth0:7946", "write [fe80::1%eth0]:7946"),
        ("1:2:3:4:5:6:7:8:7946", "write [1:2:3:4:5:6:7:8]:7946"),
        ("host:7946:7947", "IPv6 is written [address]:port"),
    ],
)
def test_an_unbracketed_ipv6_address_with_a_port_is_refused_with_the_brackets(text: str, hint: str) -> None:
    """It was taken for another address without a port, to which there is no route."""
    with pytest.raises(InvalidAddress) as caught:
        Address.parse(text, 7946)
    assert hint in caught.value.hint


def test_the_wildcard_of_both_families_is_that_of_ipv4_where_there_is_no_ipv6() -> None:
    """One setting serves pods of either family, also on a kernel that knows only one."""
    both = Address("::", 7946)
    assert to_bind(both, is_ipv6_there=True) == both
    assert to_bind(both, is_ipv6_there=False) == Address("0.0.0.0", 7946)
    assert to_bind(Address("::1", 7946), is_ipv6_there=False) == Address("::1", 7946)
