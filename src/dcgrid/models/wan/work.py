"""How much arithmetic a Wan model does, from its configs; no torch.

Counted are products of matrices, two operations for each multiplication and addition; norms,
rotations and activations are left out. Tested against torch's own counter.

Letters: D width, S tokens of a grid, K cells, L text tokens of a cell.
"""

from dataclasses import dataclass

from dcgrid.models.wan.counts import WanSizes
from dcgrid.models.wan.known import TEXT_LENGTH


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
    """Return the operations of one forward.

    Args:
        sizes: The model's configs.
        tokens: S, of all cells.
        cells: K; each reads a text of its own.
    """
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
