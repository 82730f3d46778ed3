"""Blocks through torch's compiler: one function, compiled once, runs every block.

Only the work on a block's tokens is compiled: what is kept from call to call, and attention, which
has kernels of its own, stay as they are (`torch.compiler.disable`).

Letters: S tokens, D width.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dcgrid.models.wan.blocks import run_block
from dcgrid.models.wan.context import Context, Foreign

RunBlock = Callable[[Foreign, Tensor, Context], Tensor]
"""Carries tokens BSD through one block."""


class CompiledBlock:
    """Runs blocks as compiled code; where the compiler fails, as they are.

    Args:
        run: What is compiled.
        backend: Of `torch.compile`.
    """

    def __init__(
        self, run: RunBlock = run_block, *, backend: str | Callable[..., Any] = "inductor"
    ) -> None:
        self._plain = run
        self._compiled: RunBlock | None = torch.compile(run, dynamic=False, backend=backend)
        self.notes: tuple[str, ...] = ()

    def __call__(self, block: Foreign, tokens_BSD: Tensor, context: Context) -> Tensor:
        """Return the tokens after one block."""
        if self._compiled is None:
            return self._plain(block, tokens_BSD, context)
        try:
            return self._compiled(block, tokens_BSD, context)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            said = " ".join(str(error).split())[:200]
            self.notes = (f"Blocks run uncompiled, the compiler failed: {said}",)
            self._compiled = None
            return self._plain(block, tokens_BSD, context)
