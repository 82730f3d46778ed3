"""How much of the other clip got into a composition."""

from torch import Tensor

from dcgrid.eval.metrics.series import NO_FRAMES, mean_score, no_score
from dcgrid.eval.results import Score


def leak(result: Tensor, own: Tensor, other: Tensor, mask: Tensor | None = None) -> Score:
    """Return how far a result has gone from what it should be towards another clip.

        <result - own, other - own> / <other - own, other - own>

    The coordinate of the result on the line from its own clip to the other one: 0: nothing of the
    other that should not be there; 1: the other itself; below 0: away from it. Our own, in place of
    the leakage between panels that the paper has pictures of (section 5.2.1, Fig. 7). What differs
    from both does not count. Lower is better. The series is the same of each frame.

    Args:
        result: Frames or embeddings of the result, frames first.
        own: What the result should be, of the same shape.
        other: What should not be seen in it.
        mask: True where values count; of the shape without the last dimension. None: everywhere.

    Raises:
        ValueError: Shapes differ: a caller's bug.
    """
    if not result.shape == own.shape == other.shape:
        raise ValueError(f"{tuple(result.shape)}, {tuple(own.shape)}, {tuple(other.shape)}")
    if mask is not None and mask.shape != result.shape[:-1]:
        raise ValueError(f"mask {tuple(mask.shape)} for {tuple(result.shape[:-1])}")
    if not len(result):
        return no_score(NO_FRAMES)
    shared, whole = [], []
    for index in range(len(result)):
        line, gone = (one[index].double() - own[index].double() for one in (other, result))
        if mask is not None:
            line, gone = line[mask[index]], gone[mask[index]]
        shared.append(float((line * gone).sum()))
        whole.append(float(line.square().sum()))
    each = [one / all_ if all_ else None for one, all_ in zip(shared, whole, strict=True)]
    frames = mean_score(each, none="both clips are the same")
    value = None if frames.value is None else sum(shared) / sum(whole)
    return Score(value=value, reason=frames.reason, series=frames.series, frames=frames.frames)
