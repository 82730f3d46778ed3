"""The cell-major DiT against a plain one that holds the whole grid as one picture."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dcgrid.grid.coordinates import grid_positions, token_coordinates
from dcgrid.grid.layout import GridLayout, TokenShape
from dcgrid.models.base import CellText, Memory, TokenPlaces
from dcgrid.models.native.config import DiTConfig
from dcgrid.models.native.dit import Block, DiT, PlaceField
from dcgrid.models.native.layers import PeerHead, TextPool
from dcgrid.models.native.signals import velocity_of_mixture

SMALL = DiTConfig(latent_channels=3, width=64, blocks=2, heads=2, text_width=10)
CONFIGS = {
    "full": SMALL,
    "window": replace(SMALL, window=14),
    "mini": replace(SMALL, prediction="mixture", time_width=24, cell_pitch=8),
    "peers": replace(SMALL, cell_attention=True, place_embedding=True),
    "text": replace(SMALL, text_modulation=True, time_width=24),
    "peer_head": replace(SMALL, peer_head=True, patch=(1, 2, 2), prediction="mixture"),
    "noise": replace(
        SMALL,
        peer_head=True,
        patch=(1, 2, 2),
        prediction="mixture",
        noise_motion=((2, 0.0), (-1, 1.5)),
    ),
    "self_conditioning": replace(SMALL, self_conditioning=True, heads=4),
    "long_patches": replace(SMALL, patch=(2, 1, 2)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One call of a DiT."""

    dit: DiT
    layout: GridLayout
    cells_BKCFYX: Tensor
    time_BKF: Tensor
    text: CellText
    estimate_BKCFYX: Tensor | None
    margin: float = 0.0

    @property
    def shape(self) -> TokenShape:
        sizes = zip(self.cells_BKCFYX.shape[3:], self.dit.config.patch, strict=True)
        frames, rows, cols = (size // patch for size, patch in sizes)
        return TokenShape(frames=frames, rows=rows, cols=cols)

    def places(self) -> TokenPlaces:
        pitch = self.dit.config.cell_pitch
        return TokenPlaces(
            coordinates_S3=token_coordinates(self.layout, self.shape, pitch and (pitch, pitch)),
            position_S=grid_positions(self.layout, self.shape),
            margin=self.margin,
        )

    def forward(self, memory: Memory | None = None) -> Tensor:
        return self.dit(
            self.cells_BKCFYX,
            self.time_BKF,
            self.text,
            self.places(),
            estimate_BKCFYX=self.estimate_BKCFYX,
            memory=memory,
        )


def build(config: DiTConfig) -> DiT:
    """Build a DiT in float64 in which every weight counts."""
    torch.manual_seed(11)
    dit = DiT(config).double().requires_grad_(False)
    for name, parameter in dit.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=1.2 / parameter.shape[-1] ** 0.5)
        else:
            parameter.add_(0.2 * torch.randn_like(parameter))
        if "modulation" in name:
            parameter.mul_(0.5)
    if config.prediction == "mixture":
        dit.latent_spread.copy_(torch.tensor([2.5, 1.0, 0.5]))
    return dit


def make_case(config: DiTConfig, layout: str = "2x2") -> Case:
    """Draw two grids: the given cell at time 0, the others at times of their own."""
    grid = GridLayout.parse(layout)
    with torch.random.fork_rng(devices=[]):
        dit = build(config)
        cells = torch.randn(2, grid.count, 3, 4, 4, 6).double()
        # Binary fractions, so that the embedding of time is exact in both forwards.
        time = torch.randint(1, 9, (2, grid.count, 4)).double() / 8
        time[:, :, 1::2] = time[:, :, ::2]
        time[:, 0] = 0
        valid = torch.arange(5) < torch.randint(1, 6, (2, grid.count, 1))
        tokens = torch.randn(2, grid.count, 5, 10).double()
        estimate = torch.randn_like(cells) if config.self_conditioning else None
    return Case(
        dit=dit,
        layout=grid,
        cells_BKCFYX=cells,
        time_BKF=time,
        text=CellText(tokens_BKLE=tokens, valid_BKL=valid),
        estimate_BKCFYX=estimate,
    )


