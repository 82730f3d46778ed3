"""The most memory that Wan's networks take beside their weights, followed line by line; no torch.

Each function walks through a forward and counts which tensors are alive at its largest moments.
Tensors much smaller than the rest are left out.

Letters: S tokens, D width, W hidden width, L text tokens, E text width, N heads, e bytes of the
model's number format.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dcgrid.models.wan.counts import Level, WanSizes, decoder_levels, encoder_levels

WIDE = 4
"""Bytes of a float32."""
TEXT_LENGTH = 512
"""Text tokens that a cell reads, filled up."""
TILE, TILE_STEP = 256, 192
"""Pixels of a tile's side, and from one tile to the next."""
CHUNK = 256
"""Queries at a time of attention in bfloat16 on a CPU."""
CACHED = 2
"""Frames of its input that a convolution over time keeps."""
LATENT_FRAMES = 4
"""Pixel frames that one step of the encoder takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """What the transformer is called with."""

    cells: int
    tokens: int
    """S, of all cells."""
    latent_bytes: int
    """One grid of latents, float32."""
    texts: int
    """Guidance branches: texts whose keys and values are kept."""
    kept_tokens: int = 0
    """Given tokens whose keys and values are kept (given-first attention)."""


def sampling_bytes(sizes: WanSizes, grid: Grid, *, width: int, rounded: bool, chunked: bool) -> int:
    """Return the peak of a call of the transformer in a sampling that keeps what it knows.

    Args:
        sizes: Of the model.
        grid: What it is called with.
        width: e.
        rounded: True: weights are stored rounded, and spread out for a product.
        chunked: True: attention as `models.attention` has it on a CPU in bfloat16.
    """
    return kept_bytes(sizes, grid, width) + _block_peak(sizes, grid, width, rounded, chunked)


def kept_bytes(sizes: WanSizes, grid: Grid, width: int) -> int:
    """Return what lives through a sampling: latents, texts, their keys and values, positions."""
    text = grid.cells * TEXT_LENGTH
    encoded = grid.texts * text * int(sizes.transformer["text_dim"]) * width
    projected = grid.texts * text * sizes.width * width
    pairs = 2 * sizes.layers * sizes.width * width * (grid.texts * text + grid.kept_tokens)
    # Rotary cosines and sines of half a head, float32; three coordinates and a place, int64.
    head = int(sizes.transformer["attention_head_dim"])
    places = grid.tokens * (2 * head // 2 * WIDE + 4 * 8)
    # Noise, state, slope and what is shown to the network.
    return encoded + projected + pairs + places + 4 * grid.latent_bytes


def _block_peak(sizes: WanSizes, grid: Grid, width: int, rounded: bool, chunked: bool) -> int:
    one, wide = grid.tokens * sizes.width * width, grid.tokens * sizes.width * WIDE
    hidden = grid.tokens * int(sizes.transformer["ffn_dim"]) * width
    matrix = sizes.width * int(sizes.transformer["ffn_dim"]) * width if rounded else 0
    narrow = width != WIDE
    cast = one if narrow else 0
    widened = wide if narrow else 0
    # Patches and a block's input live through the block.
    base = 2 * one
    moments = [
        # The norm's input and output; modulated: its input, the product, the sum.
        base + max(widened + wide, 3 * wide),
        # Turning the keys: query, key, value and turned query; halves, their products, the turned.
        base + wide + cast + 4 * one + 2 * wide,
        # Attention proper, and what it gives.
        base + wide + cast + 3 * one + _attention(sizes, grid, width, chunked),
        # The sum: input and update widened, gated, added.
        base + wide + one + 2 * widened + wide + (0 if narrow else wide),
        # Before feeding forward the block's own state and what attention gave live, too.
        base + 2 * one + cast + _text_attention(sizes, grid, width, chunked),
        # The first time, keys of texts are normed in float32, beside what will be kept.
        base + 2 * one + cast + 3 * grid.cells * TEXT_LENGTH * sizes.width * WIDE,
        base + 2 * one + cast + 3 * wide,
        base + 2 * one + wide + cast + 2 * hidden,
        base + 2 * one + wide + cast + hidden + matrix,
    ]
    return max(moments)


def _attention(sizes: WanSizes, grid: Grid, width: int, chunked: bool) -> int:
    one = grid.tokens * sizes.width * width
    if not chunked:
        return one
    heads = int(sizes.transformer["num_attention_heads"])
    scores = heads * min(CHUNK, grid.tokens) * grid.tokens * width
    # Scaled keys, the parts so far, and scores beside their softmax; or the parts put together.
    return max(2 * one + 2 * scores, 3 * one)


def _text_attention(sizes: WanSizes, grid: Grid, width: int, chunked: bool) -> int:
    one = grid.tokens * sizes.width * width
    if not chunked:
        return 3 * one
    heads = int(sizes.transformer["num_attention_heads"])
    queries = min(CHUNK, grid.tokens // grid.cells)
    scores = grid.cells * heads * queries * TEXT_LENGTH * width
    keys = grid.cells * TEXT_LENGTH * sizes.width * width
    return 2 * one + keys + 2 * scores


def text_bytes(sizes: WanSizes, tokens: int, *, width: int) -> int:
    """Return the peak of encoding one segment.

    Args:
        sizes: Of the model.
        tokens: L, of the longest segment.
        width: e.
    """
    config = sizes.text
    hidden = tokens * config["d_ff"] * width
    heads = config["num_heads"] * tokens * tokens
    states = tokens * (2 * config["d_model"] + 4 * config["num_heads"] * config["d_kv"]) * width
    # Scores, their bias and the softmax in float32; or the gate, the hidden and their product.
    return int(states + max(heads * (2 * width + 2 * WIDE), 3 * hidden))


class _Alive:
    """Bytes alive, and the most there ever were.

    Args:
        step: Which latent frame of a clip is followed: 0, 1, or 2 for all later ones. What is kept
            of those before grows with the first two.
    """

    def __init__(self, step: int) -> None:
        self.first = step == 0
        self.now = 0
        self.kept = 0
        self.peak = 0
        self._grown = (1.0, 0.5, 0.0)[min(step, 2)]

    def moment(self, extra: float) -> None:
        """Note a moment at which `extra` numbers live beside what is held, float32."""
        self.peak = max(self.peak, self.now + round(extra * WIDE))

    def hold(self, numbers: float) -> None:
        """Note numbers that stay."""
        self.now += round(numbers * WIDE)
        self.moment(0)

    def keep(self, numbers: float) -> None:
        """Note frames that a convolution keeps for the next stretch."""
        self.kept += round(numbers * WIDE)
        self.hold(numbers * self._grown)


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A stretch of frames at one resolution."""

    frames: int
    rows: int
    cols: int

    @property
    def size(self) -> int:
        """Places of a channel."""
        return self.frames * self.rows * self.cols

    def padded(self, channels: int) -> int:
        """Numbers of an input of a 3x3x3 convolution with what is kept and the border."""
        return channels * (self.frames + CACHED) * (self.rows + 2) * (self.cols + 2)


