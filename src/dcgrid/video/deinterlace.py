"""Whole frames from interlaced ones: FFmpeg's bwdif, in the stream of decoded frames.

Older cameras and broadcasts store two half pictures of different moments in one frame; left alone,
everything that moves gets a comb. Read `Deinterlacer`.
"""

from collections.abc import Iterator

import av.error
from av.filter import Graph
from av.video.frame import VideoFrame


class Deinterlacer:
    """Passes frames on, interlaced ones as whole pictures; one frame in, one frame out.

    Nothing is built before the first interlaced frame comes. From then on frames come out one later
    than they went in, in their order and with their own times.
    """

    def __init__(self) -> None:
        self._graph: Graph | None = None
        self._form: tuple[int, int, str] | None = None

    def push(self, frame: VideoFrame) -> Iterator[VideoFrame]:
        """Take a frame and yield those that are ready.

        Raises:
            av.error.FFmpegError: The filter failed.
        """
        form = (frame.width, frame.height, frame.format.name)
        if self._graph is not None and form != self._form:
            yield from self.flush()
        if self._graph is None:
            if not frame.interlaced_frame or not frame.time_base:
                yield frame
                return
            self._graph, self._form = _build(frame), form
        self._graph.vpush(frame)
        yield from self._ready()

    def flush(self) -> Iterator[VideoFrame]:
        """Yield what is left at the end of the stream.

        Raises:
            av.error.FFmpegError: The filter failed.
        """
        if self._graph is not None:
            self._graph.vpush(None)
            yield from self._ready()
            self._graph = None

    def _ready(self) -> Iterator[VideoFrame]:
        assert self._graph is not None
        while True:
            try:
                yield self._graph.vpull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return


def _build(frame: VideoFrame) -> Graph:
    """Return a graph that makes interlaced frames whole and leaves others alone."""
    graph = Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
    )
    bwdif = graph.add("bwdif", "mode=send_frame:parity=auto:deint=interlaced")
    graph.link_nodes(source, bwdif, graph.add("buffersink")).configure()
    return graph
