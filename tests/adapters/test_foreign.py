"""LoRA files of other programs, written by hand in each naming, against dense W + s B A."""

import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dcgrid.adapters.files import load_adapter
from dcgrid.adapters.fold import fold_adapter, fold_foreign, fold_lora
from dcgrid.adapters.foreign import is_foreign, read_foreign
from dcgrid.adapters.importing import ImportChoice, import_lora
from dcgrid.adapters.reading import read_adapter
from dcgrid.errors import AdapterError, OutputError, UsageError, WeightsError
from dcgrid.models.registry import find_model
from dcgrid.models.wan.backbone import load_wan
from dcgrid.models.wan.checkpoint import read_checkout
from tests.adapters.merged import merge_adapters

diffusers = pytest.importorskip("diffusers", reason="needs the extra dcgrid[wan]")

LAYERS = {
    # Ours: the model's own name, outputs, inputs, rank, alpha.
    "blocks.0.attn1.to_q": ("blocks.0.self_attn.q", 48, 48, 2, 2.0),
    "blocks.0.attn2.to_out.0": ("blocks.0.cross_attn.o", 48, 48, 3, 1.0),
    "blocks.1.ffn.net.0.proj": ("blocks.1.ffn.0", 40, 48, 4, 6.0),
    "blocks.1.ffn.net.2": ("blocks.1.ffn.2", 48, 40, 1, 1.0),
}
Pairs = dict[str, tuple[Tensor, Tensor]]
State = dict[str, Tensor]


@pytest.fixture
def network(wan_folder: Path) -> torch.nn.Module:
    return load_wan(read_checkout(wan_folder), device="cpu", dtype=torch.float32).network


def pairs() -> Pairs:
    """Return A and B of every layer."""
    generator = torch.Generator().manual_seed(11)
    return {
        name: (
            torch.randn(rank, inputs, generator=generator),
            torch.randn(outputs, rank, generator=generator),
        )
        for name, (_, outputs, inputs, rank, _) in LAYERS.items()
    }


def scales(*, alphas: bool) -> dict[str, float]:
    return {name: one[4] / one[3] if alphas else 1.0 for name, one in LAYERS.items()}


def expected(network: torch.nn.Module, factor: Mapping[str, float], strength: float) -> State:
    """Return the weights that must come out: dense maths on the bare base's."""
    state = {name: value.detach().clone() for name, value in network.state_dict().items()}
    for name, (down_RD, up_DR) in pairs().items():
        state[f"{name}.weight"] += strength * factor[name] * (up_DR @ down_RD)
    return state


def assert_state(network: torch.nn.Module, state: State) -> None:
    found = network.state_dict()
    assert found.keys() == state.keys()
    for name, value in state.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)


def as_diffusers(path: Path) -> bool:
    save_file(sided("transformer.{ours}", "lora_A", "lora_B"), path)
    return False


def as_diffusers_with_metadata(path: Path) -> bool:
    own = {name: one[4] for name, one in LAYERS.items() if name != "blocks.1.ffn.net.2"}
    config = {
        "transformer.r": 2,
        "transformer.lora_alpha": 1,
        "transformer.target_modules": sorted(LAYERS),
        "transformer.alpha_pattern": own,
        "transformer.rank_pattern": {name: one[3] for name, one in LAYERS.items()},
    }
    metadata = {"format": "pt", "lora_adapter_metadata": json.dumps(config)}
    save_file(sided("transformer.{ours}", "lora_A", "lora_B"), path, metadata=metadata)
    return True


def as_peft(path: Path) -> bool:
    save_file(sided("base_model.model.{ours}", "lora_A", "lora_B"), path)
    return False


def as_comfyui(path: Path) -> bool:
    state = sided("diffusion_model.{theirs}", "lora_down", "lora_up")
    save_file(state | alphas("diffusion_model.{theirs}.alpha"), path)
    return True


