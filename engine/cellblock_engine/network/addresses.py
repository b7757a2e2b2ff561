"""Which addresses an allowed name may lead to: those of the internet, unless it says otherwise.

Whoever answers for a name chooses its addresses, so a name that was allowed in good faith must
not open the services of this machine, of its neighbours, or of the cloud it runs in.

RFC 6890 and the IANA registries of special-purpose addresses.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

_Address = IPv4Address | IPv6Address

_PRIVATE = tuple(
    map(
        ip_network,
        (
            "10.0.0.0/8",
            "100.64.0.0/10",  # behind a provider's translation
            "127.0.0.0/8",
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.168.0.0/16",
            "198.18.0.0/15",  # for benchmarks, used as private
            "::1/128",
            "fc00::/7",
        ),
    )
)
# Where clouds give credentials away beside link-local, in networks that are otherwise of use.
_OF_CLOUDS = tuple(
    map(ip_address, ("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254"))
)
_NEVER = tuple(
    map(
        ip_network,
        (
            "0.0.0.0/8",
            "169.254.0.0/16",  # link-local, where clouds give credentials away
            "224.0.0.0/4",
            "240.0.0.0/4",
            "::/96",
            "64:ff9b:1::/48",  # these three carry IPv4 addresses in forms of their own
            "2001::/32",
            "2002::/16",
            "fe80::/10",
            "fec0::/10",
            "ff00::/8",
        ),
    )
)
_TRANSLATED = ip_network("64:ff9b::/96")  # what DNS64 answers where there is no IPv4 (RFC 6052)


def refusal(text: str, *, private: bool) -> str | None:
    """Return what kind of address it is, if it is one not to connect to; None if it may be.

    ``private``: networks that are not the internet may be. Raises ValueError for no address.
    """
    address = _carried(ip_address(text))
    if address in _OF_CLOUDS:
        return "reserved"
    if any(address in network for network in _PRIVATE):
        return None if private else "private"
    return "reserved" if any(address in network for network in _NEVER) else None


def _carried(address: _Address) -> _Address:
    """Return the IPv4 address that an IPv6 one stands for, or the address itself."""
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return IPv4Address(int(address) & 0xFFFFFFFF) if address in _TRANSLATED else address
