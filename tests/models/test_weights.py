"""Weight files: what is written comes back, and nothing that is damaged gets through."""

import json
import random
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from dcgrid.errors import OutputError, UsageError, WeightsError
from dcgrid.hub import file_sha256
from dcgrid.models.native.model import package_models
from dcgrid.models.registry import find_model
from dcgrid.models.trunk import NetworkBackbone
from dcgrid.models.weights import load_weights, read_weights, save_weights

MUTATIONS = 300


def small_module() -> nn.Module:
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    module.register_buffer("count", torch.tensor([7]))
    return module


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "part.safetensors"
    save_weights(path, small_module().state_dict(), {"steps": 12}, torch.float32)
    return path


def save_tiny(folder: Path) -> NetworkBackbone:
    """Write the four parts of `tiny`, laid out as a model's weights folder is."""
    backbone = find_model("tiny").load()
    for part in ("autoencoder", "text", "dit"):
        facts = {"vocabulary": list(backbone.parts.text.tokenizer.vocabulary)}
        module = getattr(backbone.parts, part)
        save_weights(folder / f"{part}.safetensors", module.state_dict(), facts, torch.float32)
    return backbone


def test_tensors_and_facts_come_back(tmp_path: Path) -> None:
    module = small_module()
    facts = {"steps": 3, "words": ["ä", "b"]}
    target = tmp_path / "new" / "folder" / "part.safetensors"
    save_weights(target, module.state_dict(), facts, torch.float32)
    other = small_module()
    assert load_weights(target, other) == facts
    for name, tensor in module.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)
    assert [file.name for file in target.parent.iterdir()] == ["part.safetensors"]


def test_int8_rounds_each_row_by_its_own_largest_number(tmp_path: Path) -> None:
    matrix = torch.randn(5, 3, 2) * torch.logspace(-3, 3, 5)[:, None, None]
    matrix[2] = 0.0
    saved = {"deep": matrix, "flat": torch.randn(4), "count": torch.tensor([[7]])}
    save_weights(tmp_path / "x.safetensors", saved, {}, torch.int8)
    read, _ = read_weights(tmp_path / "x.safetensors")
    assert set(read) == set(saved)
    assert torch.equal(read["flat"], saved["flat"])
    assert torch.equal(read["count"], saved["count"])
    largest = matrix.flatten(1).abs().amax(dim=1)[:, None, None]
    # Rounding to 127 numbers on each side errs by half a step at most.
    assert ((read["deep"] - matrix).abs() <= largest * (0.5 / 127 * 1.001)).all()
    assert read["deep"][2].eq(0).all()
    assert read["deep"].dtype == torch.float32
    save_weights(tmp_path / "x.safetensors", read, {}, torch.int8)
    again, _ = read_weights(tmp_path / "x.safetensors")
    # What was rounded once is a fixed point, so later stages see what the file will hold.
    torch.testing.assert_close(again["deep"], read["deep"], rtol=1e-6, atol=0)
    big = {"a": torch.randn(64, 64)}
    save_weights(tmp_path / "b.safetensors", big, {}, torch.int8)
    assert (tmp_path / "b.safetensors").stat().st_size < 64 * 64 * 1.5


@pytest.mark.parametrize("spoil", ["shape", "alone", "type"])
def test_steps_that_fit_no_matrix_are_refused(tmp_path: Path, spoil: str) -> None:
    numbers = torch.ones(3, 2, dtype=torch.int8)
    tensors = {"a": numbers, "a@step": torch.ones(3)}
    if spoil == "shape":
        tensors["a@step"] = torch.ones(4)
    if spoil == "alone":
        del tensors["a"]
    if spoil == "type":
        tensors["a"] = numbers.float()
    save_file(tensors, tmp_path / "x.safetensors", {"facts": "{}"})
    with pytest.raises(WeightsError, match="fits no matrix"):
        read_weights(tmp_path / "x.safetensors")


def test_half_precision_rounds_matrices_and_keeps_vectors_and_counts(tmp_path: Path) -> None:
    module = small_module()
    save_weights(tmp_path / "half.safetensors", module.state_dict(), {}, torch.bfloat16)
    stored, _ = read_weights(tmp_path / "half.safetensors")
    assert stored["0.weight"].dtype == torch.bfloat16
    assert stored["0.bias"].dtype == torch.float32
    assert stored["count"].dtype == torch.int64
    other = small_module()
    load_weights(tmp_path / "half.safetensors", other)
    assert other[0].weight.dtype == torch.float32
    torch.testing.assert_close(other[0].weight, module[0].weight, rtol=2**-8, atol=0)


def test_a_failed_write_leaves_the_old_file_alone(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()

    def run_out_of_space(target: Path, content: bytes) -> int:
        with target.open("wb") as stream:
            stream.write(content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", run_out_of_space)
    with pytest.raises(OutputError, match=r"(?i)no space left"):
        save_weights(path, small_module().state_dict(), {}, torch.float32)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_is_a_file_is_named(path: Path) -> None:
    with pytest.raises(OutputError, match=r"part\.safetensors"):
        save_weights(path / "part.safetensors", {}, {}, torch.float32)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"gone\.safetensors") as caught:
        read_weights(tmp_path / "gone.safetensors")
    assert caught.value.hint
    assert caught.value.exit_code == 4


def test_a_folder_is_no_weight_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError):
        read_weights(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"\0", b"\0" * 8, b"\xff" * 64, b"PK\x03\x04 a zip", b"not weights at all" * 20],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match=r"other\.safetensors"):
        read_weights(tmp_path / "other.safetensors")


def test_every_cut_is_refused(path: Path) -> None:
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError):
            load_weights(path, small_module())


