"""Adapter files: round trips, PEFT as a second reader, refusals, damage."""

import contextlib
import json
import random
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dcgrid.adapters.attach import adapter_names, attach_adapter, detach_adapter
from dcgrid.adapters.files import (
    adapter_tensors,
    hash_tensors,
    load_adapter,
    read_adapter,
    save_adapter,
    write_adapter,
)
from dcgrid.adapters.reading import product_rms
from dcgrid.adapters.spec import AdapterSpec, spec_from_json
from dcgrid.errors import AdapterError, DcgridError, OutputError

MakeSpec = Callable[..., AdapterSpec]


@pytest.fixture
def saved(net: Any, make_spec: MakeSpec, tokens: Tensor, tmp_path: Path) -> tuple[Path, Tensor]:
    """Return an adapter file and what the network with that adapter said."""
    parameters = attach_adapter(net, make_spec())
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in parameters:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    path = tmp_path / "rain.safetensors"
    save_adapter(net, make_spec(), path)
    out = net(tokens).detach()
    detach_adapter(net)
    return path, out


def test_round_trip(
    net: Any, make_spec: MakeSpec, tokens: Tensor, saved: tuple[Path, Tensor]
) -> None:
    path, out = saved
    report = load_adapter(net, path, base="mini", base_hash="abc")
    assert torch.equal(net(tokens), out)
    assert report.spec == make_spec()
    assert report.matched == report.total == 6
    deltas = []
    stored = load_file(path)
    for key, down in stored.items():
        if key.endswith("lora_A.weight"):
            up = stored[key.replace("lora_A", "lora_B")]
            deltas.append(float((6.0 / 4 * up @ down).square().mean().sqrt()))
    assert report.mean_delta == pytest.approx(sum(deltas) / len(deltas), rel=1e-5)
    assert not any(p.requires_grad for p in net.parameters())
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_training_goes_on_after_loading(net: Any, saved: tuple[Path, Tensor]) -> None:
    load_adapter(net.bfloat16(), saved[0], trainable=True)
    learning = [p for p in net.parameters() if p.requires_grad]
    assert len(learning) == 12
    assert all(p.dtype == torch.float32 for p in learning)


def test_strength_at_loading(net: Any, tokens: Tensor, saved: tuple[Path, Tensor]) -> None:
    plain = net(tokens)
    load_adapter(net, saved[0], strength=0.0)
    assert torch.equal(net(tokens), plain)


def test_peft_alone_reads_the_file(net: Any, tokens: Tensor, saved: tuple[Path, Tensor]) -> None:
    path, out = saved
    for block in net.blocks:  # PEFT knows nothing of our routable layer
        plain = nn.Linear(12, 12)
        plain.load_state_dict(block.query.state_dict())
        block.query = plain
        block.forward = lambda x, _=None, block=block: x + block.mlp(block.query(x))
    config = LoraConfig(r=4, lora_alpha=6, target_modules=["query", "mlp.0", "mlp.2"])
    model = get_peft_model(net, config)
    result = peft.set_peft_model_state_dict(model, load_file(path))
    assert not result.unexpected_keys
    assert not [key for key in result.missing_keys if "lora" in key]
    torch.testing.assert_close(model.eval()(tokens), out)


def test_wrong_base(net: Any, saved: tuple[Path, Tensor]) -> None:
    with pytest.raises(AdapterError, match="'mini', not for 'wan'"):
        load_adapter(net, saved[0], base="wan")
    with pytest.raises(AdapterError, match="other weights"):
        load_adapter(net, saved[0], base="mini", base_hash="abd")
    assert adapter_names(net) == []


