"""Which kernel computes attention: the fastest of those that are there, found by trying them.

Kernels differ by up to two times, and which one wins depends on the GPU, the installed packages and
the number of tokens. Each is tried once for a shape, on the tensors of the first call; the winner
is kept as long as the `AttentionChoice` lives. On a CPU there is nothing to choose.

Letters: B batch, S queries, L keys, N heads, P head width.
"""

import importlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from dcgrid.errors import DeviceError
from dcgrid.models.attention import attend

AttentionName = Literal["auto", "sdpa", "cudnn", "flash", "sage"]
"""auto: the fastest exact one. sdpa: torch's own pick. cudnn, flash: that kernel. sage: keys and
queries rounded to 8 bits (approximate), never picked by auto."""
Kernel: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Maps query BNSP, key and value BNLP to BNSP."""
Clock: TypeAlias = Callable[[Callable[[], object], torch.device], float]
"""Returns the seconds that a function takes on a device."""

MARGIN = 0.97
"""A kernel must take at most this share of torch's own pick's time to replace it: which of two
equal ones is used would change from run to run, and with it the last bits."""
TRIES = 3
"""Times that each kernel is timed, after one that is not; the shortest counts."""


@dataclass(slots=True, kw_only=True)
class AttentionChoice:
    """Attends, with the kernel that was asked for or found fastest; see `attention.attend`.

    Calls on a CPU, with padding or in float32 are torch's own matter.
    """

    name: AttentionName = "auto"
    """Which kernel."""
    kernels: Mapping[str, Kernel] | None = None
    """Those that are there, by name; None: they are looked for."""
    clock: Clock | None = None
    """How they are timed; None: with the device's own events."""
    chosen: dict[tuple[object, ...], str] = field(default_factory=dict)
    """Name of the winner by device, dtype and shapes."""

    def __call__(
        self,
        query_BNSP: Tensor,
        key_BNLP: Tensor,
        value_BNLP: Tensor,
        valid_BL: Tensor | None = None,
        /,
    ) -> Tensor:
        """Return softmax(q k^T / sqrt(P)) v, shape BNSP.

        Raises:
            DeviceError: The kernel that was asked for is not there.
        """
        half = query_BNSP.dtype in (torch.bfloat16, torch.float16)
        plain = self.name == "sdpa" or valid_BL is not None or not half
        if plain or (query_BNSP.device.type != "cuda" and self.kernels is None):
            return attend(query_BNSP, key_BNLP, value_BNLP, valid_BL)
        tensors = query_BNSP, key_BNLP, value_BNLP
        return self._kernel(*tensors)(*tensors)

    @property
    def notes(self) -> tuple[str, ...]:
        """A line for each shape for which kernels were compared."""
        return tuple(
            f"Attention over {shape[-1]} keys: {name}." for shape, name in self.chosen.items()
        )

    def _kernel(self, query: Tensor, key: Tensor, value: Tensor) -> Kernel:
        if self.kernels is None:
            self.kernels = find_kernels()
        if self.name != "auto":
            return self._asked_for(self.kernels)
        shape = (query.device, query.dtype, *query.shape, key.shape[2])
        if shape not in self.chosen:
            self.chosen[shape] = self._fastest(self.kernels, (query, key, value))
        return self.kernels[self.chosen[shape]]

    def _asked_for(self, kernels: Mapping[str, Kernel]) -> Kernel:
        # A package's FlashAttention is newer than torch's.
        wanted = ("flash3", "flash2", "flash") if self.name == "flash" else (self.name,)
        for name in wanted:
            if name in kernels:
                return kernels[name]
        hint = "pip install sageattention" if self.name == "sage" else "use --attention sdpa"
        raise DeviceError(f"there is no {self.name} attention here", hint=hint)

    def _fastest(
        self, kernels: Mapping[str, Kernel], tensors: tuple[Tensor, Tensor, Tensor]
    ) -> str:
        clock, device = self.clock or seconds_on, tensors[0].device
        spent = {}
        for name, kernel in kernels.items():
            if name == "sage":
                continue
            try:
                spent[name] = clock(partial(kernel, *tensors), device)
            except (RuntimeError, TypeError, ValueError):
                # Not for this device, head width or number format.
                continue
        if not spent:
            return "sdpa"
        best = min(spent, key=lambda name: spent[name])
        usual = spent.get("sdpa", float("inf"))
        return best if spent[best] <= MARGIN * usual else "sdpa"


def find_kernels() -> dict[str, Kernel]:
    """Return the kernels that are there, by name; which of them work is seen when they are used."""
    kernels: dict[str, Kernel] = {
        "sdpa": scaled_dot_product_attention,
        "cudnn": partial(_sdpa, SDPBackend.CUDNN_ATTENTION),
        "flash": partial(_sdpa, SDPBackend.FLASH_ATTENTION),
        "efficient": partial(_sdpa, SDPBackend.EFFICIENT_ATTENTION),
    }
    for name, module, function in (
        ("flash2", "flash_attn", "flash_attn_func"),
        ("flash3", "flash_attn_interface", "flash_attn_func"),
    ):
        found = _imported(module, function)
        if found is not None:
            kernels[name] = partial(_tokens_first, found)
    sage = _imported("sageattention", "sageattn")
    if sage is not None:
        kernels["sage"] = partial(sage, tensor_layout="HND", is_causal=False)
    return kernels


def seconds_on(work: Callable[[], object], device: torch.device) -> float:
    """Return the shortest of a few times that work takes on a device."""
    work()
    return min(_once(work, device) for _ in range(TRIES))


def _once(work: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _sdpa(backend: SDPBackend, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    with sdpa_kernel(backend):
        return scaled_dot_product_attention(query, key, value)


def _tokens_first(attend_BSNP: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:  # noqa: ANN401 - not typed
    """Call a kernel that wants tokens before heads."""
    found = attend_BSNP(*(tensor.transpose(1, 2) for tensor in (query, key, value)))
    # Older releases of FlashAttention 3 return what the backward pass needs, too.
    out: Tensor = found[0] if isinstance(found, tuple) else found
    return out.transpose(1, 2)


def _imported(module: str, function: str) -> Any | None:  # noqa: ANN401 - not typed
    """Return a function of a package, or None: it is not installed, or not for this machine."""
    if find_spec(module) is None:
        return None
    try:
        return getattr(importlib.import_module(module), function, None)
    except (ImportError, OSError):
        return None
