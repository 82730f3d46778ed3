"""Parameters that several processes hold in pieces: what a training loop does with them.

A piece is a row or more of every tensor (train/scale.py). What is called here on a tensor in pieces
is called by all processes, with the same tensors in the same order; a whole one passes through.
"""

from collections.abc import Iterable, Sequence
from typing import TypeVar

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

_Tensor = TypeVar("_Tensor", bound=torch.Tensor)


def in_pieces(tensor: torch.Tensor) -> bool:
    """Return True if this process holds a piece of a tensor and not all of it."""
    return isinstance(tensor, DTensor)


def whole_ones(tensors: Iterable[_Tensor]) -> list[_Tensor]:
    """Return the tensors that every process has whole."""
    return [tensor for tensor in tensors if not in_pieces(tensor)]


def own(tensor: torch.Tensor) -> torch.Tensor:
    """Return what this process holds of a tensor; it shares memory with it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def gathered(tensor: torch.Tensor) -> torch.Tensor:
    """Return all of a tensor, in every process."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def put(target: torch.Tensor, values: torch.Tensor) -> None:
    """Write values, which every process has whole, into a tensor in place; nothing is sent."""
    if isinstance(target, DTensor):
        moved = values.to(target.device, target.dtype)
        pieces = distribute_tensor(moved, target.device_mesh, target.placements, src_data_rank=None)
        target.to_local().copy_(pieces.to_local())
    else:
        target.copy_(values)


def clip_gradients(parameters: Sequence[nn.Parameter], most: float) -> float:
    """Scale gradients down to a norm of at most `most`, over all pieces; return what it was."""
    norm = torch.nn.utils.clip_grad_norm_(parameters, most)
    return float(gathered(norm))
