"""Signatures of outgoing webhooks, after the Standard Webhooks specification (v1, HMAC-SHA256).

What is signed is `id.timestamp.body`, so none of the three can be exchanged. A receiver that is given several
signatures accepts any that it can verify; that is how a secret is changed without a gap.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Sequence

SECRET_BYTES = 32
_PREFIX = "whsec_"


def new_secret() -> bytes:
    """A key nobody can guess."""
    return secrets.token_bytes(SECRET_BYTES)


def secret_text(secret: bytes) -> str:
    """A secret as its owner is told it: `whsec_` and base64."""
    return _PREFIX + base64.b64encode(secret).decode()


def signatures(keys: Sequence[bytes], message_id: str, timestamp: int, body: bytes) -> str:
    """The `webhook-signature` header: one `v1,…` a key, separated by spaces. `timestamp` in Unix seconds."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    made = (base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode() for key in keys)
    return " ".join(f"v1,{signature}" for signature in made)
