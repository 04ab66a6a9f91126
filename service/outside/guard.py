"""Lets connections be made to public addresses only.

The check is where the socket is made, on the very address it will connect to. So it does not matter how a URL spells
an address, what a name resolved to a moment ago, or that it resolves to something else now.
"""

from __future__ import annotations

import socket
from typing import Any

from service.domain.addresses import is_public

REFUSAL = (
    "the address is refused: it is not a public one "
    "(of this machine, a private network, or a range with a special meaning)"
)


class ForbiddenAddressError(OSError):
    """The address of a connection to be made is not a public one. It does not say which: that is nobody's business."""

    def __init__(self) -> None:
        super().__init__(REFUSAL)


def guarded_socket(addr_info: Any) -> socket.socket:
    """The socket for one (family, type, protocol, name, address). Raises ForbiddenAddressError."""
    family, kind, protocol, _, address = addr_info
    if family not in (socket.AF_INET, socket.AF_INET6) or not is_public(address[0]):
        raise ForbiddenAddressError
    return socket.socket(family=family, type=kind, proto=protocol)


def was_forbidden(problem: BaseException) -> bool:
    """Whether a failed call failed because of the guard."""
    seen: BaseException | None = problem
    while seen is not None:
        if isinstance(seen, ForbiddenAddressError):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
