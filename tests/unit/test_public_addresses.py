"""Which IP addresses a user may make this server connect to."""

import pytest

from notifications.transports.http import is_public

# The first and the last address of each range that IANA's special-purpose registries call not globally reachable, then
# addresses inside addresses.
PRIVATE = """\
0.0.0.0 0.255.255.255 10.0.0.1 10.255.255.255 100.64.0.1 100.127.255.255 127.0.0.1 127.255.255.255
169.254.0.1 169.254.169.254 169.254.255.255 172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.8 192.0.0.170 192.0.0.255
192.0.2.1 192.0.2.255 192.88.99.1 192.88.99.2 192.168.1.1 192.168.255.255 198.18.0.1 198.19.255.255 198.51.100.1
203.0.113.255 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.254 255.255.255.255
:: ::1 fe80::1 fe80::1%eth0 febf:ffff::1 fc00::1 fd00:ec2::254 fdff::1 ff02::1 ff0e::1
100::1 100:0:0:1::1 2001::1 2001:0:ffff::1 2001:2::1 2001:10::1 2001:1ff:ffff::1 2001:db8::1 2001:db8:ffff::1
3fff::1 3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff 5f00::1 5f00:ffff::1 64:ff9b:1::1
::ffff:10.0.0.1 ::ffff:169.254.169.254 ::ffff:192.88.99.1 2002:7f00:1:: 2002:a9fe:a9fe:: 64:ff9b::a00:1
fec0::1 ::127.0.0.1 ::8.8.8.8 ::ffff:0:127.0.0.1
"""
PUBLIC = "1.1.1.1 8.8.8.8 93.184.216.34 2606:4700:4700::1111 ::ffff:8.8.8.8 2002:808:808:: 64:ff9b::808:808"
# Beside the ranges.
PUBLIC += " 1.0.0.0 9.255.255.255 11.0.0.0 100.128.0.0 172.32.0.0 192.0.1.0 192.88.98.255 198.20.0.0 223.255.255.255"
PUBLIC += " 2001:200::1 2001:db7::1 2001:db9::1 3ffe:ffff::1"


@pytest.mark.parametrize("address", PRIVATE.split())
def test_an_address_that_is_not_public_is_told(address: str) -> None:
    """Loopback, private, link-local (where clouds keep secrets), multicast, documentation; also inside an IPv6 one."""
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC.split())
def test_an_address_of_the_internet_is_public(address: str) -> None:
    """Of either version, and inside one another."""
    assert is_public(address)
