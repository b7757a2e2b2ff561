"""Addresses of the internet, and all the others."""

from __future__ import annotations

import pytest

from cellblock_engine.network.addresses import refusal


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "151.101.0.223", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]
)
def test_the_internet_may_be_reached(address):
    assert refusal(address, private=False) is None


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.255.255.254", "10.0.0.1", "172.16.0.1", "172.31.255.255"),
        *("192.168.1.1", "100.64.0.1", "100.100.100.201", "198.18.0.1", "192.0.0.191"),
        *("::1", "fd00:ec2::253", "fc00::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1"),
    ],
)
def test_private_ones_only_where_it_was_said(address):
    assert refusal(address, private=False) == "private"
    assert refusal(address, private=True) is None


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0", "0.1.2.3", "169.254.169.254", "224.0.0.1", "239.1.1.1", "240.0.0.1"),
        *("255.255.255.255", "::", "::7f00:1", "fe80::1", "fe80::1%lo", "ff02::1", "fec0::1"),
        *("2002:7f00:1::1", "2001::1", "64:ff9b:1::1"),
        *("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254"),  # of clouds
        *("::ffff:100.100.100.200", "64:ff9b::a83f:8110"),
        *("::ffff:169.254.169.254", "::ffff:0.0.0.0", "64:ff9b::a9fe:a9fe"),
    ],
)
def test_some_never(address):
    assert refusal(address, private=False) == "reserved"
    assert refusal(address, private=True) == "reserved"
