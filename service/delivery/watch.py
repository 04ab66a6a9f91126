"""Shows how much work is left, a gauge a stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from service.delivery.stream import Stream
from service.metrics import Metrics


class StreamWatch:
    """Sets the gauges of streams, each summed over its shards; before the first look there are none, which is not 0."""

    def __init__(self, streams: Mapping[str, Sequence[Stream]], metrics: Metrics) -> None:
        self._streams = streams
        self._metrics = metrics

    async def __call__(self) -> None:
        """Look once. Raises Unavailable."""
        for name, shards in self._streams.items():
            figures = [await stream.figures() for stream in shards]
            self._metrics.stream_depth.labels(name).set(sum(figure.depth for figure in figures))
            self._metrics.stream_oldest_s.labels(name).set(max(figure.oldest_s for figure in figures))
            self._metrics.stream_due.labels(name).set(sum(figure.due for figure in figures))
            self._metrics.stream_dead.labels(name).set(sum(figure.dead for figure in figures))
        self._metrics.streams_seen.set_to_current_time()