def as_comfyui_without_alpha(path: Path) -> bool:
    save_file(sided("diffusion_model.{theirs}", "lora_A", "lora_B"), path)
    return False


def as_kohya(path: Path) -> bool:
    flat = {"flat": True}
    state = sided("lora_unet_{theirs}", "lora_down", "lora_up", **flat)
    save_file(state | alphas("lora_unet_{theirs}.alpha", **flat), path)
    return True


def as_diffsynth(path: Path) -> bool:
    save_file(sided("{theirs}", "lora_A.default", "lora_B.default"), path)
    return False


def sided(pattern: str, down: str, up: str, *, flat: bool = False) -> State:
    state = {}
    for name, (down_RD, up_DR) in pairs().items():
        theirs = LAYERS[name][0].replace(".", "_") if flat else LAYERS[name][0]
        start = pattern.format(ours=name, theirs=theirs)
        state |= {f"{start}.{down}.weight": down_RD, f"{start}.{up}.weight": up_DR}
    return state


def alphas(pattern: str, *, flat: bool = False) -> State:
    return {
        pattern.format(theirs=one[0].replace(".", "_") if flat else one[0]): torch.tensor(one[4])
        for one in LAYERS.values()
    }


WRITERS: dict[str, tuple[Callable[[Path], bool], str]] = {
    "diffusers": (as_diffusers, "diffusers"),
    "diffusers with metadata": (as_diffusers_with_metadata, "diffusers"),
    "peft": (as_peft, "peft"),
    "comfyui": (as_comfyui, "comfyui"),
    "comfyui without alpha": (as_comfyui_without_alpha, "comfyui"),
    "kohya": (as_kohya, "kohya"),
    "diffsynth": (as_diffsynth, "bare"),
}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("strength", [1.0, -0.5])
def test_folding_equals_dense_maths(
    network: torch.nn.Module, tmp_path: Path, kind: str, strength: float
) -> None:
    path, (write, naming) = tmp_path / "theirs.safetensors", WRITERS[kind]
    factor = scales(alphas=write(path))
    assert is_foreign(path)
    lora = read_foreign(path)
    assert (lora.naming, lora.ranks, lora.width) == (naming, (1, 2, 3, 4), 48)
    state = expected(network, factor, strength)
    report = fold_lora(network, path, strength=strength)
    assert (report.naming, report.matched) == (naming, 4)
    sizes = [
        factor[name] * float((up @ down).square().mean().sqrt())
        for name, (down, up) in pairs().items()
    ]
    assert report.mean_delta == pytest.approx(sum(sizes) / 4, rel=1e-4)
    assert_state(network, state)


