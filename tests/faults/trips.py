"""When processes stopped asking Redis: for whom they are, that is an outage, whoever was late."""

from __future__ import annotations

import time
from datetime import datetime

from tests.api.stack import log_lines
from tests.faults.history import FaultSpan


def trips_in(log: str) -> list[FaultSpan]:
    """Each moment at which the log says so, in monotonic seconds."""
    behind = time.time() - time.monotonic()
    moments = [
        datetime.fromisoformat(line["timestamp"]).timestamp() - behind
        for line in log_lines(log)
        if line.get("event") == "redis is not asked"
    ]
    return [FaultSpan("redis_not_asked", moment, moment, reached=True, note="") for moment in moments]
