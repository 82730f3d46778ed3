"""Fit a training step into memory, and the weights of a transformer over processes.

Adapters are small: every process has them whole, and their gradients are added up (processes.py).
What does not fit is the base, frozen or trained, and what the backward pass needs of it:

    checkpointing   blocks are computed again in the backward pass, all of them or all but attention
    shard           each process holds a piece of every block; pieces are gathered block by block

A base that is trained so has gradients, moments and averages in pieces, too; what a loop does with
them is in pieces.py. Read `scale_transformer` (Wan) and `scale_native`. Letters: S tokens, D width.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from dcgrid.models.native.dit import Again, Block, DiT
from dcgrid.models.wan.transformer import Context, run_block
from dcgrid.models.wan.trunk import RunBlock, WanTransformer
from dcgrid.runtime.processes import Processes
from dcgrid.train.settings import ScaleSettings

_ATTENTION = (
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
)


class _SharedBlock(nn.Module):
    """A block whose weights several processes share: calling it gathers them first."""

    def __init__(self, block: nn.Module, run: RunBlock) -> None:
        super().__init__()
        self.block, self._run = block, run

    def forward(self, tokens_BSD: Tensor, context: Context) -> Tensor:
        """Carry tokens through the block."""
        return self._run(self.block, tokens_BSD, context)


class _SharedBlocks(nn.Module):
    """All of them; one call a forward, so that the next block is gathered while one computes."""

    def __init__(self, blocks: Iterable[_SharedBlock]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, tokens_BSD: Tensor, context: Context) -> Tensor:
        """Carry tokens through all blocks."""
        for block in self.blocks:
            tokens_BSD = block(tokens_BSD, context)
        return tokens_BSD


def scale_transformer(dit: WanTransformer, settings: ScaleSettings, processes: Processes) -> None:
    """Set a transformer up as a recipe's [scale] says; adapters are on it already.

    Args:
        dit: Changed in place.
        settings: The recipe's.
        processes: Those that train together.
    """
    run = _kept_by(settings.checkpointing)
    dit.run_block = run
    if settings.shard == "none" or processes.count == 1:
        return
    device = next(dit.parameters()).device.type
    mesh = _mesh(settings.shard, device, processes)
    shared = _SharedBlocks(_SharedBlock(block, run) for block in dit.transformer.blocks)
    # Adapters stay whole: they are what is trained, and their gradients are added up elsewhere.
    whole = {p for name, p in shared.named_parameters() if p.requires_grad or "lora_" in name}
    for block in shared.blocks:
        fully_shard(block, mesh=mesh, ignored_params=_of(block, whole))
    fully_shard(shared, mesh=mesh, ignored_params=whole)
    dit.blocks = (shared,)
    dit.run_block = _call


def scale_native(
    dit: DiT, settings: ScaleSettings, processes: Processes, dtype: torch.dtype
) -> None:
    """Set a native transformer up as a recipe's [scale] says; adapters, if any, are on it already.

    Parameters that train and are no adapter's are in pieces afterwards: collect them by name anew.

    Args:
        dit: Changed in place.
        settings: The recipe's.
        processes: Those that train together.
        dtype: Of matrix products: what is gathered. Pieces stay float32, and so do sums of
            gradients.
    """
    again = computed_again(settings.checkpointing)
    for block in dit.blocks:
        cast(Block, block).again = again
    if settings.shard == "none" or processes.count == 1:
        return
    mesh = _mesh(settings.shard, next(dit.parameters()).device.type, processes)
    whole = {p for name, p in dit.named_parameters() if "lora_" in name}
    half = dtype != torch.float32
    policy = MixedPrecisionPolicy(
        param_dtype=dtype if half else None,
        reduce_dtype=torch.float32 if half else None,
        cast_forward_inputs=False,
    )
    for module in (*dit.blocks, dit):
        mine = _of(module, whole)
        shared = fully_shard(
            module,
            mesh=mesh,
            reshard_after_forward=True,  # else a forward without backward leaves old weights behind
            ignored_params=mine,
            mp_policy=policy,
        )
        # Sums, not means: a step's loss is divided by its batches already.
        shared.set_gradient_divide_factor(1.0)
        shared.set_force_sum_reduction_for_comms(True)  # gloo knows no other


def computed_again(checkpointing: str) -> Again | None:
    """Return how a block is called so that the backward pass computes it again; None: it is not."""
    if checkpointing == "none":
        return None
    kept: dict[str, Any] = {}
    if checkpointing == "attention":
        kept["context_fn"] = partial(create_selective_checkpoint_contexts, _policy)

    def again(function: Callable[..., Tensor], *arguments: object) -> Tensor:
        return cast(Tensor, checkpoint(function, *arguments, use_reentrant=False, **kept))

    return again


def _kept_by(checkpointing: str) -> RunBlock:
    """Return how a checkout's block is run so that the backward pass finds what it needs."""
    again = computed_again(checkpointing)
    if again is None:
        return run_block

    def run(block: nn.Module, tokens_BSD: Tensor, context: Context) -> Tensor:
        return again(run_block, block, tokens_BSD, context)

    return run


def _policy(
    _context: object,
    operator: Callable[..., Any],
    *_args: object,
    **_named: object,
) -> CheckpointPolicy:
    """Keep what attention found, which costs most to find again; the rest is computed anew."""
    name = getattr(operator, "_opname", "")
    kept = name in _ATTENTION
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


def _mesh(shard: str, device: str, processes: Processes) -> DeviceMesh:
    """Return who shares with whom: all with all, or those of one machine."""
    if shard == "full":
        return init_device_mesh(device, (processes.count,), mesh_dim_names=("shard",))
    machines = processes.count // processes.local_count
    return init_device_mesh(
        device, (machines, processes.local_count), mesh_dim_names=("replicate", "shard")
    )


def _of(block: nn.Module, chosen: set[nn.Parameter]) -> set[nn.Parameter]:
    return {p for p in block.parameters() if p in chosen}


def _call(block: nn.Module, tokens_BSD: Tensor, context: Context) -> Tensor:
    carried: Tensor = block(tokens_BSD, context)
    return carried


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
