"""What the bytes of a request may look like: where it ends must not be a matter of opinion (RFC 9112).

Whoever stands before us, a proxy that many clients share, may read a space before a colon, a folded line or a bare LF
in another way than we do. What one of us takes for a body is the next request for the other then, in somebody else's
name. So what is not exactly as it should be is no request at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_HEADERS = rb"(?:\r\n[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\x00-\x08\x0a-\x1f\x7f]*)*"
# A whole head whose method is one of ours, of a request that may be refused unread.
PLAIN_HEAD = re.compile(
    rb"(?P<method>GET|POST|PUT|PATCH|DELETE) (?P<path>/[!-~]*) HTTP/1\.1(?P<headers>" + _HEADERS + rb")\r\n\r\n"
)
_HEAD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ [!-~]+ HTTP/1\.[01]" + _HEADERS)
# Sanic takes blanks of other scripts off a value, which nobody else does.
_FOREIGN = re.compile(
    rb"\r\n(?:content-length|transfer-encoding|connection|host|expect):[^\r]*[\x80-\xff]", re.IGNORECASE
)
_LENGTH = re.compile(r"[0-9]+[ \t]*")
_LONGEST_CHUNK_LINE = 256  # with the end of what was before it, and its own
_CHUNK = re.compile(rb"\r\n0*[0-9A-Fa-f]{1,8}[ \t]*(?:;[^\x00-\x08\x0a-\x1f\x7f]*)?\r\n")


def is_well_formed(head: bytes) -> bool:
    """Whether a head, without the empty line after it, is written as it must be."""
    return _HEAD.fullmatch(head) is not None and (head.isascii() or _FOREIGN.search(head) is None)


def is_length(text: str) -> bool:
    """Whether a Content-Length is one: Python takes digits of other scripts for a number too."""
    return _LENGTH.fullmatch(text) is not None


def is_chunk(received: bytes | bytearray) -> bool | None:
    """Whether the end of what was before and the line of a chunk's size come next; None while that is not known yet."""
    # Of a longer line the end is not looked for, also where it has come: how it was cut on its way must not matter.
    end = received.find(b"\r\n", 3, _LONGEST_CHUNK_LINE)
    if end < 0:
        return None if len(received) < _LONGEST_CHUNK_LINE else False
    return _CHUNK.fullmatch(received, 0, end + 2) is not None


def keeps_alive(version: str, lines: Iterable[str]) -> bool:
    """Whether the connection goes on after the request, by its version ("1.0", "1.1") and `Connection` lines."""
    options = {option.strip().lower() for line in lines for option in line.split(",")}
    return "close" not in options and (version == "1.1" or "keep-alive" in options)
