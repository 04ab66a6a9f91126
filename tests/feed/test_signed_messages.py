"""A signature is taken when it fits and is fresh; the package `standardwebhooks` is who we agree with."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook

from service.domain.signed_message import TOLERANCE_S, is_signed, new_secret, secret_text

NOW = 1_800_000_000
BODY = b'{"event_type":"appointment.cancelled"}'


def signature(secret: bytes, body: bytes = BODY, *, message_id: str = "m-1", at: int = NOW) -> str:
    """What the package signs."""
    return Webhook(secret_text(secret)).sign(message_id, datetime.fromtimestamp(at, UTC), body.decode())


def fits(*known: bytes, signatures: str, message_id: str = "m-1", at: str = str(NOW), body: bytes = BODY) -> bool:
    """Whether we take it."""
    return is_signed(known, message_id=message_id, timestamp=at, signatures=signatures, body=body, now=NOW)


@given(st.binary(min_size=1, max_size=64), st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="ascii")))
@settings(max_examples=30, deadline=None)
def test_what_the_package_signs_is_taken_whatever_it_says(secret: bytes, text: str, message_id: str) -> None:
    body = text.encode()
    signed = signature(secret, body, message_id=message_id)
    assert fits(secret, signatures=signed, message_id=message_id, body=body)
    assert not fits(secret, signatures=signed, message_id=message_id, body=body + b" ")
    assert not fits(secret + b"x", signatures=signed, message_id=message_id, body=body)


def test_any_of_several_signatures_and_of_several_secrets_is_enough() -> None:
    old, new, other = new_secret(), new_secret(), new_secret()
    good = signature(old)
    for signatures in (good, f"{signature(other)} {good}", f"v2,abc {good} v1,", f"v1,!!! {good} nonsense"):
        assert fits(old, signatures=signatures)
        assert fits(new, old, signatures=signatures)
        assert not fits(new, signatures=signatures)


def test_what_was_signed_cannot_be_exchanged() -> None:
    secret = new_secret()
    good = signature(secret)
    assert fits(secret, signatures=good)
    assert not fits(secret, signatures=good, message_id="m-2")
    assert not fits(secret, signatures=good, at=str(NOW + 1))
    assert not fits(secret, signatures=good, body=BODY.replace(b"cancelled", b"confirmed"))


@pytest.mark.parametrize("side", [-1, 1])
def test_five_minutes_either_way_and_no_second_more(side: int) -> None:
    secret = new_secret()
    for seconds, taken in ((TOLERANCE_S, True), (TOLERANCE_S + 1, False)):
        at = NOW + side * seconds
        assert fits(secret, signatures=signature(secret, at=at), at=str(at)) is taken


@pytest.mark.parametrize(
    "signatures",
    [
        "",
        " ",
        "v1",
        "v1,",
        "v1,a",
        "v1,é",
        "v1a," + base64.b64encode(bytes(32)).decode(),
        "v1," + "A" * 100_000,
        "," * 99,
    ],
)
def test_what_is_no_signature_is_not_one(signatures: str) -> None:
    assert not fits(new_secret(), signatures=signatures)


@pytest.mark.parametrize("at", ["", "soon", "-1", "1e9", f"{NOW}.5", "١٨٠٠٠٠٠٠٠٠", "9" * 40, f" {NOW}"])
def test_what_is_no_time_is_not_one(at: str) -> None:
    secret = new_secret()
    assert not fits(secret, signatures=signature(secret), at=at)
