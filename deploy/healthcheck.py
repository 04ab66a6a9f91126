"""Ask one URL of this container and exit 0 only if it answers 200: `python healthcheck.py URL`."""

from __future__ import annotations

import sys
from http.client import HTTPException
from urllib.request import ProxyHandler, build_opener

# A proxy that the environment names is for the world outside.
_DIRECTLY = build_opener(ProxyHandler({}))


def answers(url: str) -> bool:
    """Whether `url` answers 200 within 3 seconds; a refused, hung or garbled answer is a no."""
    try:
        with _DIRECTLY.open(url, timeout=3) as response:
            return response.status == 200
    except (OSError, HTTPException):
        return False


if __name__ == "__main__":
    sys.exit(0 if answers(sys.argv[1]) else 1)
