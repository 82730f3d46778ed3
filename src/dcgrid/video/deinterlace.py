"""Whole frames from interlaced ones: FFmpeg's bwdif, in the stream of decoded frames.

Older cameras and broadcasts store two half pictures of different moments in one frame; left alone,
everything that moves gets a comb. Read `whole_frames`.
"""

from collections.abc import Iterable, Iterator

import av.error
from av.filter import Graph
from av.video.frame import VideoFrame


def whole_frames(frames: Iterable[VideoFrame]) -> Iterator[VideoFrame]:
    """Pass frames on, interlaced ones as whole pictures; one frame in, one frame out.

    Nothing is built before the first interlaced frame comes. From then on frames come out one later
    than they went in, in their order and with their own times.

    Raises:
        av.error.FFmpegError: The filter failed.
    """
    graph, filtered = None, None
    for frame in frames:
        form = (frame.width, frame.height, frame.format.name)
        if graph is not None and form != filtered:
            yield from _through(graph, None)
            graph = None
        if graph is None and frame.interlaced_frame and frame.time_base:
            graph, filtered = _build(frame), form
        if graph is None:
            yield frame
        else:
            yield from _through(graph, frame)
    if graph is not None:
        yield from _through(graph, None)


def _through(graph: Graph, frame: VideoFrame | None) -> Iterator[VideoFrame]:
    """Put a frame into a graph, or None to end it, and yield what is ready."""
    graph.vpush(frame)
    while True:
        try:
            yield graph.vpull()
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
