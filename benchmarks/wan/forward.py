"""The transformer's forward: c1, c2, c4, g1 and g3."""

from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.wan import timing
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
from dcgrid.models.base import Memory
from dcgrid.models.given import attend_given_first
from dcgrid.models.wan.compiled import CompiledBlock
from dcgrid.models.wan.context import Options
from dcgrid.models.wan.fused import lay_side_by_side
from dcgrid.models.wan.transformer import predict_velocity

LIMITS = {torch.float32: 1e-5, torch.bfloat16: 1e-2}


def ours(model: Foreign, inputs: Inputs, given: int = 0, **options: object) -> Tensor:
    """Return our velocity BKCFYX, with the first cells given."""
    time_BKF = inputs.given(given)
    return predict_velocity(
        model,
        inputs.cells_BKCFYX,
        time_BKF,
        inputs.text,
        inputs.places,
        **options,  # type: ignore[arg-type]
    )


def prepared(size: Size, place: Place, dtype: torch.dtype) -> tuple[Foreign, Inputs, Options]:
    """Return a model as WanBackbone has it, its inputs, and how it is computed."""
    model = make_model(size, place.device, dtype)
    lay_side_by_side(model.blocks)
    options = Options(fused=True, skip_given=True, attend=AttentionChoice())
    return model, make_inputs(size, place.device, dtype), options


def c1(place: Place) -> None:
    """Compare our forward with diffusers', same weights; texts kept, as in all but a first call."""
    sizes = (TINY,) if place.small else (mini(5), mini(13))
    for dtype in (torch.bfloat16, torch.float32):
        rate = timing.product_rate(place.device, dtype, place.repeats)
        print(f"{dtype}: a linear layer makes {rate / 1e9:.0f} GFLOP/s")
        for size in sizes:
            model, inputs, options = prepared(size, place, dtype)
            memory = Memory()
            first = partial(ours, model, inputs, options=options)
            found = inputs.as_video(first())
            error = timing.same(found, theirs(model, inputs), LIMITS[dtype])
            ways: dict[str, Callable[[], object]] = {
                "diffusers": partial(theirs, model, inputs),
                "dcgrid": partial(first, memory=memory),
                "dcgrid, first call": first,
            }
            times = timing.in_turn(ways, place.device, place.repeats)
            title = f"{size.name}, {size.tokens} tokens, error {error:.1e}"
            timing.tell(title, times, "diffusers")
            share = size.operations / median(times["dcgrid"]) / rate
            print(f"  share of the linear layer    {share:6.2f}")


def c2(place: Place) -> None:
    """Hold our forward against a matrix product of the same run."""
    dtype = torch.bfloat16
    for size in (TINY,) if place.small else (mini(5), mini(13), mini(5, heads=3)):
        model, inputs, options = prepared(size, place, dtype)
        rate = timing.product_rate(place.device, dtype, place.repeats)
        way = partial(ours, model, inputs, options=options, memory=Memory())
        spent = timing.in_turn({"dcgrid": way}, place.device, place.repeats)["dcgrid"]
        reached = size.operations / median(spent) / rate
        print(f"{size.name}, {size.tokens} tokens: {reached:.2f} of {rate / 1e9:.0f} GFLOP/s")


def c4(place: Place) -> None:
    """Turn the exact savings on one by one; one cell of four is given."""
    size = TINY if place.small else mini(5)
    for dtype in (torch.bfloat16, torch.float32):
        model, inputs, best = prepared(size, place, dtype)
        settings: dict[str, dict[str, object]] = {
            "none": {},
            "texts and tables kept": {"memory": Memory()},
            "one product for q, k, v": {"options": Options(fused=True)},
            "last block short": {"options": Options(skip_given=True)},
            "all": {"options": best, "memory": Memory()},
        }
        expected = ours(model, inputs, 1)[:, 1:]
        ways = {name: partial(ours, model, inputs, 1, **how) for name, how in settings.items()}
        for way in ways.values():
            timing.same(way()[:, 1:], expected, LIMITS[dtype])
        times = timing.in_turn(ways, place.device, place.repeats)
        timing.tell(f"{size.name}, {size.tokens} tokens, {dtype}", times, "none")


def g1(place: Place) -> None:
    """Time a forward at real sizes: diffusers as it is and compiled, ours as it is and compiled."""
    for size in (TINY,) if place.small else (WAN_1B, WAN_14B):
        model, inputs, options = prepared(size, place, torch.bfloat16)
        rate = timing.product_rate(place.device, torch.bfloat16, place.repeats)
        expected = theirs(model, inputs)
        timing.same(inputs.as_video(ours(model, inputs, options=options)), expected, 1e-2)
        ways: dict[str, Callable[[], object]] = {
            "diffusers": partial(theirs, model, inputs),
            "dcgrid": partial(ours, model, inputs, options=options, memory=Memory()),
        }
        if not place.small:
            each = CompiledBlock()
            ways["dcgrid, compiled"] = partial(
                ours, model, inputs, options=options, memory=Memory(), each=each
            )
        times = dict(timing.in_turn(ways, place.device, place.repeats))
        if not place.small:
            # Compiled in place, so it comes last.
            model.compile_repeated_blocks()
            last = {"diffusers, compiled": partial(theirs, model, inputs)}
            times |= timing.in_turn(last, place.device, place.repeats)
        timing.tell(f"{size.name}, {size.tokens} tokens", times, "diffusers")
        for name, spent in times.items():
            reached = size.operations / median(spent)
            print(f"  {name}: {reached / 1e12:.2f} TFLOP/s, {reached / rate:.2f} of a linear layer")


def g3(place: Place) -> None:
    """Time given-first attention as split calls, and with one dense mask."""
    heads, tokens = (2, 256) if place.small else (12, 32_760)
    generator = torch.Generator(place.device).manual_seed(0)
    drawn = (
        torch.randn(1, heads, tokens, 128, device=place.device, generator=generator)
        for _ in range(3)
    )
    query, key, value = (tensor.bfloat16() for tensor in drawn)
    given_BS = (torch.arange(tokens, device=place.device) < tokens // 4)[None]
    seen_SS = ~(given_BS[0, :, None] & ~given_BS[0, None, :])
    split = partial(attend_given_first, query, key, value, given_BS)
    dense = partial(scaled_dot_product_attention, query, key, value, attn_mask=seen_SS)
    timing.same(split(), dense(), 2e-2)
    ways = {"dense mask": dense, "split calls": split}
    if place.device.type == "cuda":
        ways["flex attention"] = _flex(query, key, value, given_BS[0])
    times = timing.in_turn(ways, place.device, place.repeats)
    timing.tell(f"{heads} heads, {tokens} tokens, a quarter given", times, "dense mask")


def _flex(query: Tensor, key: Tensor, value: Tensor, given_S: Tensor) -> Callable[[], Tensor]:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def seen(_batch: Tensor, _head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        return ~given_S[row] | given_S[column]

    tokens = len(given_S)
    mask = create_block_mask(seen, None, None, tokens, tokens, device=str(query.device))
    compiled = torch.compile(flex_attention)
    return lambda: compiled(query, key, value, block_mask=mask)
