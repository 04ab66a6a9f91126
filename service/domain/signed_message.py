"""Signing what we send and checking what others signed, after the Standard Webhooks specification.

Version 1 is the HMAC-SHA256 of `id.timestamp.body`.

A message may carry several signatures and a receiver may know several secrets; one pair that fits is enough, which is
how a secret is changed without a gap. Every pair is compared, each in constant time, so that how long it took says
nothing of a secret.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence

TOLERANCE_S = 300
_PREFIX = "whsec_"
_SECRET_BYTES = 32
_MOST_SIGNATURES = 16
_TIMESTAMP = re.compile(r"[0-9]{1,12}")


def new_secret() -> bytes:
    """A secret nobody can guess."""
    return secrets.token_bytes(_SECRET_BYTES)


def secret_text(secret: bytes) -> str:
    """A secret as its owner is told it: `whsec_` and base64."""
    return _PREFIX + base64.b64encode(secret).decode()


def signatures_of(keys: Sequence[bytes], message_id: str, timestamp: int, body: bytes) -> str:
    """The `webhook-signature` header: one `v1,…` a key, separated by spaces. `timestamp` in Unix seconds."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    made = (base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode() for key in keys)
    return " ".join(f"v1,{signature}" for signature in made)


def is_signed(
    known: Sequence[bytes], *, message_id: str, timestamp: str, signatures: str, body: bytes, now: float
) -> bool:
    """Whether one of the known secrets made one of the signatures, at most five minutes before or after `now`.

    `timestamp` and `signatures` are the headers as they came; `now` in Unix seconds.
    """
    if not _TIMESTAMP.fullmatch(timestamp) or abs(now - int(timestamp)) > TOLERANCE_S:
        return False
    signed = f"{message_id}.{timestamp}.".encode(errors="replace") + body
    given = [found for text in signatures.split(" ")[:_MOST_SIGNATURES] if (found := _signature(text)) is not None]
    fits = False
    for secret in known:
        expected = hmac.new(secret, signed, hashlib.sha256).digest()
        for signature in given:
            fits |= hmac.compare_digest(expected, signature)
    return fits


def _signature(text: str) -> bytes | None:
    version, _, encoded = text.partition(",")
    if version != "v1":
        return None
    try:
        return base64.b64decode(encoded.encode("ascii", errors="replace"), validate=True)
    except binascii.Error:
        return None
