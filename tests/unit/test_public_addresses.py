"""Which IP addresses a user may make this server connect to."""

import pytest

from notifications.transports.http import is_public

PRIVATE = """\
0.0.0.0 10.0.0.1 100.64.0.1 127.0.0.1 169.254.169.254 172.16.0.1 192.0.2.1 192.168.1.1 198.18.0.1 224.0.0.1
240.0.0.1 255.255.255.255
:: ::1 fe80::1 fe80::1%eth0 fc00::1 fd00:ec2::254 ff02::1 2001:db8::1
::ffff:10.0.0.1 ::ffff:169.254.169.254 2002:7f00:1:: 2002:a9fe:a9fe:: 64:ff9b::a00:1
fec0::1 ::127.0.0.1 ::8.8.8.8 ::ffff:0:127.0.0.1
"""
PUBLIC = "1.1.1.1 8.8.8.8 93.184.216.34 2606:4700:4700::1111 ::ffff:8.8.8.8 2002:808:808:: 64:ff9b::808:808"


@pytest.mark.parametrize("address", PRIVATE.split())
def test_an_address_that_is_not_public_is_told(address: str) -> None:
    """Loopback, private, link-local (where clouds keep secrets), multicast, documentation; also inside an IPv6 one."""
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC.split())
def test_an_address_of_the_internet_is_public(address: str) -> None:
    """Of either version, and inside one another."""
    assert is_public(address)
