"""Blocks in two buffers, parts one after another; on the CPU, where every copy still happens."""

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn

from dcgrid.errors import UsageError
from dcgrid.runtime.offload import (
    BlockRing,
    InMemory,
    Layout,
    OnDisk,
    Staging,
    check_offload,
)
from dcgrid.runtime.residence import Residence, Whole

CPU = torch.device("cpu")
COUNT = 5


def make_blocks() -> list[nn.Module]:
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(7, 7), nn.LayerNorm(7)) for _ in range(COUNT)]
    for block in blocks:
        block.requires_grad_(False)
        block[1].double().bfloat16()  # a second dtype
    return blocks


def tensors_of(block: nn.Module) -> list[Tensor]:
    return list(block.parameters())


def through(blocks: Iterable[nn.Module], x: Tensor) -> Tensor:
    for block in blocks:
        x = block[1](block[0](x).bfloat16()).float()  # type: ignore[index]
    return x


class CountedHost(InMemory):
    """Counts copies, and remembers what was copied where."""

    copies = 0

    def copy_to(self, flat: Tensor) -> None:
        self.copies += 1
        super().copy_to(flat)


def ring_of(blocks: list[nn.Module]) -> tuple[BlockRing, list[CountedHost]]:
    hosts = [CountedHost(tensors_of(block), pin=False) for block in blocks]
    return BlockRing(blocks, hosts, CPU), hosts


def test_tensors_of_several_dtypes_share_one_buffer() -> None:
    tensors = [torch.randn(3, 5), torch.randn(7).bfloat16(), torch.arange(9).to(torch.int8)]
    layout = Layout.of([*tensors, torch.tensor(2.5)])
    flat = torch.zeros(layout.size, dtype=torch.uint8)
    for view, tensor in zip(layout.views(flat), [*tensors, torch.tensor(2.5)], strict=True):
        view.copy_(tensor)
        assert view.data_ptr() % 4 == 0
    for view, tensor in zip(layout.views(flat), [*tensors, torch.tensor(2.5)], strict=True):
        assert torch.equal(view, tensor)


def test_a_ring_changes_no_number_and_copies_each_block_once_a_pass() -> None:
    x = torch.randn(2, 7)
    blocks = make_blocks()
    expected = through(blocks, x)
    ring, hosts = ring_of(blocks)
    for passes in (1, 2, 3):
        assert torch.equal(through(ring.run(), x), expected)
        # The first block of the next pass is there already.
        assert [host.copies for host in hosts] == [passes + 1] + [passes] * (COUNT - 1)


def test_weights_are_in_one_of_two_buffers_while_used_and_at_home_after() -> None:
    blocks = make_blocks()
    ring, _ = ring_of(blocks)
    home = [block[0].weight.data_ptr() for block in blocks]  # type: ignore[index, union-attr]
    seen = [block[0].weight.data_ptr() for block in ring.run()]  # type: ignore[index, union-attr]
    assert seen[0::2] == seen[:1] * 3
    assert seen[1::2] == seen[1:2] * 2
    assert seen[0] != seen[1]
    assert not set(seen) & set(home)
    assert [block[0].weight.data_ptr() for block in blocks] == home  # type: ignore[index, union-attr]


def test_the_next_block_is_copied_before_the_present_one_is_used() -> None:
    blocks = make_blocks()
    ring, hosts = ring_of(blocks)
    for number, _ in enumerate(ring.run()):
        assert hosts[(number + 1) % COUNT].copies == 1 + (number + 1 == COUNT)


def test_a_forward_that_fails_half_way_leaves_the_ring_usable() -> None:
    x = torch.randn(2, 7)
    blocks = make_blocks()
    expected = through(blocks, x)
    ring, _ = ring_of(blocks)
    home = blocks[1][0].weight.data_ptr()  # type: ignore[index, union-attr]
    running = ring.run()
    next(running)
    assert next(running) is blocks[1]
    running.close()
    assert blocks[1][0].weight.data_ptr() == home  # type: ignore[index, union-attr]
    assert torch.equal(through(ring.run(), x), expected)


def test_what_is_written_at_home_between_passes_is_copied_anew() -> None:
    x = torch.randn(2, 7)
    blocks = make_blocks()
    ring, _ = ring_of(blocks)
    before = through(ring.run(), x)
    with torch.no_grad():
        for block in blocks[:1]:
            block[0].weight.add_(1.0)  # type: ignore[index, union-attr, operator]
    after = through(ring.run(), x)
    assert torch.equal(after, through(blocks, x))
    assert not torch.equal(after, before)