# --- the plain forward -------------------------------------------------------------------------
# One grid, tokens in grid order (f y x), everything a token needs spelled out per token, dense
# masks, and none of the model's own helpers.


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token of the plain forward: what it holds and where it stands."""

    cell: int
    where: tuple[slice, slice, slice]
    """Its patch inside its cell's latents."""
    place: tuple[int, int, int]
    """Coordinates for the rotary embedding."""
    frame: int
    inside: tuple[int, int, int]
    """Frame, row, column inside its cell, in tokens."""


def tokens_in_grid_order(case: Case) -> list[Token]:
    shape, layout, config = case.shape, case.layout, case.dit.config
    p_f, p_y, p_x = config.patch
    pitch_y, pitch_x = config.cell_pitch or shape.rows, config.cell_pitch or shape.cols
    tokens = []
    for f in range(shape.frames):
        for canvas_y in range(layout.rows * shape.rows):
            for canvas_x in range(layout.cols * shape.cols):
                row, y = divmod(canvas_y, shape.rows)
                col, x = divmod(canvas_x, shape.cols)
                patch = (slice(f * p_f, (f + 1) * p_f), slice(y * p_y, (y + 1) * p_y),
                         slice(x * p_x, (x + 1) * p_x))  # fmt: skip
                place = (f, row * pitch_y + y, col * pitch_x + x)
                cell = row * layout.cols + col
                tokens.append(
                    Token(cell=cell, where=patch, place=place, frame=f * p_f, inside=(f, y, x))
                )
    return tokens


def plain_forward(case: Case) -> Tensor:
    return torch.stack([plain_grid(case, b) for b in range(case.cells_BKCFYX.shape[0])])


def plain_grid(case: Case, b: int) -> Tensor:
    dit, config = case.dit, case.dit.config
    tokens = tokens_in_grid_order(case)
    cells = case.cells_BKCFYX[b]
    inputs = cells if case.estimate_BKCFYX is None else torch.cat(
        [cells, case.estimate_BKCFYX[b]], dim=1)  # fmt: skip
    if config.prediction == "mixture":
        t_K1F = case.time_BKF[b][:, None]
        s_C1 = dit.latent_spread[:, None]
        gain_KCF = s_C1**2 * (1 - t_K1F) / (s_C1**2 * (1 - t_K1F) ** 2 + t_K1F**2)
        inputs = inputs * gain_KCF[..., None, None]
    patches = torch.stack([inputs[t.cell][(slice(None), *t.where)].reshape(-1) for t in tokens])
    stream = linear(dit.patch_in, patches)
    luck = torch.zeros(())
    if dit.noise_reader is not None:
        assert dit.noise_in is not None
        luck = plain_drift(dit, tokens, cells, case.time_BKF[b])
        stream = stream + linear(dit.noise_in, luck)
    time = torch.stack([case.time_BKF[b, t.cell, t.frame] for t in tokens])
    table_SD = linear(dit.time_out, F.silu(linear(dit.time_in, plain_time(time))))
    if dit.text_pool is not None:
        pooled = [plain_pool(dit.text_pool, case.text, b, t.cell) for t in tokens]
        table_SD = table_SD + torch.stack(pooled)
    field = torch.zeros(())
    if dit.place_in is not None:
        assert dit.place_field is not None
        spots = plain_places(tokens, case.shape, case.margin)
        field = plain_field(dit.place_field, spots, table_SD)
        stream = stream + linear(dit.place_in, spots) + field
    angles = plain_angles(tokens, config)
    same_SS = torch.tensor([[t.inside == u.inside for u in tokens] for t in tokens])
    number = torch.arange(len(tokens))
    apart = (number[:, None] - number[None, :]).abs()
    near_SS = apart <= (config.window // 2 if config.window else len(tokens))
    peers_SS = same_SS
    if dit.given_first:
        hidden_SS = (time[:, None] == 0) & (time[None, :] != 0)
        near_SS, peers_SS = near_SS & ~hidden_SS, same_SS & ~hidden_SS
    owner = torch.tensor([t.cell for t in tokens])
    count, length = case.text.valid_BKL.shape[1:]
    text_of = torch.arange(count).repeat_interleave(length)
    readable_ST = (owner[:, None] == text_of[None, :]) & case.text.valid_BKL[b].reshape(-1)
    words = case.text.tokens_BKLE[b].reshape(count * length, -1)
    for block in dit.blocks:
        assert isinstance(block, Block)
        stream = plain_block(
            block, stream, table_SD, angles, (near_SS, peers_SS), words, readable_ST
        )
    shift, scale = linear(dit.modulation, F.silu(table_SD)).chunk(2, dim=1)
    hidden = plain_norm(stream + field) * (1 + scale) + shift
    stream = linear(dit.patch_out, hidden)
    if dit.peer_head is not None:
        stream = stream + plain_head(dit.peer_head, hidden, patches, same_SS, luck)
    predicted = torch.zeros_like(cells)
    for token, values in zip(tokens, stream, strict=True):
        target = predicted[token.cell][(slice(None), *token.where)]
        target.copy_(values.reshape(target.shape))
    if config.prediction == "velocity":
        return predicted
    velocity = torch.zeros_like(predicted)
    for token in tokens:
        t = float(case.time_BKF[b, token.cell, token.frame])
        for channel, s in enumerate(dit.latent_spread.tolist()):
            at = (token.cell, channel, *token.where)
            power = (s * (1 - t)) ** 2 + t**2
            guess = (t - s**2 * (1 - t)) / power * cells[at]
            velocity[at] = guess - predicted[at] * s / power**0.5
    return velocity


def plain_field(field: PlaceField, spots: Tensor, table: Tensor) -> Tensor:
    shift, scale = linear(field.condition_in, F.silu(table)).chunk(2, dim=1)
    hidden = linear(field.place_in, spots) * (1 + scale) + shift
    for layer in (field.middle, field.out):
        hidden = linear(layer, hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))))
    return hidden


