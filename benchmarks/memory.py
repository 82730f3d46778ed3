"""`python -m benchmarks.memory`: the memory that the planner says against what torch counts.

A Wan checkout (`--model FOLDER`; without it a small random one) is loaded in every offload mode
and encodes texts and a clip, predicts velocities twice for each text, and decodes a clip. Counted
is the peak of each stage: on CUDA what torch says it has handed out, on a CPU the bytes of all
tensors alive (memory inside kernels is not seen there).

Letters: B batch, K cells, C channels, F Y X latent frames/rows/columns.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from benchmarks import options as shared
from benchmarks.live_bytes import LiveBytes
from benchmarks.small_wan import write_small_wan
from dcgrid.grid.layout import GridLayout
from dcgrid.models.base import CellText, Memory
from dcgrid.models.quantize import check_quantize
from dcgrid.models.wan.backbone import WanBackbone, load_wan
from dcgrid.models.wan.checkpoint import read_checkout
from dcgrid.models.wan.counts import WanSizes
from dcgrid.models.wan.memory import MODES, MemoryJob, predict_memory
from dcgrid.pipelines.sampling import token_places
from dcgrid.runtime.device import choose_device
from dcgrid.runtime.offload import check_offload

STAGES = ("text", "encode", "sample", "decode")
TEXTS = ("rain falls on a street", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One stage of one job."""

    stage: str
    predicted: int
    measured: int

    @property
    def ratio(self) -> float:
        """Predicted over measured."""
        return self.predicted / self.measured


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--model", type=Path, help="folder of a checkout (a small random one)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--wide", action="store_true", help="float32 in place of bfloat16")
    parser.add_argument("--cells", type=int, default=4, help="cells of the grid, in a row (4)")
    parser.add_argument("--frames", type=int, default=9, help="pixel frames of a cell (9)")
    parser.add_argument("--size", type=int, nargs=2, default=(96, 160), metavar=("H", "W"))
    parser.add_argument("--offload", nargs="+", default=list(MODES), choices=MODES)
    parser.add_argument("--quantize", nargs="+", default=["none", "int8"])
    options = parser.parse_args(arguments)
    return shared.run_command(lambda: _run(options))


def measure(folder: Path, job: MemoryJob, device: torch.device) -> list[Reading]:
    """Load a checkout as a job says and return prediction and measurement of each stage."""
    width = torch.float32 if job.wide else torch.bfloat16
    backbone = load_wan(
        read_checkout(folder),
        device=device,
        dtype=width,
        offload=check_offload(job.offload),
        quantize=check_quantize(job.quantize),
    )
    tokens = max(len(backbone.parts.segments.encode(text)) for text in TEXTS)
    backbone.parts.residence.clear()
    plan = predict_memory(
        WanSizes.of_checkout(folder),
        replace(job, on_cpu=device.type == "cpu", text_tokens=tokens),
    )
    measured = _peaks(backbone, job, device)
    return [
        Reading(stage=stage, predicted=getattr(plan, stage), measured=measured[stage])
        for stage in STAGES
    ]


@torch.no_grad()
def _peaks(backbone: WanBackbone, job: MemoryJob, device: torch.device) -> dict[str, int]:
    parts, spec = backbone.parts, backbone.spec
    modules: tuple[nn.Module, ...] = (parts.transformer, parts.vae, parts.segments.encoder)
    there = [t for m in modules for t in (*m.parameters(), *m.buffers())]
    counter = None if device.type == "cuda" else LiveBytes(there if job.offload == "none" else ())
    peaks: dict[str, int] = {}

    def stage(name: str, work: Callable[[], object]) -> object:
        # Else what was there before counts, until the first call sends it home.
        parts.residence.clear()
        _reset(counter, device)
        found = work()
        peaks[name] = _peak(counter, device)
        return found

    with counter or nullcontext():
        texts: list[CellText] = []
        stage("text", lambda: texts.extend(_encoded(backbone, words, job) for words in TEXTS))
        latents = stage("encode", lambda: backbone.encode(_clip(job, device)))
        assert isinstance(latents, torch.Tensor)
        cells = latents[:, None].repeat(1, job.cells, 1, 1, 1, 1)
        noise = torch.zeros_like(cells)
        places = token_places(
            GridLayout(rows=1, cols=job.cells), cells.shape[3:], spec.patch, spec.cell_pitch
        )
        time_BKF = torch.full((1, job.cells, cells.shape[3]), 0.5, device=device)

        def sample() -> None:
            memory = Memory()
            state, shown = noise.clone(), cells.clone()
            for _ in range(2):
                for text in texts:
                    backbone.velocity(shown, time_BKF, text, places, memory=memory)
            del state

        stage("sample", sample)
        stage("decode", lambda: backbone.decode(latents))
    return peaks


def _encoded(backbone: WanBackbone, words: str, job: MemoryJob) -> CellText:
    with backbone.parts.residence.on("text"):
        return backbone.parts.segments.encode_rows([[words]] * job.cells, cells=job.cells)


def _clip(job: MemoryJob, device: torch.device) -> torch.Tensor:
    return torch.zeros(1, 3, job.frames, job.height, job.width, device=device)


def _reset(counter: LiveBytes | None, device: torch.device) -> None:
    if counter is not None:
        counter.reset_peak()
    else:
        torch.cuda.reset_peak_memory_stats(device)


def _peak(counter: LiveBytes | None, device: torch.device) -> int:
    return counter.peak if counter is not None else torch.cuda.max_memory_allocated(device)


def _run(options: argparse.Namespace) -> None:
    device = choose_device(options.device)
    height, width = options.size
    job = MemoryJob(
        cells=shared.positive(options.cells, "--cells"),
        frames=shared.positive(options.frames, "--frames"),
        height=height,
        width=width,
        wide=options.wide,
    )
    with tempfile.TemporaryDirectory() as home:
        folder = options.model or write_small_wan(Path(home) / "small-wan")
        print(f"{folder.name}, {job.cells} cells of {job.frames}x{height}x{width}, {device}")
        print("offload quantize stage    predicted     measured  ratio")
        for offload in options.offload:
            for quantize in options.quantize:
                changed = replace(job, offload=offload, quantize=quantize)
                for reading in measure(folder, changed, device):
                    print(
                        f"{offload:7} {quantize:8} {reading.stage:7}{reading.predicted:12,} "
                        f"{reading.measured:12,}  {reading.ratio:.3f}"
                    )


if __name__ == "__main__":
    sys.exit(main())