def test_it_works_in_inference_mode_and_buffers_can_be_freed_between_passes() -> None:
    x = torch.randn(2, 7)
    blocks = make_blocks()
    expected = through(blocks, x)
    with torch.inference_mode():
        ring, hosts = ring_of(blocks)
        assert torch.equal(through(ring.run(), x), expected)
    ring.leave()
    assert torch.equal(through(ring.run(), x), expected)
    assert hosts[0].copies == 4


def test_blocks_of_other_layouts_and_empty_rings_are_refused() -> None:
    blocks = [nn.Linear(3, 3), nn.Linear(3, 4)]
    hosts = [InMemory(tensors_of(block), pin=False) for block in blocks]
    with pytest.raises(ValueError, match="block 1 is laid out otherwise"):
        BlockRing(blocks, hosts, CPU)
    with pytest.raises(ValueError, match="0 blocks have 0 homes"):
        BlockRing([], [], CPU)


def test_blocks_on_disk_are_in_no_memory_at_home_and_equal_when_used() -> None:
    x = torch.randn(2, 7)
    blocks = make_blocks()
    expected = through(blocks, x)
    stored = [[tensor.clone() for tensor in tensors_of(block)] for block in blocks]
    reads = []

    def reader(number: int) -> Iterable[Tensor]:
        reads.append(number)
        return iter(stored[number])

    staging = Staging(Layout.of(stored[0]).size, pin=False)
    hosts = [
        OnDisk(tensors_of(block), lambda n=n: reader(n), staging)  # type: ignore[misc]
        for n, block in enumerate(blocks)
    ]
    ring = BlockRing(blocks, hosts, CPU)
    assert torch.equal(through(ring.run(), x), expected)
    assert torch.equal(through(ring.run(), x), expected)
    assert reads == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0]
    weight = blocks[2][0].weight  # type: ignore[index, union-attr]
    assert weight.untyped_storage().nbytes() == 4  # type: ignore[union-attr, operator]
    with pytest.raises(RuntimeError, match="single memory location"):
        weight.copy_(stored[2][0])  # type: ignore[union-attr, operator]


def rooms() -> tuple[dict[str, nn.Linear], Residence]:
    modules = {name: nn.Linear(4, 4).requires_grad_(False) for name in ("text", "vae")}
    stages = {
        name: [Whole(module, InMemory(tensors_of(module), pin=False), CPU)]
        for name, module in modules.items()
    }
    return modules, Residence(stages)


def test_one_part_is_on_the_device_and_stays_until_another_is_asked_for() -> None:
    modules, residence = rooms()
    home = {name: module.weight.data_ptr() for name, module in modules.items()}

    def away() -> list[str]:
        return [name for name, module in modules.items() if module.weight.data_ptr() != home[name]]

    assert away() == []
    with residence.on("text"):
        assert away() == ["text"]
    place = modules["text"].weight.data_ptr()
    with residence.on("text"), residence.on("text"):
        assert modules["text"].weight.data_ptr() == place
    with residence.on("vae"):
        assert away() == ["vae"]
        with pytest.raises(ValueError, match="text is asked for while vae is in use"):
            residence.on("text").__enter__()
    residence.clear()
    assert away() == []
    assert residence.here is None
    with residence.on("something else"):
        assert away() == []


def test_a_part_that_does_not_fit_leaves_the_residence_usable() -> None:
    modules, _ = rooms()

    class Full:
        def enter(self) -> None:
            raise torch.OutOfMemoryError("full")

        def leave(self) -> None:
            pass

    text = Whole(modules["text"], InMemory(tensors_of(modules["text"]), pin=False), CPU)
    residence = Residence({"text": [text, Full()]})
    home = modules["text"].weight.data_ptr()
    for _ in range(2):
        with pytest.raises(torch.OutOfMemoryError), residence.on("text"):
            pass
        assert modules["text"].weight.data_ptr() == home
        assert residence.here is None


def test_what_is_written_during_a_visit_is_brought_home() -> None:
    modules, residence = rooms()
    with residence.on("text"), torch.no_grad():
        modules["text"].weight.add_(1.0)
        expected = modules["text"].weight.clone()
    with residence.on("vae"):
        assert torch.equal(modules["text"].weight, expected)
    with residence.on("text"):
        assert torch.equal(modules["text"].weight, expected)


def test_names_of_modes() -> None:
    assert check_offload("block") == "block"
    with pytest.raises(UsageError, match="unknown offload 'gpu'"):
        check_offload("gpu")