def plain_pool(pool: TextPool, text: CellText, b: int, cell: int) -> Tensor:
    words = text.tokens_BKLE[b, cell][text.valid_BKL[b, cell]]
    weights = linear(pool.score, words).squeeze(1).exp()
    return linear(pool.out, (weights[:, None] * words).sum(0, keepdim=True) / weights.sum())[0]


def plain_drift(dit: DiT, tokens: list[Token], cells: Tensor, time_KF: Tensor) -> Tensor:
    """Sum, latent by latent, over the window around each token, mirrored at the cell's edges."""
    reader = dit.noise_reader
    assert reader is not None
    moving = len(dit.config.noise_motion)
    spread_M = dit.latent_spread[-moving:]
    rows, columns = cells.shape[3:]
    sums = []
    for token in tokens:
        f, top, left = token.inside[0], token.where[1].start, token.where[2].start
        t = time_KF[token.cell, f]
        share_M = t / ((spread_M * (1 - t)) ** 2 + t**2)
        total = reader.around.bias
        for i in range(8):
            for j in range(4):
                y, x = mirror(top - 3 + i, rows), mirror(left - 1 + j, columns)
                noise_M = cells[token.cell, -moving:, f, y, x] * share_M
                hidden = reader.each.weight[:, 0, 0, 0, 0] * noise_M.repeat_interleave(6)
                hidden = hidden + reader.each.bias
                hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
                said = reader.each_out.weight[:, :, 0, 0, 0] @ hidden + reader.each_out.bias
                total = total + reader.around.weight[:, :, 0, i, j] @ said
        sums.append(total)
    return torch.stack(sums)


def mirror(index: int, size: int) -> int:
    index = abs(index)
    return index if index < size else 2 * (size - 1) - index


def plain_head(
    head: PeerHead, hidden: Tensor, patches: Tensor, same: Tensor, luck: Tensor
) -> Tensor:
    query = plain_rms(linear(head.query, hidden), head.query_norm.gain)
    key = plain_rms(linear(head.key, hidden), head.key_norm.gain)
    scores = 4 * (query @ key.T) / math.sqrt(query.shape[1])
    taken = scores.masked_fill(~same, -math.inf).softmax(-1) @ linear(head.value, patches)
    if head.luck is not None:
        taken = taken + linear(head.luck, luck)
    return linear(head.out, linear(head.gate, hidden) * taken)


