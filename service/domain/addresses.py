"""Which addresses of the internet a webhook may be sent to, and what its URL must look like.

Whoever registers an endpoint chooses where this service connects to. So only addresses that anybody could reach
anyway are allowed: nothing of this machine, of its networks, or of a range with a special meaning. The ranges are
those of the IANA special-purpose address registries (RFC 6890); in IPv6 only global unicast (2000::/3) is allowed, so
that mapped, NAT64 and unique local addresses need no line of their own.
"""

from __future__ import annotations

import re
import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import urlsplit

LONGEST_URL = 2048

_FORBIDDEN_V4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
_GLOBAL_V6 = IPv6Network("2000::/3")
_FORBIDDEN_V6 = tuple(
    IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments: Teredo, benchmarking, ORCHID
        "2001:db8::/32",
        "2002::/16",  # 6to4, which carries any IPv4 address
        "3fff::/20",
    )
)
_VISIBLE = re.compile(r"[\x21-\x7e]+")
_NAME = re.compile(r"(?=.{1,253}\Z)(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.)*[A-Za-z0-9_-]{1,63}\.?")
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]*|[0-9]+")


def is_public(address: str) -> bool:
    """Whether an IP address, as a socket has it, is one that anybody could reach; false for what is no address."""
    try:
        found = ip_address(address)
    except ValueError:
        return False
    if isinstance(found, IPv4Address):
        return not any(found in network for network in _FORBIDDEN_V4)
    plain = IPv6Address(int(found))  # without its zone
    return found == plain and plain in _GLOBAL_V6 and not any(plain in network for network in _FORBIDDEN_V6)


def literal_address(host: str) -> str | None:
    """The IP address a URL's host spells, in any form resolvers take (decimal, hex, octal, short); None for a name."""
    try:
        return str(ip_address(host))
    except ValueError:
        pass
    parts = host.rstrip(".").split(".")
    if len(parts) > 4 or not all(_NUMBER.fullmatch(part) for part in parts):
        return None
    try:
        return socket.inet_ntoa(socket.inet_aton(host.rstrip(".")))
    except OSError:
        return None


def check_url(text: str, *, allow_private: bool) -> None:
    """Raise ValueError, saying why, for a URL no webhook can be sent to.

    A name is not resolved: what it leads to may change at any time and is judged when a connection is made.
    """
    if len(text) > LONGEST_URL:
        raise ValueError(f"is longer than {LONGEST_URL} characters")
    if not _VISIBLE.fullmatch(text) or "\\" in text:
        raise ValueError("must be visible ASCII without backslashes; write other characters escaped")
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise ValueError("is not a URL") from None
    if url.scheme not in ("http", "https"):
        raise ValueError("must begin with http:// or https://")
    if "@" in url.netloc:
        raise ValueError("must not hold a user or a password")
    if "#" in text:
        raise ValueError("must not have a fragment")
    if port is not None and port not in (80, 443) and port < 1024:
        raise ValueError("the port must be 80, 443 or above 1023")
    _check_host(url.hostname or "", allow_private=allow_private)


def _check_host(host: str, *, allow_private: bool) -> None:
    address = literal_address(host)
    if address is None and (not _NAME.fullmatch(host) or _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2])):
        raise ValueError("names no host")
    if not allow_private:
        if address is not None and not is_public(address):
            raise ValueError("the address is not a public one")
        if host.rstrip(".").lower() == "localhost" or host.rstrip(".").lower().endswith(".localhost"):
            raise ValueError("the host is this machine")
    if address is not None and ":" not in address and address != host:
        raise ValueError("an IPv4 address must be written as four decimal numbers")
