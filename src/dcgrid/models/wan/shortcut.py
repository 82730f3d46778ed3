"""Carry tokens through all blocks, or, where a memory allows it, through the first one only.

First-block caching: what the first block adds tells how much has changed since a call that went
through all blocks. Where that is little, what the other blocks added then is added again. It is
looked at where the grid is generated: given tokens hardly change and would hide it. Approximate.

Letters: S tokens, D width.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor

from dcgrid.models.base import Memory
from dcgrid.models.given import Live
from dcgrid.models.wan.blocks import run_last_block
from dcgrid.models.wan.context import Context, Foreign


@dataclass(frozen=True, slots=True, kw_only=True)
class _Added:
    """What blocks added to generated tokens in a call that went through all of them."""

    first_BSD: Tensor
    """What the first block added."""
    rest_BSD: Tensor
    """What all others added."""


def run_blocks(
    blocks: Iterable[Foreign],
    each: Callable[[Foreign, Tensor, Context], Tensor],
    tokens_BSD: Tensor,
    context: Context,
    last: tuple[int, Live | None],
) -> Tensor:
    """Return the tokens after all blocks; with a live part, the live ones only.

    Args:
        blocks: In order; not asked for those that are left out.
        each: Carries tokens through one.
        tokens_BSD: All tokens.
        context: What the blocks read. Its memory's `cache_threshold` above 0 lets blocks be left
            out.
        last: Number of the last block, and the live part; None: all tokens are wanted.
    """
    end, live = last
    memory = context.memory if end > 0 else None
    alone = context.options.split is None  # or processes might not agree on what they leave out
    watched = alone and memory is not None and memory.cache_threshold > 0
    before_BSD = first_BSD = tokens_BSD

    def generated(some_BSD: Tensor) -> Tensor:
        return some_BSD if live is None else context.live(some_BSD, live)

    for number, block in enumerate(blocks):
        if number == end and live is not None:
            tokens_BSD = run_last_block(block, tokens_BSD, context, live)
        else:
            tokens_BSD = each(block, tokens_BSD, context)
        if watched and number == 0:
            first_BSD = generated(tokens_BSD)
            before_BSD = first_BSD - generated(before_BSD)
            known = _recall(memory, context, before_BSD)
            if known is not None:
                return first_BSD + known.rest_BSD
    if watched:
        rest_BSD = tokens_BSD - first_BSD
        _keep(memory, context, _Added(first_BSD=before_BSD, rest_BSD=rest_BSD))
    return tokens_BSD


def _recall(memory: Memory | None, context: Context, added_BSD: Tensor) -> _Added | None:
    """Return what is known of an earlier call if the first block adds nearly the same now."""
    known = None if memory is None else memory.kept.get(_key(context))
    if memory is None or not isinstance(known, _Added):
        return None
    change = (added_BSD - known.first_BSD).float().abs().mean()
    size = known.first_BSD.float().abs().mean()
    return known if bool(change < memory.cache_threshold * size) else None


def _keep(memory: Memory | None, context: Context, added: _Added) -> None:
    if memory is not None:
        memory.kept[_key(context)] = added


def _key(context: Context) -> tuple[str, str]:
    # The calls of one text are compared, whether they have all tokens or the live ones.
    return "added", context.text_name.removesuffix(" live")