def plain_block(
    block: Block, stream: Tensor, table: Tensor, angles: Tensor, may: tuple[Tensor, Tensor],
    words: Tensor, readable: Tensor,
) -> Tensor:  # fmt: skip
    mods = linear(block.modulation, F.silu(table)).chunk(6, dim=1)
    own = block.grid_attention
    hidden = plain_norm(stream) * (1 + mods[1]) + mods[0]
    attended = plain_attention(own, hidden, hidden, may[0], angles)
    if block.cell_attention is not None:
        peers = block.cell_attention
        attended = attended + plain_attention(peers, hidden, hidden, may[1], None, sharpness=4)
    stream = stream + mods[2] * attended
    hidden = plain_norm(stream) * block.text_norm.weight + block.text_norm.bias
    stream = stream + plain_attention(block.text_attention, hidden, words, readable, None)
    hidden = linear(block.mlp_in, plain_norm(stream) * (1 + mods[4]) + mods[3])
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    return stream + mods[5] * linear(block.mlp_out, hidden)


def plain_attention(
    layer: torch.nn.Module, queries: Tensor, keys: Tensor, may: Tensor, angles: Tensor | None,
    sharpness: float = 1,
) -> Tensor:  # fmt: skip
    query, key, value = (
        linear(projection, source).unflatten(1, (layer.heads, -1)).transpose(0, 1)
        for projection, source in ((layer.query, queries), (layer.key, keys), (layer.value, keys))
    )
    query, key = plain_rms(query, layer.query_norm.gain), plain_rms(key, layer.key_norm.gain)
    if angles is not None:
        query, key = turn(query, angles), turn(key, angles)
    scores = sharpness * (query @ key.transpose(1, 2)) / math.sqrt(query.shape[-1])
    weights = scores.masked_fill(~may, -math.inf).softmax(-1)
    return linear(layer.out, (weights @ value).transpose(0, 1).flatten(1))


def plain_places(tokens: list[Token], shape: TokenShape, margin: float) -> Tensor:
    """Sines, then cosines, of four octaves of frame / 8 and of the middle of row and column;
    then the same of the way from the cell's middle, over twice its shorter side."""
    rows = []
    tall, wide = shape.rows - 2 * margin, shape.cols - 2 * margin
    twice = 2 * min(tall, wide)
    for token in tokens:
        f, y, x = token.inside
        y_middle, x_middle = y + 0.5 - margin, x + 0.5 - margin
        row = []
        for spots in (
            (f / 8, y_middle / tall, x_middle / wide),
            ((y_middle - tall / 2) / twice, (x_middle - wide / 2) / twice),
        ):
            angles = [math.pi * spot * 2**octave for spot in spots for octave in range(4)]
            row += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
        rows.append(row)
    return torch.tensor(rows).double()


