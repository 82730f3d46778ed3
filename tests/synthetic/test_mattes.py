"""Mattes of people: found by the real network where it is at hand."""

import sys
from types import ModuleType

import pytest
import torch

from dcgrid.synthetic import sources
from dcgrid.synthetic.mattes import NETWORK, SIDE, Matting, find_network


class MiddleIsSomebody:
    """Stands in for the interpreter: says that whoever is red is a person."""

    def __init__(self, path: str, num_threads: int) -> None:
        self.path = path

    def allocate_tensors(self) -> None:
        pass

    def get_input_details(self) -> list[dict[str, int]]:
        return [{"index": 0}]

    def get_output_details(self) -> list[dict[str, int]]:
        return [{"index": 7}]

    def set_tensor(self, index: int, picture) -> None:
        assert index == 0
        assert picture.shape == (1, SIDE, SIDE, 3)
        self.picture = picture

    def invoke(self) -> None:
        self.result = self.picture[..., :1]

    def get_tensor(self, index: int):
        assert index == 7
        return self.result


@pytest.fixture
def matting(monkeypatch, tmp_path):
    module = ModuleType("ai_edge_litert.interpreter")
    module.Interpreter = MiddleIsSomebody
    monkeypatch.setitem(sys.modules, "ai_edge_litert", ModuleType("ai_edge_litert"))
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", module)
    return Matting(tmp_path / NETWORK)


def test_a_matte_has_the_size_and_place_of_the_clip(matting):
    clip = torch.zeros(3, 2, 90, 160)
    clip[0, 1, 30:60, 40:80] = 1
    matte = matting(clip)
    assert matte.shape == (2, 90, 160)
    assert matte[0].max() == 0
    assert matte[1, 35:55, 45:75].min() > 0.9
    assert matte[1, :25].max() < 0.1
    assert matte[1, :, 90:].max() < 0.1


def test_where_nobody_is_there_is_no_matte(matting):
    clip = torch.zeros(3, 2, 90, 160)
    clip[0, 1, 30:34, 40:44] = 1
    assert matting(clip) is None


def test_the_network_is_looked_for_where_its_package_is_unpacked(tmp_path):
    assert find_network(tmp_path) is None
    package = next(one for one in sources.SOURCES if one.kind == "mattes")
    folder = sources.source_dir(tmp_path, package) / "package"
    folder.mkdir(parents=True)
    (folder / NETWORK).touch()
    assert find_network(tmp_path) == folder / NETWORK
