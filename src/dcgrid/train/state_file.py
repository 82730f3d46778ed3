"""Write a safetensors file tensor by tensor, so that no process needs memory for all of it.

safetensors' own writer wants every tensor at once. The moments of 11 billion parameters that many
processes hold in pieces are gathered one tensor at a time, written, and let go.
"""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch

from dcgrid.train.pieces import gathered

_TYPES: Mapping[torch.dtype, str] = MappingProxyType(
    {
        torch.float64: "F64",
        torch.float32: "F32",
        torch.bfloat16: "BF16",
        torch.float16: "F16",
        torch.int64: "I64",
        torch.int32: "I32",
        torch.uint8: "U8",
        torch.bool: "BOOL",
    }
)


def write_tensors(
    path: Path | None, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
) -> None:
    """Write tensors to a safetensors file.

    Args:
        path: The file; an earlier one is replaced. None: another process writes, and this one
            gathers with it.
        tensors: By name; of those in pieces all processes call this with the same ones.
        metadata: Texts by name.

    Raises:
        OSError: The file cannot be written.
    """
    # Wide numbers first, so that each tensor begins at a multiple of its number's size.
    order = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    if path is None:
        for name in order:
            gathered(tensors[name])
        return
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name in order:
        tensor = tensors[name]
        begin, end = end, end + tensor.numel() * tensor.itemsize
        header[name] = {
            "dtype": _TYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for name in order:
            whole = gathered(tensors[name]).detach().cpu().contiguous()
            file.write(whole.reshape(-1).view(torch.uint8).numpy().data)