def test_wrong_network(net: Any, saved: tuple[Path, Tensor]) -> None:
    path, _ = saved
    net.blocks[1].query = nn.Linear(12, 13)
    with pytest.raises(AdapterError, match=r"blocks\.1\.query\.lora_B"):
        load_adapter(net, path)
    net.blocks.append(nn.ModuleDict({"query": nn.Linear(12, 12)}))
    with pytest.raises(AdapterError, match="12 of 14 tensors match"):
        load_adapter(net, path)
    del net.blocks[1:]
    with pytest.raises(AdapterError, match="6 of 6 tensors match, 6 do not"):
        load_adapter(net, path)
    assert adapter_names(net) == []


def rewrite(path: Path, change: Callable[[dict[str, Tensor]], AdapterSpec | None]) -> Path:
    """Write the file again with other content and a right hash."""
    spec, tensors = read_adapter(path)
    out = path.with_name("changed.safetensors")
    write_adapter(change(tensors) or spec, tensors, out)
    return out


def test_right_hash_but_wrong_content(
    net: Any, make_spec: MakeSpec, saved: tuple[Path, Tensor]
) -> None:
    key = "base_model.model.blocks.0.query.lora_A.weight"

    def nan(tensors: dict[str, Tensor]) -> None:
        tensors[key][0, 0] = float("nan")

    def integers(tensors: dict[str, Tensor]) -> None:
        tensors[key] = tensors[key].to(torch.int32)

    def eighths(tensors: dict[str, Tensor]) -> None:
        tensors[key] = tensors[key].to(torch.float8_e4m3fn)

    def lacking(tensors: dict[str, Tensor]) -> None:
        del tensors[key]

    def more(tensors: dict[str, Tensor]) -> None:
        tensors["text.lora_A.weight"] = torch.zeros(4, 2)

    def rank(tensors: dict[str, Tensor]) -> AdapterSpec:
        return make_spec(rank=8)

    changes: list[Callable[[dict[str, Tensor]], AdapterSpec | None]]
    changes = [nan, integers, eighths, lacking, more, rank]
    for change in changes:
        with pytest.raises(AdapterError):
            load_adapter(net, rewrite(saved[0], change))
        assert adapter_names(net) == []