@pytest.mark.parametrize("kind", ["diffusers", "diffusers with metadata", "comfyui without alpha"])
def test_the_loaders_of_diffusers_come_to_the_same(
    wan_folder: Path, network: torch.nn.Module, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "theirs.safetensors"
    WRITERS[kind][0](path)
    assert_fused_alike(wan_folder, network, path)


def assert_fused_alike(wan_folder: Path, network: torch.nn.Module, path: Path) -> None:
    pipeline = diffusers.WanPipeline.from_pretrained(wan_folder)
    pipeline.load_lora_weights(path)
    pipeline.fuse_lora(lora_scale=0.7)
    pipeline.unload_lora_weights()
    fold_lora(network, path, strength=0.7)
    assert_state(network, pipeline.transformer.state_dict())


def test_alphas_of_whole_blocks_as_diffusers_reads_them(
    wan_folder: Path, network: torch.nn.Module, tmp_path: Path
) -> None:
    """Diffusers wants every layer of a block in kohya's files, and alphas in the blocks alone."""
    generator = torch.Generator().manual_seed(2)
    state: State = {}
    for block in range(2):
        for part, outputs, inputs in (
            *((f"{a}_attn_{side}", 48, 48) for a in ("self", "cross") for side in "qkvo"),
            ("ffn_0", 40, 48),
            ("ffn_2", 48, 40),
        ):
            start = f"lora_unet_blocks_{block}_{part}"
            state[f"{start}.lora_down.weight"] = torch.randn(4, inputs, generator=generator)
            state[f"{start}.lora_up.weight"] = torch.randn(outputs, 4, generator=generator)
            state[f"{start}.alpha"] = torch.tensor(1.0 + block)
    save_file(state, tmp_path / "kohya.safetensors")
    assert_fused_alike(wan_folder, network, tmp_path / "kohya.safetensors")


def with_deltas() -> tuple[State, State]:
    """Return keys as in step-distilled LoRAs, and what must be added, by our parameter."""
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    both = {
        "blocks.0.self_attn.q.diff_b": ("blocks.0.attn1.to_q.bias", draw(48)),
        "blocks.0.self_attn.norm_q.diff": ("blocks.0.attn1.norm_q.weight", draw(48)),
        "blocks.1.norm3.diff": ("blocks.1.norm2.weight", draw(48)),
        "blocks.1.norm3.diff_b": ("blocks.1.norm2.bias", draw(48)),
        "blocks.1.diff_m": ("blocks.1.scale_shift_table", draw(1, 6, 48)),
        "blocks.0.modulation.diff": ("blocks.0.scale_shift_table", draw(1, 6, 48)),
        "head.diff_m": ("scale_shift_table", draw(1, 2, 48)),
        "head.head.diff": ("proj_out.weight", draw(16, 48)),
        "head.head.diff_b": ("proj_out.bias", draw(16)),
        "patch_embedding.diff": ("patch_embedding.weight", draw(48, 4, 1, 2, 2)),
        "time_projection.1.diff_b": ("condition_embedder.time_proj.bias", draw(288)),
        "text_embedding.2.diff_b": ("condition_embedder.text_embedder.linear_2.bias", draw(48)),
        "time_embedding.0.diff": ("condition_embedder.time_embedder.linear_1.weight", draw(48, 16)),
    }
    keys = {f"diffusion_model.{key}": value for key, (_, value) in both.items()}
    return keys, dict(both.values())


def test_biases_norms_and_modulation_are_added_whole(
    network: torch.nn.Module, tmp_path: Path
) -> None:
    path = tmp_path / "steps.safetensors"
    keys, added = with_deltas()
    save_file(sided("diffusion_model.{theirs}", "lora_down", "lora_up") | keys, path)
    state = expected(network, scales(alphas=False), 0.5)
    for name, delta in added.items():
        state[name] += 0.5 * delta
    report = fold_lora(network, path, strength=0.5)
    assert report.matched == len(LAYERS) + len(added)
    assert_state(network, state)


def test_a_bias_of_b_is_scaled_as_peft_scales_it(network: torch.nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "adapter_model.safetensors"
    (down_RD, up_DR), bias_D = pairs()["blocks.0.attn1.to_q"], torch.arange(48.0)
    start = "base_model.model.blocks.0.attn1.to_q"
    state = {f"{start}.lora_A.weight": down_RD, f"{start}.lora_B.weight": up_DR}
    save_file(state | {f"{start}.lora_B.bias": bias_D}, path)
    config = {"r": 2, "lora_alpha": 6, "use_rslora": True}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    before = {name: value.detach().clone() for name, value in network.state_dict().items()}
    fold_lora(network, path)
    after, factor = network.state_dict(), 6 / math.sqrt(2)
    name = "blocks.0.attn1.to_q"
    torch.testing.assert_close(
        after[f"{name}.weight"] - before[f"{name}.weight"], factor * (up_DR @ down_RD)
    )
    torch.testing.assert_close(after[f"{name}.bias"] - before[f"{name}.bias"], factor * bias_D)


def test_half_precision_is_rounded_once(wan_folder: Path, tmp_path: Path) -> None:
    network = load_wan(read_checkout(wan_folder), device="cpu", dtype=torch.bfloat16).network
    path = tmp_path / "theirs.safetensors"
    save_file({k: v.bfloat16() for k, v in load(as_kohya, path).items()}, path)
    name = "blocks.0.attn1.to_q"
    down_RD, up_DR = (side.bfloat16().float() for side in pairs()[name])
    before = network.get_parameter(f"{name}.weight").detach().float()
    fold_lora(network, path)
    found = network.get_parameter(f"{name}.weight")
    assert torch.equal(found, (before + up_DR @ down_RD).bfloat16())


def test_eight_bit_factors_are_widened(
    wan_folder: Path, network: torch.nn.Module, tmp_path: Path
) -> None:
    path, out = tmp_path / "theirs.safetensors", tmp_path / "ours.safetensors"
    state = {key: value.to(torch.float8_e4m3fn) for key, value in q_keys().items()}
    save_file(state, path)
    down_RD, up_DR = (side.float() for side in state.values())
    before = network.get_parameter("blocks.0.attn1.to_q.weight").detach().clone()
    fold_lora(network, path)
    found = network.get_parameter("blocks.0.attn1.to_q.weight")
    torch.testing.assert_close(found, before + up_DR @ down_RD)
    import_lora(path, ImportChoice(base=find_model(str(wan_folder))), out)
    tensors = read_adapter(out)[1].values()
    wanted = zip(tensors, (down_RD, up_DR), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in wanted)


def load(write: Callable[[Path], bool], path: Path) -> State:
    write(path)
    return dict(load_file(path))


def q_keys(**more: Tensor) -> State:
    down_RD, up_DR = pairs()["blocks.0.attn1.to_q"]
    start = "diffusion_model.blocks.0.self_attn.q"
    return {f"{start}.lora_down.weight": down_RD, f"{start}.lora_up.weight": up_DR, **more}


def renamed(key: str, shape: tuple[int, ...] = (2, 48)) -> Callable[[], State]:
    return lambda: q_keys(**{f"diffusion_model.{key}": torch.ones(shape)})


@pytest.mark.parametrize(
    ("state", "told"),
    [
        (renamed("blocks.0.self_attn.q.dora_scale"), r"is a DoRA \(diffusion_model.blocks.0"),
        (renamed("blocks.0.self_attn.q.lokr_w1"), "is a LoKr"),
        (renamed("blocks.0.self_attn.q.hada_w1_a"), "is a LoHa"),
        (renamed("blocks.0.cross_attn.k_img.lora_down.weight"), "for an image-to-video model"),
        (renamed("img_emb.proj.1.lora_down.weight"), "for an image-to-video model"),
        (renamed("blocks.0.self_attn.q.reshape_weight"), "1 of 3 tensors are no part of a LoRA"),
        (renamed("blocks.0.self_attn.k.lora_down.weight"), "self_attn.k has no lora_B"),
        (renamed("blocks.0.self_attn.k.alpha", (1,)), "self_attn.k has no lora_A and lora_B"),
        (renamed("blocks.0.self_attn.q.alpha", (2,)), "is no single number"),
        (lambda: {"transformer_2.blocks.0.attn1.to_q.lora_A.weight": torch.ones(2, 2)}, "two tran"),
        (lambda: {"blocks.0.weight": torch.ones(2)}, "nor a LoRA .* first tensor is blocks.0.we"),
        (dict, "it is empty"),
        (lambda: spoilt(math.nan), "q.lora_down.weight holds numbers not finite"),
        (lambda: spoilt(math.inf), "q.lora_down.weight holds numbers not finite"),
        (
            lambda: {k: v.int() for k, v in q_keys().items()},
            r"q.lora_down.weight is torch.int32",
        ),
        (lambda: {k: v[:, :1] for k, v in q_keys().items()}, "which have no product"),
        (
            lambda: q_keys(
                **{
                    "transformer.blocks.0.attn1.to_q.lora_A.weight": torch.ones(2, 48),
                    "transformer.blocks.0.attn1.to_q.lora_B.weight": torch.ones(48, 2),
                }
            ),
            "under two names",
        ),
    ],
)
def test_what_cannot_be_applied_whole_is_refused_by_name(
    network: torch.nn.Module, tmp_path: Path, state: Callable[[], State], told: str
) -> None:
    path = tmp_path / "odd.safetensors"
    save_file({key: value.contiguous() for key, value in state().items()}, path)
    with pytest.raises(AdapterError, match=told) as caught:
        fold_lora(network, path)
    assert "\n" not in caught.value.message
    assert caught.value.hint


def spoilt(number: float) -> State:
    state = q_keys()
    state["diffusion_model.blocks.0.self_attn.q.lora_down.weight"][0, 0] = number
    return state


@pytest.mark.parametrize(
    ("key", "shape", "told"),
    [
        ("blocks.7.self_attn.q.diff_b", (48,), "1 of 2 parts match, 1 do not, such as blocks.7"),
        ("blocks.0.self_attn.gate.diff", (48,), "gate.weight, which this model lacks"),
        ("blocks.0.self_attn.q.diff_b", (47,), r"\(47,\) there and \(48,\) here"),
    ],
)
def test_what_has_no_place_in_the_model_changes_nothing(
    network: torch.nn.Module, tmp_path: Path, key: str, shape: tuple[int, ...], told: str
) -> None:
    path = tmp_path / "odd.safetensors"
    save_file(renamed(key, shape)(), path)
    before = {name: value.detach().clone() for name, value in network.state_dict().items()}
    with pytest.raises(AdapterError, match=told):
        fold_lora(network, path)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize(("width", "size"), [(5120, "14B"), (3072, "5B"), (1536, "1.3B")])
def test_a_lora_of_another_size_says_which(
    network: torch.nn.Module, tmp_path: Path, width: int, size: str
) -> None:
    start, path = "diffusion_model.blocks.0.self_attn.q", tmp_path / "large.safetensors"
    state = {
        f"{start}.lora_A.weight": torch.zeros(1, width),
        f"{start}.lora_B.weight": torch.zeros(width, 1),
    }
    save_file(state, path)
    with pytest.raises(AdapterError, match=rf"for width {width} \(Wan {size}\), the model has 48"):
        fold_foreign(network, read_foreign(path))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-40]), "cannot read adapter"),
        (lambda path: path.write_bytes(path.read_bytes()[:20]), "cannot read adapter"),
        (lambda path: path.write_bytes(b""), "cannot read adapter"),
        (lambda path: path.unlink(), "cannot read adapter"),
        (lambda path: torch.save({"a": torch.ones(2)}, path), "is a pickle, which is never loaded"),
    ],
)
def test_damaged_files_end_in_one_sentence(
    network: torch.nn.Module, tmp_path: Path, spoil: Callable[[Path], Any], told: str
) -> None:
    path = tmp_path / "theirs.safetensors"
    as_comfyui(path)
    spoil(path)
    with pytest.raises(AdapterError, match=told):
        fold_lora(network, path)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a table"),
        ('{"transformer.lora_alpha": "2"}', "alpha that is no number"),
        ('{"transformer.alpha_pattern": [1]}', "alpha that is no number"),
        ('{"transformer.alpha_pattern": {"blocks.9": 1}}', "'blocks.9' names no layer"),
        ('{"transformer.use_dora": true}', "is a DoRA"),
    ],
)
def test_odd_configs_are_refused(tmp_path: Path, config: str, told: str) -> None:
    path = tmp_path / "theirs.safetensors"
    state = sided("transformer.{ours}", "lora_A", "lora_B")
    save_file(state, path, metadata={"lora_adapter_metadata": config})
    with pytest.raises(AdapterError, match=told):
        read_foreign(path)


