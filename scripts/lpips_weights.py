"""`python -m scripts.lpips_weights VGG.PTH`: the shipped weights of LPIPS, from their pickle.

Run once, with weights/v0.1/vgg.pth of the PyPI package lpips 0.1.4 (BSD-2-Clause, by the authors of
Zhang et al., 2018): `pip download --no-deps lpips==0.1.4`, then unzip. dcgrid itself loads the
safetensors file alone.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from dcgrid.errors import WeightsError
from dcgrid.eval.encoders.lpips import LINEAR_FILE, WIDTHS
from dcgrid.hub import file_sha256

PICKLE_SHA256 = "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.lpips_weights", description=__doc__.splitlines()[0]
    )
    parser.add_argument("pickle", type=Path, help="vgg.pth of lpips 0.1.4")
    parser.add_argument("--out", type=Path, default=LINEAR_FILE)
    options = parser.parse_args(arguments)
    convert(options.pickle, options.out)
    print(f"{options.out}: {options.out.stat().st_size} bytes")
    return 0


def convert(pickle: Path, out: Path) -> None:
    """Write a weight a channel of each layer.

    Raises:
        WeightsError: It is another file.
    """
    if (digest := file_sha256(pickle)) != PICKLE_SHA256:
        raise WeightsError(f"{pickle} is not vgg.pth of lpips 0.1.4: its SHA-256 is {digest}")
    loaded = torch.load(pickle, weights_only=True, map_location="cpu")
    layers = {
        f"lin{index}": loaded[f"lin{index}.model.1.weight"].reshape(width).contiguous()
        for index, width in enumerate(WIDTHS)
    }
    save_file(layers, out, metadata={"source": "lpips 0.1.4 weights/v0.1/vgg.pth, BSD-2-Clause"})


if __name__ == "__main__":
    sys.exit(main())
