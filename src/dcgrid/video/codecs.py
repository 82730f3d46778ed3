"""Which codecs this build of FFmpeg has, for `dcgrid doctor`."""

from typing import Literal

import av

_DECODERS = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mjpeg", "gif", "theora")
_ENCODERS = ("libx264", "libx264rgb", "aac", "png")


def codec_support() -> dict[str, dict[str, bool]]:
    """Return, under "decode" and "encode", whether each codec that matters here is present."""
    return {
        "decode": {name: _has(name, "r") for name in _DECODERS},
        "encode": {name: _has(name, "w") for name in _ENCODERS},
    }


def _has(name: str, mode: Literal["r", "w"]) -> bool:
    try:
        av.Codec(name, mode)
    except ValueError:
        return False
    return True