def test_not_ours(net: Any, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.safetensors"
    save_file({"lora": torch.zeros(3)}, foreign)
    with pytest.raises(AdapterError, match="not an adapter that dcgrid wrote"):
        load_adapter(net, foreign)
    for path in (tmp_path / "missing.safetensors", tmp_path):
        with pytest.raises(AdapterError, match="cannot read"):
            load_adapter(net, path)


def test_diverged_adapter_is_not_saved(net: Any, make_spec: MakeSpec, tmp_path: Path) -> None:
    parameters = attach_adapter(net, make_spec())
    parameters[3].data[0, 0] = float("inf")
    with pytest.raises(AdapterError, match="not finite"):
        save_adapter(net, make_spec(), tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_unwritable_place_leaves_nothing(
    net: Any, make_spec: MakeSpec, saved: tuple[Path, Tensor], tmp_path: Path
) -> None:
    attach_adapter(net, make_spec())
    with pytest.raises(OutputError):
        save_adapter(net, make_spec(), tmp_path / "no" / "such" / "a.safetensors")
    folder = tmp_path / "folder.safetensors"
    folder.mkdir()
    with pytest.raises(OutputError):
        save_adapter(net, make_spec(), folder)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder.safetensors", saved[0].name]


def mutate(content: bytes, chance: random.Random) -> bytes:
    """Damage a file in one of several ways."""
    (header_size,) = struct.unpack("<Q", content[:8])
    kind = chance.randrange(7)
    if kind == 0:
        return content[: chance.randrange(len(content))]
    if kind == 1:
        return content + chance.randbytes(chance.randrange(1, 50))
    if kind == 2:
        start = chance.randrange(len(content))
        return content[:start] + content[start + chance.randrange(1, 100) :]
    if kind == 3:  # a valid header with one value changed
        header = json.loads(content[8 : 8 + header_size])
        key = chance.choice(sorted(header))
        inner = chance.choice(sorted(header[key]))
        header[key][inner] = chance.choice([0, "", "F16", [], [-1, 2], [0, 2**63], {}, None])
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + content[8 + header_size :]
    damaged = bytearray(content)
    last = {4: 8, 5: 8 + header_size}.get(kind, len(content))
    for _ in range(chance.choice([1, 1, 5])):
        damaged[chance.randrange(last)] = chance.randrange(256)
    return bytes(damaged)


def test_mutated_files_raise_dcgrid_errors_only(
    net: Any, tokens: Tensor, saved: tuple[Path, Tensor]
) -> None:
    path, out = saved
    content = path.read_bytes()
    chance = random.Random(2026)
    hints = []
    for number in range(500):
        damaged = path.with_name("damaged.safetensors")
        damaged.write_bytes(mutate(content, chance))
        try:
            load_adapter(net, damaged)
        except DcgridError as error:
            hints.append(error.hint)
            continue
        # What is not refused (such as a byte replaced by itself) must be the very same adapter.
        assert torch.equal(net(tokens), out), number
        detach_adapter(net)
    # Refused files left nothing attached, else the next would have found its name taken.
    assert len(hints) > 470
    assert all("again" in hint for hint in hints)


def test_mutated_specs_raise_adapter_errors_only(make_spec: MakeSpec) -> None:
    text = make_spec().to_json()
    assert spec_from_json(text) == make_spec()
    chance = random.Random(7)
    values = [None, -1, 0, 10**400, 1e308, "", [], {}, [1], True, float("nan"), "x" * 1000]
    for _ in range(300):
        spec = json.loads(text)
        key = chance.choice(sorted(spec))
        if chance.random() < 0.2:
            spec[chance.choice(["", "other"])] = 1
        spec[key] = chance.choice(values)
        changed = json.dumps(spec)
        cut = changed[: chance.randrange(len(changed))] if chance.random() < 0.2 else changed
        with contextlib.suppress(AdapterError):
            spec_from_json(cut)
    for broken in ("[]", "[" * 100_000, "null", '{"rank": 1}'):
        with pytest.raises(AdapterError):
            spec_from_json(broken)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "a.b"},
        {"rank": 0},
        {"alpha": 0.0},
        {"dropout": 1.0},
        {"targets": ()},
        {"layout": "2"},
        {"noise_scale": -1.0},
        {"stage": "last"},
    ],
)
def test_spec_values_are_checked(make_spec: MakeSpec, change: dict[str, object]) -> None:
    with pytest.raises(AdapterError, match=next(iter(change))):
        replace(make_spec(), **change)  # type: ignore[arg-type]


def test_product_rms() -> None:
    generator = torch.Generator().manual_seed(0)
    up, down = torch.randn(30, 4, generator=generator), torch.randn(4, 50, generator=generator)
    assert product_rms(up, down) == pytest.approx(float((up @ down).square().mean().sqrt()))


def test_hash_sees_names_shapes_dtypes_and_values(net: Any, make_spec: MakeSpec) -> None:
    base = {"a": torch.arange(6.0), "b": torch.ones(2)}
    hashes = {
        hash_tensors(tensors)
        for tensors in (
            base,
            {"a": base["a"].reshape(2, 3), "b": base["b"]},
            {"a": base["a"].int(), "b": base["b"]},
            {"a": base["b"], "b": base["a"]},
            {"a": base["a"] + 1e-6, "b": base["b"]},
        )
    }
    assert len(hashes) == 5
    assert hash_tensors({"b": base["b"], "a": base["a"]}) in hashes
    attach_adapter(net, make_spec())
    assert len(adapter_tensors(net, "rain")) == 12


def test_specs_load_without_torch_and_peft() -> None:
    code = (
        "import sys, dcgrid.adapters.spec;"
        "sys.exit(any(m in sys.modules for m in ('torch', 'peft', 'safetensors')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
