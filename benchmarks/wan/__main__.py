"""`python -m benchmarks.wan NAME`: one comparison of the Wan backbone's speed.

c1 to c6 are for a CPU (one thread), g1 to g7 for a CUDA device, where real sizes with random
weights are built on the device. Outputs are compared first; what counts are ratios.
"""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence

# Threads that wait by spinning make a busy machine many times slower; read when torch starts.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from benchmarks.wan import forward, sampling, training, vae
from benchmarks.wan.shapes import Place

NAMES: Mapping[str, Callable[[Place], None]] = {
    "c1": forward.c1, "c2": forward.c2, "c3": sampling.c3, "c4": forward.c4, "c5": training.c5,
    "c6": vae.c6, "g1": forward.g1, "g2": sampling.g2, "g3": forward.g3, "g4": sampling.g4,
    "g5": training.g5, "g6": vae.g6, "g7": sampling.g7,
}  # fmt: skip
TRAINING = ("c5", "g5")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.wan",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=sorted(NAMES), metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--small", action="store_true", help="sizes that take seconds")
    parser.add_argument("--repeats", type=int, default=7, help="timings of each way (7)")
    options = parser.parse_args(arguments)
    device = torch.device("cpu")
    for_gpu = options.name.startswith("g")
    if for_gpu and torch.cuda.is_available():
        device = torch.device("cuda:0")
    small = options.small
    if for_gpu and device.type == "cpu":
        small = True
        print("No CUDA device: small sizes on the CPU, to see that it runs.")
        print("GPU figures stay blank here.")
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    place = Place(device=device, small=small, repeats=max(1, options.repeats))
    try:
        with torch.set_grad_enabled(options.name in TRAINING):
            NAMES[options.name](place)
    finally:
        torch.set_num_threads(threads)
    return 0


if __name__ == "__main__":
    sys.exit(main())
