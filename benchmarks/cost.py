"""What an edit and a training run on Wan models cost, computed: operations, hours, memory.

    python -m benchmarks.cost [--rate 350]

Nothing is run. The rate is that of one GPU in 10^12 operations a second: 350 is what others publish
for the eager forward of such models on one H100 (sources in docs/hardware.md).

Counted are products of matrices, two operations for each multiplication and addition; norms,
rotations and activations are left out. Letters: S tokens of a grid, K cells.
"""

import argparse
from dataclasses import dataclass, replace

from dcgrid.models.registry import find_model
from dcgrid.models.wan.counts import WanSizes
from dcgrid.models.wan.known import KNOWN, TEXT_LENGTH
from dcgrid.models.wan.memory import MODES, MemoryJob, predict_memory

CELLS = 4
TRAINED_STEPS = {"grid": 3000, "fill": 3900}
"""Steps of section 8 of the paper."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Operations of a grid at a model's own size, in 10^12."""

    name: str
    frames: int
    cell: tuple[int, int]
    """Height and width of a cell."""
    tokens: int
    forward: float
    edit: float
    """All steps of an edit with guidance: two forwards each."""
    lora_step: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Operations of one forward of the transformer."""

    linear: float
    """Of linear layers."""
    attention: float
    """Of tokens that look at tokens."""

    @property
    def forward(self) -> float:
        """All of them."""
        return self.linear + self.attention

    @property
    def lora_step(self) -> float:
        """Of a training step of adapters on a frozen base, everything computed again.

        Forward, forward again and the gradients of what is between layers; weights have none. The
        backward pass of attention takes two and a half times its forward pass.
        """
        return 3 * self.linear + 4.5 * self.attention


def forward_work(sizes: WanSizes, tokens: int, cells: int) -> Work:
    """Return the operations of one forward of S tokens of K cells, each with a text of its own."""
    width, ffn = sizes.width, int(sizes.transformer["ffn_dim"])
    config, texts = sizes.transformer, cells * TEXT_LENGTH
    patch = sizes.patch[0] * sizes.patch[1] * sizes.patch[2]
    # Four projections of grid attention, two of text attention, and the feed-forward layers.
    token = 6 * width * width + 2 * width * ffn
    blocks = sizes.layers * (tokens * token + texts * 2 * width * width)
    ends = tokens * patch * width * (config["in_channels"] + config["out_channels"])
    words = texts * width * (int(config["text_dim"]) + width)
    grid = sizes.layers * 2 * tokens * tokens * width
    text = sizes.layers * 2 * tokens * TEXT_LENGTH * width
    return Work(linear=2.0 * (blocks + ends + words), attention=2.0 * (grid + text))


def cost_of(name: str) -> Cost:
    """Return what a grid of the model's largest clip costs."""
    spec, sizes = find_model(name).spec, WanSizes.known(name)
    height, width = spec.cell_sizes[0]
    frames = (spec.default_frames - 1) // spec.stride_T + 1
    side = spec.stride_HW * spec.patch[1]
    tokens = CELLS * frames * (height // side) * (width // side)
    work = forward_work(sizes, tokens, CELLS)
    return Cost(
        name=name,
        frames=spec.default_frames,
        cell=(height, width),
        tokens=tokens,
        forward=work.forward / 1e12,
        edit=2 * spec.filling.num_inference_steps * work.forward / 1e12,
        lora_step=work.lora_step / 1e12,
    )


def lines_of(cost: Cost, rate: float) -> list[str]:
    """Return a model's costs as a person reads them."""
    height, width = cost.cell
    hours = {stage: steps * cost.lora_step / rate / 3600 for stage, steps in TRAINED_STEPS.items()}
    shown = ", ".join(f"stage {stage} {hour:.1f} h" for stage, hour in hours.items())
    return [
        f"{cost.name}: grid of {CELLS} cells of {width}x{height}, {cost.frames} frames, "
        f"{cost.tokens} tokens",
        f"  one forward {cost.forward:.0f} TFLOP; an edit {cost.edit / 1000:.1f} PFLOP, "
        f"{cost.edit / rate / 60:.1f} min",
        f"  one training step {cost.lora_step:.0f} TFLOP, {cost.lora_step / rate:.1f} s; {shown}",
    ]


def memory_lines(name: str) -> list[str]:
    """Return what an edit of the model's own size takes of a GPU and its host, by offload mode."""
    spec, sizes = find_model(name).spec, WanSizes.known(name)
    height, width = spec.cell_sizes[0]
    job = MemoryJob(cells=CELLS, frames=spec.default_frames, height=height, width=width)
    lines = []
    for mode, quantize in ((m, q) for q in ("none", "int8") for m in MODES):
        plan = predict_memory(sizes, replace(job, offload=mode, quantize=quantize))
        lines.append(
            f"  --offload {mode:<5} --quantize {quantize:<4}  "
            f"GPU {plan.device_peak_bytes / 1e9:5.1f} GB (to {plan.largest_stage}), "
            f"host {plan.host_bytes / 1e9:5.1f} GB"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=350.0, help="TFLOP/s of one GPU")
    rate = parser.parse_args().rate
    print(f"at {rate:g} TFLOP/s on one GPU, computed and not measured:")
    for name in KNOWN:
        print("\n".join([*lines_of(cost_of(name), rate), *memory_lines(name)]))


if __name__ == "__main__":
    main()