def test_wrong_names_and_shapes_are_named(path: Path) -> None:
    tensors, _ = read_weights(path)
    more = {**tensors, "2.weight": torch.zeros(1)}
    fewer = {name: tensor for name, tensor in tensors.items() if name != "0.bias"}
    turned = {**tensors, "0.weight": tensors["0.weight"].T.contiguous()}
    for wrong, said in ((more, r"2\.weight"), (fewer, r"0\.bias"), (turned, r"\(3, 4\)")):
        save_file(wrong, path)
        with pytest.raises(WeightsError, match=said):
            load_weights(path, small_module())


@pytest.mark.parametrize("facts", ["[1]", "3", "{", "nonsense", '"text"', "[" * 3000])
def test_facts_that_are_no_table_are_refused(tmp_path: Path, facts: str) -> None:
    save_file({"one": torch.ones(1)}, tmp_path / "x.safetensors", {"facts": facts})
    with pytest.raises(WeightsError, match="damaged"):
        read_weights(tmp_path / "x.safetensors")


def test_a_file_without_facts_has_none(tmp_path: Path) -> None:
    save_file({"one": torch.ones(1)}, tmp_path / "x.safetensors")
    assert read_weights(tmp_path / "x.safetensors")[1] == {}


@pytest.mark.parametrize("kind", ["F4", "F6_E2M3", "F8_E8M0", "C64", "U16", "BOOL", "X9"])
def test_a_header_with_odd_number_kinds_is_refused_or_read(tmp_path: Path, kind: str) -> None:
    header = {"one": {"dtype": kind, "shape": [8], "data_offsets": [0, 8]}}
    text = json.dumps(header).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"\1" * 8)
    try:
        tensors, _ = read_weights(tmp_path / "x.safetensors")
    except WeightsError:
        return
    assert tensors["one"].numel() > 0


def mutate(whole: bytes, chance: random.Random) -> bytes:
    """Damage a file: flipped bytes, a cut, a hole, a repeated run; mostly in its header."""
    damaged = bytearray(whole)
    for _ in range(chance.randint(1, 4)):
        reach = chance.choice([8, 400, len(damaged)])
        place = chance.randrange(max(1, min(reach, len(damaged))))
        kind = chance.randrange(5)
        if kind <= 1 and damaged:
            damaged[place] = chance.randrange(256)
        elif kind == 2 and damaged:
            damaged[place] = chance.choice(b'0123456789[]{}",:')
        elif kind == 3:
            del damaged[place : place + chance.randint(1, 30)]
        else:
            damaged[place:place] = damaged[: chance.randint(1, 30)]
    return bytes(damaged)


def test_mutated_files_end_in_no_other_error(path: Path) -> None:
    whole = path.read_bytes()
    chance = random.Random(20)
    refused = 0
    for _ in range(MUTATIONS):
        path.write_bytes(mutate(whole, chance))
        try:
            load_weights(path, small_module())
        except WeightsError as error:
            refused += str(path) in error.message
    assert refused > MUTATIONS // 2


def test_digest_follows_the_bytes(path: Path) -> None:
    before = file_sha256(path)
    assert len(before) == 64
    path.write_bytes(path.read_bytes()[:-1] + b"\x55")
    assert file_sha256(path) != before


def test_a_saved_model_loads_as_it_was(tmp_path: Path) -> None:
    backbone = save_tiny(tmp_path)
    loaded = replace(find_model("tiny"), folder=tmp_path).load()
    clip = torch.rand(1, 3, 5, 16, 16) - 0.5
    assert torch.equal(loaded.encode(clip), backbone.encode(clip))
    words = loaded.parts.text.tokenizer.vocabulary
    assert words == backbone.parts.text.tokenizer.vocabulary
    digests = replace(find_model("tiny"), folder=tmp_path).digests()
    assert sorted(digests) == [
        "autoencoder",
        "dit",
        "text",
    ]


@pytest.mark.parametrize("part", ["autoencoder", "text", "dit"])
def test_a_model_without_one_part_is_refused(tmp_path: Path, part: str) -> None:
    save_tiny(tmp_path)
    replace(find_model("tiny"), folder=tmp_path).files[part].unlink()
    with pytest.raises(WeightsError, match=part):
        replace(find_model("tiny"), folder=tmp_path).load()


@pytest.mark.parametrize("words", [None, "text", 3, [1, 2], [["a"], {}], ["one", "word", "more"]])
def test_a_wrong_vocabulary_is_refused(tmp_path: Path, words: object) -> None:
    backbone = save_tiny(tmp_path)
    facts = {} if words is None else {"vocabulary": words}
    path = replace(find_model("tiny"), folder=tmp_path).files["text"]
    save_weights(path, backbone.parts.text.state_dict(), facts, torch.float32)
    with pytest.raises(WeightsError, match=r"text\.safetensors"):
        replace(find_model("tiny"), folder=tmp_path).load()


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    save_tiny(tmp_path)
    with pytest.raises(WeightsError):
        replace(find_model("mini"), folder=tmp_path).load()


def test_an_unknown_model_is_named_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="mimi") as caught:
        find_model("mimi")
    assert "mini" in caught.value.hint
    assert {model.name for model in package_models()} >= {"mini", "tiny"}


@pytest.mark.parametrize(
    "spoil", [lambda t: t.fill_(float("nan")), lambda t: t.to(torch.int32)], ids=["nan", "integer"]
)
def test_numbers_that_no_weights_are_are_refused(
    path: Path, spoil: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    tensors = small_module().state_dict()
    tensors["0.weight"] = spoil(tensors["0.weight"].clone())
    save_weights(path, tensors, {}, torch.float32)
    with pytest.raises(WeightsError, match=r"0\.weight holds numbers"):
        load_weights(path, small_module())
