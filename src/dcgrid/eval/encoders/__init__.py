"""The networks that videos are scored with, and where their files are.

Start at `Encoders`. Nothing here is imported by metrics; torch, transformers, onnxruntime and
OpenCV are loaded when a network is first asked for.
"""

from dcgrid.eval.encoders.encoders import Encoders

__all__ = ["Encoders"]
