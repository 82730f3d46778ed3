"""The grid of tokens that is set off by half a token."""

import pytest
import torch

from dcgrid.grid.coordinates import narrow_cells, widen_cells


def cells(rows: int, columns: int) -> torch.Tensor:
    return torch.arange(2 * 3 * 2 * 2 * rows * columns).float().reshape(2, 3, 2, 2, rows, columns)


def test_the_margin_is_a_mirror_and_comes_off_again() -> None:
    plain = cells(4, 6)
    wide = widen_cells(plain, (1, 2, 4))
    assert wide.shape == (2, 3, 2, 2, 6, 10)
    assert torch.equal(narrow_cells(wide, (1, 2, 4)), plain)
    for y, mirrored_y in ((0, 1), (5, 2)):
        assert torch.equal(wide[..., y, 2:-2], plain[..., mirrored_y, :])
    for x, mirrored_x in ((0, 2), (1, 1), (8, 4), (9, 3)):
        assert torch.equal(wide[..., 1:-1, x], plain[..., mirrored_x])


def test_offset_patches_lie_across_the_seams() -> None:
    """Each offset patch holds the right half of one plain patch and the left half of the next."""
    columns = torch.arange(8.0).reshape(1, 1, 1, 1, 1, 8).expand(1, 1, 1, 1, 4, 8)
    wide = widen_cells(columns, (1, 2, 2))[0, 0, 0, 0, 1]
    assert wide.reshape(-1, 2).tolist() == [[1, 0], [1, 2], [3, 4], [5, 6], [7, 6]]


@pytest.mark.parametrize("patch", [(1, 1, 2), (1, 2, 3)])
def test_half_a_patch_must_be_whole_latents(patch: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="no whole number"):
        widen_cells(cells(4, 6), patch)


def test_a_cell_of_one_latent_has_no_mirror() -> None:
    with pytest.raises(ValueError, match="no room"):
        widen_cells(cells(1, 6), (1, 2, 2))