def plain_angles(tokens: list[Token], config: DiTConfig) -> Tensor:
    """Angles of each token: half of the pairs turn with the frame, a quarter with row, column."""
    pairs = config.width // config.heads // 2
    rates = []
    for axis, count in enumerate((pairs // 2, pairs // 4, pairs // 4)):
        if axis == 0 or config.cell_pitch is None:
            rates += [(axis, 10_000.0 ** (-i / count)) for i in range(count)]
        else:
            slow = count // 4
            turns = [i + 1 for i in range(count - slow)] + [0.5 ** (i + 1) for i in range(slow)]
            rates += [(axis, 2 * math.pi * turn / config.cell_pitch) for turn in turns]
    return torch.tensor([[t.place[axis] * rate for axis, rate in rates] for t in tokens]).double()


def turn(heads: Tensor, angles: Tensor) -> Tensor:
    half = heads.shape[-1] // 2
    turned = torch.complex(heads[..., :half], heads[..., half:]) * torch.exp(1j * angles)
    return torch.cat([turned.real, turned.imag], dim=-1)


def plain_time(time: Tensor) -> Tensor:
    rates = [math.exp(-math.log(10_000) * i / 128) for i in range(128)]
    angles = 1000 * time[:, None] * torch.tensor(rates, dtype=torch.float64)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def plain_norm(stream: Tensor) -> Tensor:
    centred = stream - stream.mean(1, keepdim=True)
    return centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()


def plain_rms(heads: Tensor, gain: Tensor) -> Tensor:
    return heads / (heads.square().mean(-1, keepdim=True) + 1e-6).sqrt() * gain


def linear(layer: torch.nn.Module, rows: Tensor) -> Tensor:
    return rows @ layer.weight.T + layer.bias


# --- tests ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["2x2", "1x3"])
@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_cell_major_equals_the_plain_order(name: str, layout: str) -> None:
    case = make_case(CONFIGS[name], layout)
    # float64 but for the angles of time and place, which the model computes in float32.
    torch.testing.assert_close(case.forward(), plain_forward(case), rtol=1e-3, atol=1e-3)


def test_the_plain_order_notices_a_text_read_by_the_wrong_cell() -> None:
    """The comparison above is worth something only if such a mistake is far above rounding."""
    case = make_case(SMALL)
    swapped = CellText(
        tokens_BKLE=case.text.tokens_BKLE.flip(1), valid_BKL=case.text.valid_BKL.flip(1)
    )
    apart = (replace(case, text=swapped).forward() - plain_forward(case)).abs()
    assert apart.amax(dim=(0, 2, 3, 4, 5)).min() > 0.05


def test_places_in_a_margin_are_counted_from_the_picture() -> None:
    case = replace(make_case(CONFIGS["peers"]), margin=0.5)
    torch.testing.assert_close(case.forward(), plain_forward(case), rtol=1e-3, atol=1e-3)
    assert (case.forward() - replace(case, margin=0.0).forward()).abs().max() > 1e-2


def test_the_plain_order_notices_a_wrong_place_time_or_window() -> None:
    case = make_case(SMALL)
    plain = plain_forward(case)
    times = replace(case, time_BKF=case.time_BKF.flip(1))
    windowed = replace(case, dit=build(CONFIGS["window"]))
    mirrored = replace(case.places(), coordinates_S3=case.places().coordinates_S3.flip(0))
    moved = case.dit(case.cells_BKCFYX, case.time_BKF, case.text, mirrored)
    for other in (times.forward(), windowed.forward(), moved):
        assert (other - plain).abs().max() > 0.05


def test_a_cell_reads_its_own_text_only() -> None:
    """With one block the text comes after the self-attention, so nothing carries it further."""
    case = make_case(replace(SMALL, blocks=1))
    tokens = case.text.tokens_BKLE.clone()
    tokens[:, 2] += 1
    changed = replace(case, text=replace(case.text, tokens_BKLE=tokens)).forward()
    same = changed == case.forward()
    assert same[:, [0, 1, 3]].all()
    assert not same[:, 2].any()


def test_padding_of_the_text_is_never_read() -> None:
    case = make_case(CONFIGS["text"])
    loud = torch.where(case.text.valid_BKL[..., None], case.text.tokens_BKLE, 1e4)
    changed = replace(case, text=replace(case.text, tokens_BKLE=loud)).forward()
    assert not case.text.valid_BKL.all()
    torch.testing.assert_close(changed, case.forward(), rtol=0, atol=1e-12)


def test_grids_of_a_batch_do_not_touch() -> None:
    case = make_case(CONFIGS["mini"])
    both = case.forward()
    for b in range(2):
        alone = replace(
            case,
            cells_BKCFYX=case.cells_BKCFYX[b : b + 1],
            time_BKF=case.time_BKF[b : b + 1],
            text=CellText(
                tokens_BKLE=case.text.tokens_BKLE[b : b + 1],
                valid_BKL=case.text.valid_BKL[b : b + 1],
            ),
        )
        torch.testing.assert_close(alone.forward()[0], both[b], rtol=1e-9, atol=1e-9)


def test_without_an_estimate_self_conditioning_reads_zeros() -> None:
    case = make_case(CONFIGS["self_conditioning"])
    zeros = replace(case, estimate_BKCFYX=torch.zeros_like(case.cells_BKCFYX))
    assert torch.equal(replace(case, estimate_BKCFYX=None).forward(), zeros.forward())
    assert not torch.equal(case.forward(), zeros.forward())


def test_untrained_mini_predicts_the_best_linear_guess() -> None:
    case = make_case(CONFIGS["mini"])
    untrained = replace(case, dit=DiT(CONFIGS["mini"]).double()).forward()
    zero, ones = torch.zeros_like(case.cells_BKCFYX), torch.ones(3).double()
    expected = velocity_of_mixture(case.cells_BKCFYX, zero, case.time_BKF, ones)
    torch.testing.assert_close(untrained, expected)