@pytest.mark.parametrize("kind", WRITERS)
def test_an_imported_file_has_the_same_products(
    wan_folder: Path, network: torch.nn.Module, tmp_path: Path, kind: str
) -> None:
    path, out = tmp_path / "their lora.v2.safetensors", tmp_path / "ours.safetensors"
    factor = scales(alphas=WRITERS[kind][0](path))
    choice = ImportChoice(base=find_model(str(wan_folder)), stage="grid", mode="composition")
    report = import_lora(path, choice, out)
    spec, tensors = read_adapter(out)
    assert spec == report.spec
    assert (spec.name, spec.stage, spec.mode) == ("their-lora-v2", "grid", "composition")
    assert (spec.base, spec.base_hash, spec.rank, spec.given) == ("small-wan", "", 4, "replace")
    assert all(4 in tensor.shape for tensor in tensors.values())
    for name, (down_RD, up_DR) in pairs().items():
        down = tensors[f"base_model.model.{name}.lora_A.weight"]
        up = tensors[f"base_model.model.{name}.lora_B.weight"]
        # Zeros are added, and every factor but a third is a power of two: no rounding.
        product = spec.scale * (up.double() @ down.double())
        wanted = factor[name] * (up_DR.double() @ down_RD.double())
        torch.testing.assert_close(product, wanted, rtol=1e-6, atol=1e-6)
        if math.log2(factor[name] * 2).is_integer():
            assert torch.equal(product, wanted)
    state = expected(network, factor, 1.0)
    attached = load_wan(read_checkout(wan_folder), device="cpu", dtype=torch.float32).network
    fold_adapter(network, out, base="small-wan")
    assert_state(network, state)
    load_adapter(attached, out, base="small-wan")
    merge_adapters(attached)
    assert_state(attached, state)


