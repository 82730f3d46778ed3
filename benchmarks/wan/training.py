"""A training step of a LoRA, beside a loop over diffusers with PEFT: c5 and g5."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from benchmarks.wan import timing
from benchmarks.wan.forward import ours
from benchmarks.wan.shapes import (
    TINY,
    WAN_1B,
    Foreign,
    Place,
    Size,
    make_inputs,
    make_model,
    mini,
    theirs,
)
from dcgrid.adapters.attach import attach_adapter
from dcgrid.adapters.spec import AdapterSpec
from dcgrid.models.wan.transformer import Context, run_block

RANK = 8
TARGETS = ("to_q", "to_k", "to_v", "to_out.0")


def c5(place: Place) -> None:
    """Time a step: forward, backward, AdamW; losses are compared first."""
    for size in (TINY,) if place.small else (mini(5), mini(13)):
        _steps(place, size, torch.bfloat16, checkpointing=False)


def g5(place: Place) -> None:
    """As c5 at a real size, without and with activation checkpointing."""
    for checkpointing in (False, True):
        size = TINY if place.small else WAN_1B
        _steps(place, size, torch.bfloat16, checkpointing=checkpointing)


def _steps(place: Place, size: Size, dtype: torch.dtype, *, checkpointing: bool) -> None:
    inputs = make_inputs(size, place.device, dtype)
    goal = torch.randn(inputs.cells_BKCFYX.shape, generator=torch.Generator().manual_seed(2))
    goal = goal.to(place.device)
    mine, mine_learns = _ours(size, place, dtype)
    other, other_learns = _with_peft(size, place, dtype)
    with torch.no_grad():
        for ours_one, their_one in zip(mine_learns, other_learns, strict=True):
            ours_one.normal_(std=0.02)
            their_one.copy_(ours_one)
    if checkpointing:
        other.enable_gradient_checkpointing()
        other.train()

    def loss_here() -> Tensor:
        each = _checkpointed if checkpointing else run_block
        found = ours(mine, inputs, each=each)
        return (found.float() - goal).square().mean()

    def loss_there() -> Tensor:
        video = inputs.as_video(goal)
        return (theirs(other, inputs).float() - video).square().mean()

    first, second = loss_here().item(), loss_there().item()
    if abs(first - second) > 1e-3 * abs(second):
        raise SystemExit(f"the losses differ: {first:.6f} here, {second:.6f} with PEFT")
    ways = {
        "diffusers and PEFT": _step(loss_there, other_learns),
        "dcgrid": _step(loss_here, mine_learns),
    }
    times = timing.in_turn(ways, place.device, place.repeats)
    how = "with checkpoints" if checkpointing else "without checkpoints"
    title = f"{size.name}, {size.tokens} tokens, {how}, losses {first:.5f} and {second:.5f}"
    timing.tell(title, times, "diffusers and PEFT")


def _ours(size: Size, place: Place, dtype: torch.dtype) -> tuple[Foreign, list[nn.Parameter]]:
    model = make_model(size, place.device, dtype)
    spec = AdapterSpec(name="bench", stage="fill", rank=RANK, alpha=RANK, targets=TARGETS)
    attach_adapter(model, spec)
    return model, _learning(model)


def _with_peft(size: Size, place: Place, dtype: torch.dtype) -> tuple[Foreign, list[nn.Parameter]]:
    from peft import LoraConfig

    model = make_model(size, place.device, dtype)
    model.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(TARGETS)))
    learning = _learning(model)
    for parameter in learning:
        parameter.data = parameter.data.float()
    return model, learning


def _learning(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that learn, by name: two programs may add them in another order."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return [named[name] for name in sorted(named)]


def _checkpointed(block: Foreign, tokens_BSD: Tensor, context: Context) -> Tensor:
    carried: Tensor = checkpoint(run_block, block, tokens_BSD, context, use_reentrant=False)
    return carried


def _step(loss: Callable[[], Tensor], learning: list[nn.Parameter]) -> Callable[[], object]:
    optimizer = torch.optim.AdamW(learning, lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step
