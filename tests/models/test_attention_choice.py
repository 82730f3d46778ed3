"""The fastest kernel is found once a shape; what cannot run is passed over."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from dcgrid.errors import DeviceError
from dcgrid.models.attention import attend
from dcgrid.models.attention_choice import (
    AttentionChoice,
    find_kernels,
    seconds_on,
)

GENERATOR = torch.Generator().manual_seed(0)
Q, K, V = (torch.randn(1, 2, 5, 8, generator=GENERATOR).bfloat16() for _ in range(3))


class Kernels:
    """Three kernels that say when they are called, and a clock that believes what it is told."""

    def __init__(self, **seconds: float) -> None:
        self.seconds, self.called, self.timed = seconds, [], []
        self.kernels = {name: self._kernel(name) for name in seconds}

    def _kernel(self, name: str):
        def kernel(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            if name == "broken":
                raise RuntimeError("no kernel for this device")
            self.called.append(name)
            return scaled_dot_product_attention(query, key, value)

        return kernel

    def clock(self, work, device: torch.device) -> float:
        work()
        name = self.called.pop()
        self.timed.append(name)
        return self.seconds[name]

    def choice(self, name="auto") -> AttentionChoice:
        return AttentionChoice(name=name, kernels=self.kernels, clock=self.clock)


def test_the_fastest_is_kept_for_a_shape() -> None:
    there = Kernels(sdpa=1.0, flash=0.5, cudnn=0.7, broken=0.1, sage=0.01)
    choice = there.choice()
    expected = scaled_dot_product_attention(Q, K, V)
    assert torch.equal(choice(Q, K, V), expected)
    choice(Q, K, V)
    # Approximate kernels are not even tried.
    assert (there.timed, there.called) == (["sdpa", "flash", "cudnn"], ["flash", "flash"])
    choice(Q[:, :, :3], K, V)
    assert len(there.timed) == 6
    assert choice.notes == ("Attention over 5 keys: flash.",) * 2


def test_a_kernel_that_is_hardly_faster_does_not_replace_torchs_own() -> None:
    there = Kernels(sdpa=1.0, flash=0.98)
    there.choice()(Q, K, V)
    assert there.called == ["sdpa"]


@pytest.mark.parametrize("name", ["flash", "sage", "cudnn"])
def test_a_kernel_that_is_asked_for_is_not_timed(name: str) -> None:
    there = Kernels(sdpa=1.0, flash=0.5, sage=0.2, cudnn=3.0)
    there.choice(name)(Q, K, V)
    assert (there.timed, there.called) == ([], [name])


def test_a_kernel_that_is_not_there_is_told() -> None:
    with pytest.raises(DeviceError, match="no sage attention"):
        Kernels(sdpa=1.0).choice("sage")(Q, K, V)


def test_padding_float32_and_the_cpu_are_left_to_torch() -> None:
    there = Kernels(sdpa=1.0, flash=0.5)
    valid = torch.tensor([[True, True, False, True, True]])
    assert torch.equal(there.choice()(Q, K, V, valid), attend(Q, K, V, valid))
    wide = Q.float(), K.float(), V.float()
    assert torch.equal(there.choice()(*wide), attend(*wide))
    assert torch.equal(there.choice("sdpa")(Q, K, V), attend(Q, K, V))
    choice = AttentionChoice()
    assert torch.equal(choice(Q, K, V), attend(Q, K, V))
    assert not there.timed
    assert not choice.chosen


def test_what_is_there_computes_attention() -> None:
    found = find_kernels()
    assert {"sdpa", "cudnn", "flash", "efficient"} <= set(found)
    assert torch.equal(found["sdpa"](Q, K, V), scaled_dot_product_attention(Q, K, V))
    assert 0 < seconds_on(lambda: found["sdpa"](Q, K, V), Q.device) < 10