def decoding_bytes(sizes: WanSizes, frames: int, height: int, width: int) -> int:
    """Return the peak of decoding one clip of float32, tiled where it is large.

    Args:
        sizes: Of the model.
        frames: Pixel frames.
        height: Pixel rows.
        width: Pixel columns.
    """
    vae = sizes.vae
    factor = int(vae.get("scale_factor_spatial", 8))
    patch = int(vae.get("patch_size") or 1)
    steps = (frames - 1) // LATENT_FRAMES + 1
    video = 3 * frames * height * width
    tiles = list(_tiles(height, width))
    piece = Piece(frames=1, rows=tiles[0][0] // factor, cols=tiles[0][1] // factor)
    latents = 2 * vae["z_dim"] * steps * (height // factor) * (width // factor)
    # The last large tile is decoded when all before it are there, and its own earlier frames.
    made = _made_before_the_last_whole(tiles, frames)
    peak = _followed(lambda alive: _decoder(vae, alive, piece), latents + made, steps)
    # Tiles, rows of them put together, the picture; unfolded from patches; clamped. Or the clip
    # before and after its last frames are put on. Handed on: put together, clamped.
    tiled = 3 * video + sum(3 * frames * rows * cols for rows, cols in tiles)
    whole = (tiled if len(tiles) > 1 else 2 * video + (video if patch > 1 else 0)) + latents
    return int(max(peak, whole * WIDE, 3 * video * WIDE))


def encoding_bytes(sizes: WanSizes, frames: int, height: int, width: int) -> int:
    """Return the peak of encoding one clip of float32, tiled where it is large.

    Args:
        sizes: Of the model.
        frames: Pixel frames.
        height: Pixel rows.
        width: Pixel columns.
    """
    vae = sizes.vae
    patch = int(vae.get("patch_size") or 1)
    # Tiles are cut after folding into patches.
    rows, cols = (min(side // patch, TILE) for side in (height, width))
    piece = Piece(frames=min(frames, LATENT_FRAMES), rows=rows, cols=cols)
    clip = 3 * frames * height * width * (2 if patch > 1 else 1)
    steps = (frames - 1) // LATENT_FRAMES + 1
    return _followed(lambda alive: _encoder(vae, alive, piece), clip, steps)


def _followed(follow: Callable[[_Alive], None], held: float, steps: int) -> int:
    """Return the peak of the last latent frame of a clip.

    Args:
        follow: Notes what lives while one latent frame is made.
        held: Numbers that live beside it.
        steps: Latent frames of the clip.
    """
    before, alive = _Alive(max(steps - 2, 0)), _Alive(steps - 1)
    if steps > 1:
        follow(before)
    alive.now = before.kept
    alive.hold(held)
    follow(alive)
    return alive.peak


def _tiles(height: int, width: int) -> Iterator[tuple[int, int]]:
    """Yield rows and columns of each tile of a decoded clip."""
    if max(height, width) <= TILE:
        yield height, width
        return
    for top in range(0, height, TILE_STEP):
        for left in range(0, width, TILE_STEP):
            yield min(TILE, height - top), min(TILE, width - left)


def _made_before_the_last_whole(tiles: list[tuple[int, int]], frames: int) -> int:
    """Return numbers of the tiles before the last one that is as large as the first."""
    last = max(place for place, tile in enumerate(tiles) if tile == tiles[0])
    # Frames of a tile are put together at its end.
    own = 3 * max(frames - LATENT_FRAMES, 0) * tiles[0][0] * tiles[0][1]
    return sum(3 * frames * rows * cols for rows, cols in tiles[:last]) + own


def _conv(alive: _Alive, piece: Piece, inputs: int, outputs: int, held: int) -> None:
    """Follow a convolution over time; `held` numbers live beside its input. Its frames are kept."""
    place = inputs * piece.rows * piece.cols
    kept = place * (1 if alive.first else CACHED)
    alive.keep(kept)
    # What it kept before is there until it is done.
    own = held + place * piece.frames + (0 if alive.first else kept)
    joined = 0 if alive.first else place * (piece.frames + CACHED)
    alive.moment(own + joined + piece.padded(inputs))
    alive.moment(own + piece.padded(inputs) + outputs * piece.size)


def _residual(alive: _Alive, piece: Piece, inputs: int, outputs: int, held: int = 0) -> None:
    """Follow a residual block; `held` numbers live beside its input."""
    shortcut = outputs * piece.size if inputs != outputs else 0
    outer = held + inputs * piece.size + shortcut
    # The norm: normalised, scaled twice.
    alive.moment(outer + 3 * inputs * piece.size)
    _conv(alive, piece, inputs, outputs, outer)
    alive.moment(outer + 4 * outputs * piece.size)
    _conv(alive, piece, outputs, outputs, outer)


def _residuals(alive: _Alive, piece: Piece, level: Level, held: int, later: int) -> None:
    """Follow the residual blocks of a level.

    Args:
        alive: What lives.
        piece: The frames.
        level: How many blocks, and how wide.
        held: Numbers that live beside their inputs.
        later: Numbers that live beside those of all but the first, whose input they are.
    """
    _residual(alive, piece, level.inputs, level.outputs, held)
    for _ in range(level.blocks - 1):
        _residual(alive, piece, level.outputs, level.outputs, held + later)


def _middle(alive: _Alive, piece: Piece, channels: int) -> None:
    outer = channels * piece.size
    _residual(alive, piece, channels, channels)
    # Attention of one head: queries, keys and values in two layouts.
    alive.moment(outer * 9)
    _residual(alive, piece, channels, channels, outer)


def _decoder(vae: Mapping[str, Any], alive: _Alive, piece: Piece) -> None:
    """Follow the decoder over one latent frame."""
    levels = list(decoder_levels(vae))
    residual = bool(vae.get("is_residual", False))
    _conv(alive, piece, vae["z_dim"], levels[0].inputs, 0)
    _middle(alive, piece, levels[0].inputs)
    for level in levels:
        came = level.inputs * piece.size
        # With shortcuts a level has a copy of its input.
        held = came if residual else 0
        _residuals(alive, piece, level, held, came)
        if level.scaled:
            piece = _upsampled(alive, piece, level, residual, held + came)
    last = levels[-1].outputs
    alive.moment(4 * last * piece.size)
    _conv(alive, piece, last, vae.get("out_channels", 3), 0)


def _upsampled(alive: _Alive, piece: Piece, level: Level, residual: bool, held: int) -> Piece:
    """Follow an upsampler; `held` numbers live beside its input."""
    channels, own = level.outputs, held + level.outputs * piece.size
    if level.scale_T == 2 and not alive.first:
        _conv(alive, piece, channels, 2 * channels, held)
        piece = Piece(frames=2 * piece.frames, rows=piece.rows, cols=piece.cols)
        alive.moment(own + 2 * channels * piece.size)
    finer = Piece(frames=piece.frames, rows=2 * piece.rows, cols=2 * piece.cols)
    narrowed = channels if residual else channels // 2
    # The frames in the layout of pictures, enlarged, and convolved.
    alive.moment(own + channels * (piece.size + finer.size) + narrowed * finer.size)
    if residual:
        # The shortcut: repeated, put in order; or added.
        alive.moment(own + narrowed * finer.size * 3)
    return finer


def _encoder(vae: Mapping[str, Any], alive: _Alive, piece: Piece) -> None:
    """Follow the encoder over the frames of one latent frame."""
    levels = list(encoder_levels(vae))
    residual = bool(vae.get("is_residual", False))
    _conv(alive, piece, vae.get("in_channels", 3), levels[0].inputs, 0)
    for level in levels:
        came = level.inputs * piece.size if residual else 0
        _residuals(alive, piece, level, came, came)
        if level.scaled:
            # The frames in the layout of pictures, with a border, and convolved.
            alive.moment(2 * came + 3.25 * level.outputs * piece.size)
            frames = piece.frames if alive.first else piece.frames // level.scale_T
            alive.keep(level.outputs * piece.rows * piece.cols / 4 if level.scale_T == 2 else 0)
            piece = Piece(frames=frames, rows=piece.rows // 2, cols=piece.cols // 2)
    _middle(alive, piece, levels[-1].outputs)
    _conv(alive, piece, levels[-1].outputs, 2 * vae["z_dim"], 0)
