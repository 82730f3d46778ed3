"""Whole samplings: c3, g2 (keys and values of given cells kept), g4 and g7 (offload)."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.wan import timing
from benchmarks.wan.forward import prepared
from benchmarks.wan.shapes import (
    TINY,
    WAN_1B,
    WAN_14B,
    Foreign,
    Inputs,
    Place,
    Size,
    make_inputs,
    make_model,
    mini,
    theirs,
)
from dcgrid.models.attention_choice import AttentionChoice
from dcgrid.models.base import CellText, Memory
from dcgrid.models.wan.context import Options
from dcgrid.models.wan.parts import WanParts, place_parts
from dcgrid.models.wan.text import SegmentEncoder
from dcgrid.models.wan.transformer import predict_velocity

GIVEN = (1, 2, 3)


def sampled(
    model: Foreign, inputs: Inputs, given: int, steps: int, options: Options, *, keep: bool
) -> Tensor:
    """Return the sum of the velocities of a sampling's calls; with `keep` they share a memory."""
    memory = Memory() if keep else None
    total = torch.zeros_like(inputs.cells_BKCFYX)
    for step in range(steps):
        total += predict_velocity(
            model, inputs.cells_BKCFYX, inputs.given(given, 1 - step / steps), inputs.text,
            inputs.places, memory=memory, given_first=True, options=options,
        )  # fmt: skip
    return total


def c3(place: Place) -> None:
    """Sample ten steps of one given-first model with and without what given cells keep."""
    size = TINY if place.small else mini(5)
    _kept(place, size, torch.float32, steps=3 if place.small else 10)


def g2(place: Place) -> None:
    """As c3 at a real size, beside diffusers' full attention."""
    size = TINY if place.small else WAN_1B
    _kept(place, size, torch.bfloat16, steps=3 if place.small else 10, beside=True)


def _kept(
    place: Place, size: Size, dtype: torch.dtype, steps: int, *, beside: bool = False
) -> None:
    model, inputs, options = prepared(size, place, dtype)
    print(f"{size.name}, {size.tokens} tokens, {steps} steps, {dtype}")
    for given in GIVEN:
        run = partial(sampled, model, inputs, given, steps, options)
        generated = slice(given, None)
        limit = 1e-5 if dtype == torch.float32 else 1e-2
        error = timing.same(run(keep=True)[:, generated], run(keep=False)[:, generated], limit)
        ways: dict[str, Callable[[], object]] = {
            "computed anew": partial(run, keep=False),
            "kept": partial(run, keep=True),
        }
        if beside:
            ways["diffusers"] = lambda: [theirs(model, inputs) for _ in range(steps)]
        times = timing.in_turn(ways, place.device, 3)
        # The first call computes all cells.
        ideal = steps / (1 + (steps - 1) * (4 - given) / 4)
        title = f"{given} given, error {error:.1e}, ideal by tokens {ideal:.2f}x"
        timing.tell(title, times, "diffusers" if beside else "computed anew")


def on_ring(model: Foreign, place: Place) -> WanParts:
    """Return the parts of a transformer whose blocks are streamed; its weights go to the host."""
    idle = nn.Linear(1, 1).requires_grad_(False)
    parts = WanParts(transformer=model, vae=idle, segments=SegmentEncoder(None, idle))
    return place_parts(parts, device=place.device, offload="block")


def g4(place: Place) -> None:
    """Stream a transformer's blocks, beside the same resident and diffusers' own offload."""
    frames = (2,) if place.small else (3, 6, 11, 21)
    base = TINY if place.small else WAN_14B
    for count in frames:
        size = Size(**{**_values(base), "frames": count})
        inputs = make_inputs(size, place.device, torch.bfloat16)
        times, outputs = {}, {}
        for name in ("resident", "dcgrid ring", "diffusers group offload"):
            if name.startswith("diffusers") and place.device.type != "cuda":
                continue
            forward = _offloaded(name, size, inputs, place)
            outputs[name] = forward()
            peak = _reset_peak(place)
            times[name] = timing.in_turn({name: forward}, place.device, 3)[name]
            print(f"  {name}: peak {peak() / 2**30:.1f} GiB on the device")
        timing.same(outputs["dcgrid ring"], outputs["resident"], 1e-2)
        timing.tell(f"{size.name}, {size.tokens} tokens", times, "resident")


def _offloaded(name: str, size: Size, inputs: Inputs, place: Place) -> Callable[[], Tensor]:
    # Made on the device, where drawing the numbers takes seconds.
    model = make_model(size, place.device, torch.bfloat16)
    if name.startswith("diffusers"):
        model.to("cpu")
        model.enable_group_offload(
            onload_device=place.device, offload_device=torch.device("cpu"),
            offload_type="block_level", num_blocks_per_group=1, use_stream=True,
        )  # fmt: skip
        return lambda: theirs(model, inputs)
    options = Options(skip_given=True, attend=AttentionChoice())
    parts = on_ring(model, place) if name == "dcgrid ring" else None

    def forward() -> Tensor:
        blocks = model.blocks if parts is None else parts.blocks()
        return predict_velocity(
            model, inputs.cells_BKCFYX, inputs.time_BKF, inputs.text, inputs.places,
            blocks=blocks, options=options,
        )  # fmt: skip

    if parts is None:
        return forward

    def streamed() -> Tensor:
        with parts.residence.on("transformer"):
            return forward()

    return streamed


def g7(place: Place) -> None:
    """Time both texts of guidance in two calls and in one batch, resident and streamed."""
    size = TINY if place.small else Size(**{**_values(WAN_14B), "frames": 3})
    inputs = make_inputs(size, place.device, torch.bfloat16)
    twice = CellText(
        tokens_BKLE=inputs.text.tokens_BKLE.repeat(2, 1, 1, 1),
        valid_BKL=inputs.text.valid_BKL.repeat(2, 1, 1),
    )
    options = Options(skip_given=True, attend=AttentionChoice())
    for name in ("resident", "streamed"):
        model = make_model(size, place.device, torch.bfloat16)
        parts = on_ring(model, place) if name == "streamed" else None

        def call(
            text: CellText, batch: int, parts: WanParts | None = parts, model: Foreign = model
        ) -> Tensor:
            return predict_velocity(
                model, inputs.cells_BKCFYX.repeat(batch, 1, 1, 1, 1, 1),
                inputs.time_BKF.repeat(batch, 1, 1), text, inputs.places,
                blocks=None if parts is None else parts.blocks(), options=options,
            )  # fmt: skip

        def apart(call: Callable[..., Tensor] = call) -> Tensor:
            return torch.cat([call(inputs.text, 1), call(inputs.text, 1)])

        at_once = partial(call, twice, 2)
        if parts is not None:
            with parts.residence.on("transformer"):
                pass
        timing.same(at_once(), apart(), 1e-2)
        ways: dict[str, Callable[[], object]] = {"two calls": apart, "one batch": at_once}
        times = timing.in_turn(ways, place.device, place.repeats)
        timing.tell(f"{size.name}, {size.tokens} tokens, {name}", times, "two calls")


def _values(size: Size) -> dict[str, object]:
    return {name: getattr(size, name) for name in size.__dataclass_fields__}


def _reset_peak(place: Place) -> Callable[[], int]:
    if place.device.type != "cuda":
        return lambda: 0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(place.device)
    return lambda: torch.cuda.max_memory_allocated(place.device)
