"""Where a webhook may lead. What a name is called says nothing: the addresses that it has now are looked at,
and the connection is made to one of those, so that no second answer of the name's owner counts.
"""

import socket
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

from hone_api.settings import Webhooks

Resolve = Callable[[str], Sequence[str]]
"""Addresses of a host's name. Raises OSError or UnicodeError when there are none."""

_LOOPBACK = tuple(map(ip_network, ("127.0.0.0/8", "::1/128")))
_PRIVATE = tuple(
    map(
        ip_network,
        ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "198.18.0.0/15", "fc00::/7"),
    )
)
_NEVER = tuple(
    map(
        ip_network,
        (
            # This machine again: Linux takes 0.0.0.0 and :: for it.
            "0.0.0.0/8",
            "::/96",
            # One's own link, and with it most clouds' metadata.
            "169.254.0.0/16",
            "fe80::/10",
            "fec0::/10",
            # Metadata elsewhere: Alibaba, Azure, Oracle; by IPv6 Google, and Amazon with its other services.
            "100.100.100.200/32",
            "168.63.129.16/32",
            "192.0.0.0/24",
            "fd00:ec2::/32",
            "fd20:ce::254/128",
            # Many at once, and what is kept for later (with broadcast).
            "224.0.0.0/4",
            "240.0.0.0/4",
            "ff00::/8",
            # Tunnels and translations, in which another address hides.
            "::ffff:0:0:0/96",
            "64:ff9b:1::/48",
            "2001::/32",
            "2002::/16",
        ),
    )
)
_HOLDS_V4 = (IPv6Network("::ffff:0:0/96"), IPv6Network("64:ff9b::/96"))
"""IPv4-mapped, and what NAT64 makes of names in networks without IPv4: the address within is what counts."""


class Refused(Exception):
    """A webhook leads, or would lead, to where none may."""


def resolve(host: str) -> list[str]:
    """As the machine's own resolver has it, which reads `0x7f.1` and `2130706433` as addresses too."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


def check_address(address: str, rules: Webhooks) -> None:
    """Raises Refused."""
    found = _within(ip_address(address))
    if any(found in network for network in _LOOPBACK):
        is_refused = not rules.allow_loopback
    elif any(found in network for network in _PRIVATE) and not rules.allow_private:
        is_refused = True
    else:
        is_refused = any(found in network for network in _NEVER)
    if is_refused:
        raise Refused(f"the address {address} is not allowed")


def check_literal(host: str, rules: Webhooks) -> None:
    """A host that is an address already, in whatever form, is not looked up. Raises Refused."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return
    for each in found:
        check_address(str(each[4][0]), rules)


def _within(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    if any(address in network for network in _HOLDS_V4):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address
