"""What the blocks of Wan's transformer read beside the tokens.

Letters: B batch, K cells, F token frames, S tokens, D width, P head width, L text tokens, U
distinct flow times, A adapters.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeVar, cast

import torch
from torch import Tensor

from dcgrid.models.attention import Attend, attend
from dcgrid.models.base import Memory
from dcgrid.models.given import Given, Live, live_tokens
from dcgrid.models.wan.parallel import TokenSplit

Foreign: TypeAlias = Any
"""A module of diffusers, whose parts its types do not tell."""
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a forward is computed; what it computes is the same up to rounding."""

    fused: bool = False
    """Projections whose weights lie side by side (fused.py) are one matrix product."""
    skip_given: bool = False
    """In the last block nothing is computed for given tokens but what the generated ones read; the
    velocity of given cells is 0 then."""
    attend: Attend = attend
    """Attention over tokens."""
    split: TokenSplit | None = None
    """Processes that compute a call together, all of them with the same arguments; each holds a
    part of the tokens, and then nothing is skipped or left out. None: this one holds all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What every block reads beside the tokens."""

    cells: int
    places: int
    """Tokens of one frame of a cell."""
    rows_U6D: Tensor
    """What each distinct time says to all blocks, float32."""
    index_BKF: Tensor
    """Row of each cell and frame."""
    rotation: Tensor
    """Cosine and sine of each token's angles, S (P/2) 2."""
    text_BKLD: Tensor
    """Text of each cell, projected."""
    valid_BKL: Tensor | None
    """True where a text token may be read; None: all may."""
    route_KA: Tensor | None
    given: Given | None
    memory: Memory | None
    text_name: str
    options: Options

    def of_live(self, live: Live) -> "Context":
        """Return what blocks read of the live part alone."""
        cells = list(live.cells)
        return replace(
            self,
            cells=len(cells),
            index_BKF=self.index_BKF[:, cells, live.first :],
            rotation=live_tokens(self.rotation, live, self.size_KF),
            text_BKLD=self.text_BKLD[:, cells],
            valid_BKL=None if self.valid_BKL is None else self.valid_BKL[:, cells],
            route_KA=None if self.route_KA is None else self.route_KA[cells],
            # As given.live_call names it, so that what is kept here serves later calls.
            text_name=f"{self.text_name} live",
        )

    @property
    def size_KF(self) -> tuple[int, int]:  # noqa: N802
        """Cells and token frames."""
        return self.index_BKF.shape[1], self.index_BKF.shape[2]

    def live(self, tokens_BSD: Tensor, live: Live) -> Tensor:
        """Return the live ones of all tokens."""
        return live_tokens(tokens_BSD.transpose(0, 1), live, self.size_KF).transpose(0, 1)


def rotary_table(rope: Foreign, coordinates_S3: Tensor) -> Tensor:
    """Return cosine and sine of each token's angles, S (P/2) 2, from the model's own tables.

    Raises:
        ValueError: A coordinate is beyond the tables.
    """
    sides = (rope.t_dim, rope.h_dim, rope.w_dim)
    length = len(cast(Tensor, rope.freqs_cos))
    if int(coordinates_S3.max()) >= length:
        raise ValueError(f"a token stands at {int(coordinates_S3.max())}; the model knows {length}")
    tables = []
    for name in ("freqs_cos", "freqs_sin"):
        # Each angle stands there twice, once for each channel of its pair.
        parts = cast(Tensor, getattr(rope, name))[:, ::2].split([int(n) // 2 for n in sides], dim=1)
        chosen = [part[coordinates_S3[:, axis]] for axis, part in enumerate(parts)]
        tables.append(torch.cat(chosen, dim=1))
    # At least float32: there are no complex numbers of bfloat16 halves.
    dtype = torch.promote_types(tables[0].dtype, torch.float32)
    return torch.stack(tables, dim=-1).to(dtype)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def kept(memory: Memory | None, owner: Hashable, name: str, compute: Callable[[], _T]) -> _T:
    """Return what a memory has under an owner and a name, or compute and keep it."""
    if memory is None:
        return compute()
    key = (owner, name)
    if key not in memory.kept:
        memory.kept[key] = compute()
    return cast(_T, memory.kept[key])