def test_one_rank_and_one_alpha_stay_as_they_were(wan_folder: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "theirs.safetensors", tmp_path / "ours.safetensors"
    state = {key: value.bfloat16() for key, value in q_keys().items()}
    alpha = {"diffusion_model.blocks.0.self_attn.q.alpha": torch.tensor(1.0)}
    save_file(state | alpha, path)
    import_lora(path, ImportChoice(base=find_model(str(wan_folder)), name="mine"), out)
    spec, tensors = read_adapter(out)
    assert (spec.name, spec.rank, spec.alpha, spec.stage) == ("mine", 2, 1.0, "fill")
    sides = zip(state.values(), tensors.values(), strict=True)
    assert all(torch.equal(theirs, ours) for theirs, ours in sides)


def test_what_cannot_be_imported_leaves_nothing(wan_folder: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "theirs.safetensors", tmp_path / "ours.safetensors"
    choice = ImportChoice(base=find_model(str(wan_folder)))
    save_file(sided("transformer.{ours}", "lora_A", "lora_B") | with_deltas()[0], path)
    with pytest.raises(AdapterError, match=r"changes 13 biases, norms or whole weights"):
        import_lora(path, choice, out)
    as_comfyui(path)
    with pytest.raises(AdapterError, match="does not fit this model"):
        import_lora(path, ImportChoice(base=find_model("tiny")), out)
    with pytest.raises(UsageError, match="no model is called 'nosuch'"):
        import_lora(path, ImportChoice(base=find_model("nosuch")), out)
    with pytest.raises(AdapterError, match="name = 'a b'"):
        import_lora(path, ImportChoice(base=find_model(str(wan_folder)), name="a b"), out)
    assert not out.exists()
    out.write_text("mine")
    with pytest.raises(OutputError, match="is there already"):
        import_lora(path, choice, out)
    assert out.read_text() == "mine"
    import_lora(path, choice, out, force=True)
    assert read_adapter(out)[0].rank == 4


def test_a_damaged_base_is_named(wan_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(wan_folder, tmp_path / "copy"))
    (weights,) = (folder / "transformer").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:100])
    as_comfyui(tmp_path / "theirs.safetensors")
    choice = ImportChoice(base=find_model(str(folder)))
    with pytest.raises(WeightsError, match=f"cannot read .*{weights.name}"):
        import_lora(tmp_path / "theirs.safetensors", choice, tmp_path / "ours.safetensors")
