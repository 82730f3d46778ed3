"""One grid's tokens over several processes (Ulysses). Read `TokenSplit`.

    a part of every frame's tokens, all heads      norms, linear layers, text attention
                 |  by_heads                       all to all
    all tokens, a part of the heads                grid attention
                 |  by_tokens                      all to all
    a part of every frame's tokens, all heads

The tokens of a frame are cut into parts of one length; the last part may end in tokens that stand
for nothing, which are left out wherever all tokens are together.

Letters: B batch, S tokens (cell-major, k f n), N heads, P head width, D width.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSplit:
    """The processes that generate a grid together, seen from one of them."""

    group: "ProcessGroup"
    """All of them."""
    rank: int
    """Number of this one among them, from 0."""
    count: int
    """How many they are; heads must be a multiple of it."""

    def part(self, per_token: Tensor, frames: int, dim: int) -> Tensor:
        """Return what this process holds of something that each token has.

        Args:
            per_token: Of all tokens.
            frames: Frames of all cells together.
            dim: Where the tokens are.
        """
        split = per_token.movedim(dim, 0).unflatten(0, (frames, -1))
        padded = self._padded(split)
        mine = padded.unflatten(1, (self.count, -1))[:, self.rank].flatten(0, 1)
        part: Tensor = mine.movedim(0, dim)
        return part

    def by_heads(self, heads_BNSP: Tensor, frames: int, places: int) -> Tensor:
        """Exchange parts of all heads for all tokens of this process's heads.

        Args:
            heads_BNSP: This process's tokens.
            frames: Frames of all cells together.
            places: Tokens of one frame.
        """
        sent = rearrange(heads_BNSP, "b (u n) s p -> u b n s p", u=self.count)
        came: Tensor = rearrange(self._exchanged(sent), "u b n (f m) p -> b n f (u m) p", f=frames)
        return came[:, :, :, :places].flatten(2, 3)

    def by_tokens(self, heads_BNSP: Tensor, frames: int) -> Tensor:
        """Exchange all tokens of this process's heads for its part of all heads."""
        whole = rearrange(heads_BNSP, "b n (f m) p -> f m b n p", f=frames)
        sent = rearrange(self._padded(whole), "f (u m) b n p -> u b n (f m) p", u=self.count)
        return rearrange(self._exchanged(sent), "u b n s p -> b (u n) s p")

    def gathered(self, tokens_BSD: Tensor, frames: int, places: int) -> Tensor:
        """Return all tokens, from the parts of all processes; see `by_heads`."""
        from torch import distributed

        parts = [torch.empty_like(tokens_BSD) for _ in range(self.count)]
        distributed.all_gather(parts, tokens_BSD.contiguous(), group=self.group)
        whole = rearrange(torch.stack(parts), "u b (f m) d -> b f (u m) d", f=frames)
        return whole[:, :, :places].flatten(1, 2)

    def _padded(self, by_frame: Tensor) -> Tensor:
        """Lengthen the second axis to a multiple of the processes."""
        missing = -by_frame.shape[1] % self.count
        return F.pad(by_frame, [0, 0] * (by_frame.ndim - 2) + [0, missing])

    def _exchanged(self, sent: Tensor) -> Tensor:
        """Send row u to process u; return what came, row u from process u."""
        from torch import distributed

        sent = sent.contiguous()
        came = torch.empty_like(sent)
        distributed.all_to_all_single(came, sent, group=self.group)
        return came
