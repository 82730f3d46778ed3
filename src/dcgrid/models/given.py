"""Given-first attention: given tokens read given tokens alone.

So what they are depends on nothing that is generated. The first call of a sampling computes it, the
later ones compute the generated tokens only:

    call 1      queries  given      -> keys  given
                queries  generated  -> keys  given, generated      keys of the given are kept
    call 2 ...  queries  generated  -> keys  kept,  generated

Exact for a network that was trained so. With 1, 2 or 3 of 4 cells given, later calls have 1.33, 2
or 4 times fewer attention and linear operations.

Letters: B batch, K cells, F token frames, S tokens, N heads, P head width, L text tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import torch
from einops import rearrange
from torch import nn

from dcgrid.models.attention import Attend, attend
from dcgrid.models.base import CellText, Memory, TokenPlaces

Pair = tuple[torch.Tensor, torch.Tensor]
"""Keys and values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """The generated part of a grid: some cells, from some frame on."""

    cells: tuple[int, ...]
    """Cells that are generated."""
    given: tuple[int, ...]
    """Cells that are given whole."""
    first: int
    """First generated token frame of the generated cells; those before are given, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What is given in a call, and what of it is known already."""

    mask_BKF: torch.Tensor
    """True where a cell's token frame is given."""
    live: Live | None
    """None: not the same frames of every generated cell are generated, so nothing can be kept."""
    memory: Memory | None
    """Where keys and values of given tokens are kept; None: they are not."""
    recalled: bool
    """True: the tokens of this call are the live ones, the memory has the rest."""

    def known_tokens(self, places: int) -> torch.Tensor:
        """Return the mask BS of all tokens, cell-major; `places` are those of one frame."""
        return self.mask_BKF[..., None].expand(*self.mask_BKF.shape, places).flatten(1)

    def with_tokens(self, layer: nn.Module, fresh: Pair, places: int) -> Pair:
        """Keep keys and values BNSP of given tokens, or put the kept ones before the fresh.

        Args:
            layer: Whose they are.
            fresh: Keys and values of this call's tokens.
            places: Tokens of one frame of a cell.
        """
        alike = self.memory is not None and self.memory.alike

        def cut(tokens: torch.Tensor) -> torch.Tensor:
            chosen = tokens[:1] if alike else tokens
            return chosen[:, :, self.known_tokens(places)[0]]

        return self._with_kept(layer, fresh, cut, dim=2)

    def with_peers(self, layer: nn.Module, fresh: Pair, frames: int) -> Pair:
        """Keep keys and values (B S N) K P of given cells, or put the kept ones before the fresh.

        Args:
            layer: Whose they are.
            fresh: Keys and values of this call's tokens, brought together by place.
            frames: Token frames of this call's cells.
        """
        live, batch = self.live, len(self.mask_BKF)

        def cut(peers: torch.Tensor) -> torch.Tensor:
            if live is None:
                raise ValueError("nothing can be kept of a grid without a live part")
            chosen = peers[:, list(live.given)]
            by_frame = rearrange(chosen, "(b f r) k p -> b f r k p", b=batch, f=frames)
            return by_frame[:, live.first :].flatten(0, 2)

        return self._with_kept(layer, fresh, cut, dim=1)

    def _with_kept(
        self, layer: nn.Module, fresh: Pair, cut: Callable[[torch.Tensor], torch.Tensor], dim: int
    ) -> Pair:
        if self.memory is None or self.live is None:
            return fresh
        if not self.recalled:
            self.memory.kept[layer] = (cut(fresh[0]), cut(fresh[1]))
            return fresh
        key, value = cast(Pair, self.memory.kept[layer])
        if len(key) < len(fresh[0]):
            key, value = (kept.expand(len(fresh[0]), -1, -1, -1) for kept in (key, value))
        return torch.cat([key, fresh[0]], dim), torch.cat([value, fresh[1]], dim)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of a network: what its forward was given, and what `run_job` finds in it."""

    cells_BKCFYX: torch.Tensor
    time_BKF: torch.Tensor
    text: CellText
    places: TokenPlaces
    route_KA: torch.Tensor | None
    memory: Memory | None
    estimate_BKCFYX: torch.Tensor | None = None
    """Earlier estimate of the clean latents, for networks with self-conditioning."""
    text_name: str = ""
    """Tells one text of a sampling from another."""
    given: Given | None = None
    """What is given, where given tokens read given tokens alone."""
    first: int = 0
    """Token frame of the clip at which the cells begin."""
    kept_position_S: torch.Tensor | None = None
    """Place in grid order of the tokens whose keys are kept."""

    @property
    def key_position_S(self) -> torch.Tensor:  # noqa: N802
        """Place in grid order of every key, kept ones first."""
        own_S = self.places.position_S
        return own_S if self.kept_position_S is None else torch.cat([self.kept_position_S, own_S])


def run_job(
    call: Call, predict: Callable[[Call], torch.Tensor], patch_frames: int, *, given_first: bool
) -> torch.Tensor:
    """Return what a network predicts, BKCFYX; where the memory knows the rest, of the live part.

    Args:
        call: What the network's forward was given.
        predict: The network over all cells of a call.
        patch_frames: Latent frames of a token.
        given_first: Given cells read given cells alone.

    Returns:
        The prediction; 0 where it was not computed, which is where it means nothing.

    Raises:
        ValueError: The memory is of a sampling with other given cells.
    """
    call = replace(call, text_name=name_text(call.text, call.memory))
    if not given_first:
        return predict(call)
    given, live = find_given(call.time_BKF, patch_frames, call.memory)
    call = replace(call, given=given)
    if given is None or live is None:
        return predict(call)
    whole_BKCFYX = torch.zeros_like(call.cells_BKCFYX)
    generated_BKCFYX = predict(live_call(call, given, live, patch_frames))
    whole_BKCFYX[:, list(live.cells), :, live.first * patch_frames :] = generated_BKCFYX
    return whole_BKCFYX


def find_given(
    time_BKF: torch.Tensor, patch_frames: int, memory: Memory | None
) -> tuple[Given | None, Live | None]:
    """Return what is given (time 0) in a call; None if nothing is.

    Returns:
        What is given, and the part to compute if the memory already knows all else.

    Raises:
        ValueError: The memory is of a sampling with other given cells.
    """
    mask_BKF = time_BKF[:, :, ::patch_frames] == 0
    if not mask_BKF.any():
        return None, None
    live = _live_part(mask_BKF)
    recalled = False
    if memory is not None and live is not None:
        recalled = "live" in memory.kept
        if memory.kept.setdefault("live", live) != live:
            raise ValueError("this memory is of a sampling with other given cells")
    given = Given(mask_BKF=mask_BKF, live=live, memory=memory, recalled=recalled)
    return given, live if recalled else None


def generated_part(time_BKF: torch.Tensor, patch_frames: int, memory: Memory | None) -> Live | None:
    """Return the generated part of a grid (time above 0); found once a sampling.

    None: nothing is given, or what is generated is not the same block of cells and frames in every
    grid.
    """
    if memory is not None and "generated" in memory.kept:
        return cast(Live | None, memory.kept["generated"])
    mask_BKF = time_BKF[:, :, ::patch_frames] == 0
    live = _live_part(mask_BKF) if bool(mask_BKF.any()) else None
    if memory is not None:
        memory.kept["generated"] = live
    return live


def _live_part(mask_BKF: torch.Tensor) -> Live | None:
    """Return the generated part if it is the same block of cells and frames in every grid."""
    mask_KF = mask_BKF[0]
    whole_K = mask_KF.all(dim=1)
    cells = (~whole_K).nonzero().flatten().tolist()
    if not cells or not torch.equal(mask_BKF, mask_KF.expand_as(mask_BKF)):
        return None
    first = int(mask_KF[cells[0]].sum())
    block_KF = torch.zeros_like(mask_KF)
    block_KF[cells, first:] = True
    if not torch.equal(block_KF, ~mask_KF):
        return None
    return Live(cells=tuple(cells), given=tuple(whole_K.nonzero().flatten().tolist()), first=first)


def live_tokens(per_token: torch.Tensor, live: Live, size_KF: tuple[int, int]) -> torch.Tensor:
    """Return the rows of live tokens; the first axis is all tokens, cell-major."""
    split: torch.Tensor = per_token.unflatten(0, (*size_KF, -1))
    return split[list(live.cells), live.first :].flatten(0, 2)


def live_call(call: Call, given: Given, live: Live, patch_frames: int) -> Call:
    """Return what is left of a call if all but the live part is known."""
    size_KF = (given.mask_BKF.shape[1], given.mask_BKF.shape[2])
    cells, first, places = list(live.cells), live.first * patch_frames, call.places

    estimate_BKCFYX = call.estimate_BKCFYX
    if estimate_BKCFYX is not None:
        estimate_BKCFYX = estimate_BKCFYX[:, cells, :, first:]
    known_S = given.known_tokens(len(places.position_S) // (size_KF[0] * size_KF[1]))[0]
    return replace(
        call,
        cells_BKCFYX=call.cells_BKCFYX[:, cells, :, first:],
        time_BKF=call.time_BKF[:, cells, first:],
        text=CellText(
            tokens_BKLE=call.text.tokens_BKLE[:, cells], valid_BKL=call.text.valid_BKL[:, cells]
        ),
        text_name=f"{call.text_name} live",
        places=replace(
            places,
            coordinates_S3=live_tokens(places.coordinates_S3, live, size_KF),
            position_S=live_tokens(places.position_S, live, size_KF),
        ),
        kept_position_S=places.position_S[known_S],
        route_KA=None if call.route_KA is None else call.route_KA[cells],
        estimate_BKCFYX=estimate_BKCFYX,
        first=live.first,
    )


def name_text(text: CellText, memory: Memory | None) -> str:
    """Return a name for a text; a memory gives each text object one of its own."""
    if memory is None:
        return ""
    # The texts are kept, so that no other can come to stand at the same address.
    texts = cast(list[CellText], memory.kept.setdefault("texts", []))
    for number, known in enumerate(texts):
        if known is text:
            return str(number)
    texts.append(text)
    return str(len(texts) - 1)


def attend_given_first(
    query_BNSP: torch.Tensor,
    key_BNSP: torch.Tensor,
    value_BNSP: torch.Tensor,
    given_BS: torch.Tensor,
    attend: Attend = attend,
) -> torch.Tensor:
    """Attend to all tokens from generated ones, and to given tokens from given ones; shape BNSP."""
    attended = []
    for query, key, value, given_S in zip(
        *(t.split(1) for t in (query_BNSP, key_BNSP, value_BNSP)), given_BS, strict=True
    ):
        known, generated = given_S.nonzero().flatten(), (~given_S).nonzero().flatten()
        if not len(known):
            attended.append(attend(query, key, value))
            continue
        parts = [attend(query[:, :, known], key[:, :, known], value[:, :, known])]
        if len(generated):
            parts.append(attend(query[:, :, generated], key, value))
        back = torch.cat([known, generated]).argsort()
        attended.append(torch.cat(parts, dim=2)[:, :, back])
    return torch.cat(attended)


def hidden_peers(given: Given, places: int, heads: int) -> torch.Tensor:
    """Return which peers (columns) a token (row) of each place may not read, (B S N) K K."""
    mask_BFK = rearrange(given.mask_BKF, "b k f -> b f k")
    hidden_BFKK = mask_BFK[:, :, :, None] & ~mask_BFK[:, :, None, :]
    spread = hidden_BFKK[:, :, None, None].expand(-1, -1, places, heads, -1, -1)
    hidden: torch.Tensor = spread.flatten(0, 3)
    return hidden
