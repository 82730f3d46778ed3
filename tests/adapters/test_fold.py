"""Folding a file must give the very network that attaching and merging gives."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dcgrid.adapters.attach import attach_adapter
from dcgrid.adapters.files import load_adapter, save_adapter
from dcgrid.adapters.fold import fold_adapter
from dcgrid.adapters.spec import AdapterSpec
from dcgrid.errors import AdapterError
from tests.adapters.merged import merge_adapters


def _network() -> torch.nn.Module:
    torch.manual_seed(3)
    return torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.GELU(), torch.nn.Linear(8, 5))


def _spec(**changes: object) -> AdapterSpec:
    values = {"name": "fill", "stage": "fill", "rank": 2, "alpha": 3.0, "targets": ("0", "2")}
    return AdapterSpec(**{**values, **changes})  # type: ignore[arg-type]


def _trained_file(folder: Path) -> Path:
    network, spec = _network(), _spec(base="toy")
    parameters = attach_adapter(network, spec)
    with torch.no_grad():
        for i, parameter in enumerate(parameters):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.manual_seed(i)))
    path = folder / "fill.safetensors"
    save_adapter(network, spec, path)
    return path


@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_folding_equals_attaching_and_merging(tmp_path: Path, strength: float) -> None:
    path = _trained_file(tmp_path)
    folded, merged = _network(), _network()
    report = fold_adapter(folded, path, base="toy", strength=strength)
    other = load_adapter(merged, path, base="toy", strength=strength)
    merge_adapters(merged)
    assert (report.matched, report.total) == (2, 2)
    assert report.mean_delta == pytest.approx(other.mean_delta)
    for one, two in zip(folded.parameters(), merged.parameters(), strict=True):
        torch.testing.assert_close(one, two)
    batch = torch.randn(4, 6)
    assert not torch.allclose(folded(batch), _network()(batch), atol=1e-3)


def test_a_file_that_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    path = _trained_file(tmp_path)
    other = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.GELU(), torch.nn.Linear(8, 4))
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(AdapterError, match="this model needs"):
        fold_adapter(other, path)
    with pytest.raises(AdapterError, match="for the model 'toy'"):
        fold_adapter(_network(), path, base="mini")
    assert all(torch.equal(before[name], value) for name, value in other.state_dict().items())


def test_folding_loads_no_peft() -> None:
    code = "import sys, dcgrid.adapters.fold; sys.exit('peft' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
