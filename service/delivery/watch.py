"""Shows how much work is left, a gauge a stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from service.delivery.stream import Stream
from service.metrics import Metrics


class StreamWatch:
    """Sets the gauges of streams, each summed over its shards."""

    def __init__(self, streams: Mapping[str, Sequence[Stream]], metrics: Metrics) -> None:
        self._streams = streams
        self._gauges = {
            name: (
                metrics.stream_depth.labels(name),
                metrics.stream_oldest_s.labels(name),
                metrics.stream_due.labels(name),
                metrics.stream_dead.labels(name),
            )
            for name in streams
        }

    async def __call__(self) -> None:
        """Look once. Raises Unavailable."""
        for name, shards in self._streams.items():
            figures = [await stream.figures() for stream in shards]
            depth, oldest, due, dead = self._gauges[name]
            depth.set(sum(figure.depth for figure in figures))
            oldest.set(max(figure.oldest_s for figure in figures))
            due.set(sum(figure.due for figure in figures))
            dead.set(sum(figure.dead for figure in figures))
