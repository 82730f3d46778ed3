"""Windows of a long clip cover it once, and share what they must."""

import itertools

import pytest

from dcgrid.pipelines.windows import Join, plan_windows


@pytest.mark.parametrize("stride", [4, 8])
@pytest.mark.parametrize("blends", [0, 1, 2])
@pytest.mark.parametrize("windows_long", [1.0, 1.3, 2.0, 5.7])
def test_every_frame_is_delivered_once(stride: int, blends: int, windows_long: float) -> None:
    longest = 8 * stride + 1
    join = Join(head=stride + 1, blend=blends * stride)
    total = int(windows_long * 8) * stride + 1
    windows = plan_windows(total, longest, join, stride)
    delivered = [
        frame for one in windows for frame in range(one.first, one.first + one.count)[one.fresh]
    ]
    assert delivered == list(range(total))
    for before, after in itertools.pairwise(windows):
        assert after.first + join.shared == before.first + before.count
        assert (after.head, after.blend) == (join.head, join.blend)
        # What the earlier window holds back is what the later one mixes in.
        assert before.count - before.shown == after.blend
        assert before.first + before.shown == after.first + after.head
    assert all((one.count - 1) % stride == 0 and one.count <= longest for one in windows)
    assert all((one.first % stride) == 0 for one in windows)
    assert [one.index for one in windows] == list(range(len(windows)))


def test_a_clip_that_fits_is_one_window() -> None:
    (only,) = plan_windows(33, 33, Join(head=5, blend=8), 4)
    assert (only.first, only.count, only.head, only.blend, only.shown) == (0, 33, 0, 0, 33)


@pytest.mark.parametrize(
    "counts", [(32, 33, 5, 8), (33, 32, 5, 8), (33, 33, 4, 8), (0, 33, 5, 8), (65, 33, 5, 6)]
)
def test_counts_that_the_codec_does_not_take_are_refused(
    counts: tuple[int, int, int, int],
) -> None:
    with pytest.raises(ValueError, match="is not 4 n"):
        plan_windows(counts[0], counts[1], Join(head=counts[2], blend=counts[3]), 4)


def test_windows_that_generate_nothing_new_are_refused() -> None:
    for head, blend in ((5, 0), (5, 16)):
        with pytest.raises(ValueError, match="nothing new"):
            plan_windows(41, 5 if not blend else 33, Join(head=head, blend=blend), 4)
