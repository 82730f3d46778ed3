"""A Wan checkout read from disk, against diffusers' pipeline over the same files."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dcgrid.errors import PromptError, WeightsError
from dcgrid.models.base import TagTable
from dcgrid.models.text_masking import TokenMasking, kept_tokens
from dcgrid.models.wan.backbone import WanBackbone, load_wan
from dcgrid.models.wan.checkpoint import is_checkout, read_checkout
from dcgrid.models.wan.text import clean_text
from dcgrid.models.wan.trunk import load_trunk
from dcgrid.prompts.segments import Prompt, Segment
from dcgrid.runtime.offload import Offload
from tests.wan_checkout import our_frames, pipeline_frames

diffusers = pytest.importorskip("diffusers", reason="needs the extra dcgrid[wan]")

FRAMES, HEIGHT, WIDTH = 5, 32, 48


@pytest.fixture(scope="module")
def backbone(wan_folder: Path) -> WanBackbone:
    return load_wan(read_checkout(wan_folder), device="cpu", dtype=torch.float32)


@pytest.fixture(scope="module")
def pipeline(wan_folder: Path) -> Any:
    return diffusers.WanPipeline.from_pretrained(wan_folder)


def test_facts_come_from_the_checkout(wan_folder: Path) -> None:
    spec = read_checkout(wan_folder).spec
    assert (spec.stride_T, spec.stride_HW, spec.latent_channels) == (4, 8, 4)
    assert (spec.patch, spec.time_shift, spec.per_cell_time) == ((1, 2, 2), 3.0, False)
    assert (spec.fps, spec.max_frames, spec.name) == (16.0, 81, "small-wan")
    # Every cell size falls on token borders.
    for size in spec.cell_sizes:
        assert all(side % (spec.stride_HW * spec.patch[1]) == 0 for side in size)
    assert is_checkout(wan_folder)
    assert not is_checkout(wan_folder / "vae")


@pytest.mark.parametrize("text", ["a dog in heavy rain", "  Cafe\u0301 &amp;amp; \n fog  ", ""])
def test_text_equals_the_pipelines_own(backbone: WanBackbone, pipeline: Any, text: str) -> None:
    found = backbone.parts.segments.encode_rows([[text]], cells=1)
    expected = pipeline._get_t5_prompt_embeds(text, max_sequence_length=512)
    torch.testing.assert_close(found.tokens_BKLE[:, 0], expected, rtol=0, atol=1e-5)
    assert found.valid_BKL.all()


def test_segments_are_encoded_alone_and_stand_side_by_side(backbone: WanBackbone) -> None:
    segments = backbone.parts.segments
    rows = segments.encode_rows([["a dog", "rain"], ["a dog"]], cells=2).tokens_BKLE[0]
    one, other = segments.encode("a dog"), segments.encode("rain")
    assert torch.equal(rows[0, : len(one)], one)
    assert torch.equal(rows[0, len(one) : len(one) + len(other)], other)
    assert torch.equal(rows[1, : len(one)], one)
    assert not rows[1, len(one) :].any()


def test_masked_tokens_leave_the_row_and_zeros_fill_it_up(backbone: WanBackbone) -> None:
    segments, rows = backbone.parts.segments, [["a dog runs", "heavy rain"], ["a dog runs"]]
    lengths = {text: len(segments.encode(text)) for row in rows for text in row}
    draws = [TokenMasking(share=0.6, generator=torch.Generator().manual_seed(2)) for _ in range(2)]
    plain = segments.encode_rows(rows, cells=2).tokens_BKLE[0]
    text = segments.encode_rows(rows, cells=2, masking=draws[0])
    assert text.tokens_BKLE.shape == (1, 2, *plain.shape[1:])
    assert text.valid_BKL.all()
    for number, kept_L in enumerate(kept_tokens(rows, 2, lengths, draws[1])):
        found_LE, count = text.tokens_BKLE[0, number], int(kept_L.sum())
        assert 0 < count < len(kept_L)
        assert torch.equal(found_LE[:count], plain[number, : len(kept_L)][kept_L])
        assert not found_LE[count:].any()


def test_a_text_that_wan_cannot_read_whole_is_refused(backbone: WanBackbone) -> None:
    with pytest.raises(PromptError, match="Wan reads 512"):
        backbone.parts.segments.encode_rows([["rain " * 600]], cells=1)
    with pytest.raises(PromptError, match="Wan reads 512"):
        backbone.parts.segments.encode_rows([["dog " * 150, "rain " * 150]], cells=1)


def test_cleaning_equals_the_pipelines_own() -> None:
    from diffusers.pipelines.wan.pipeline_wan import prompt_clean

    for text in ("a \t b\n\nc", "&lt;b&gt; &amp;amp;", "schÃ¶n", "“quoted” …", ""):
        assert clean_text(text) == prompt_clean(text)


def clip(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, 3, FRAMES, HEIGHT, WIDTH, generator=generator) * 2 - 1


def test_latents_and_clips_equal_the_autoencoders_own(backbone: WanBackbone, pipeline: Any) -> None:
    video, vae = clip(1), pipeline.vae
    latents = backbone.encode(video)
    mean = torch.tensor(vae.config.latents_mean).reshape(1, 4, 1, 1, 1)
    spread = torch.tensor(vae.config.latents_std).reshape(1, 4, 1, 1, 1)
    with torch.no_grad():
        expected = (vae.encode(video).latent_dist.mode() - mean) / spread
        shown = vae.decode(latents * spread + mean).sample
    torch.testing.assert_close(latents, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(backbone.decode(latents), shown.clamp(-1, 1), rtol=0, atol=1e-5)
    assert latents.shape == (2, 4, 2, 4, 6)


def test_large_clips_are_decoded_in_tiles(backbone: WanBackbone, monkeypatch: Any) -> None:
    vae, calls = backbone.parts.vae, []
    original = vae.tiled_decode
    monkeypatch.setattr(
        vae, "tiled_decode", lambda *a, **k: (calls.append(1), original(*a, **k))[1]
    )
    small, large = torch.zeros(1, 4, 1, 8, 8), torch.zeros(1, 4, 1, 40, 40)
    backbone.decode(small)
    assert not calls
    assert backbone.decode(large).shape[-2:] == (320, 320)
    assert calls


def test_text_to_video_equals_the_pipeline(backbone: WanBackbone, pipeline: Any) -> None:
    """The same noise, times and guidance, one cell: the same pixels."""
    expected = pipeline_frames(pipeline, steps=4, guidance=3.0)
    found = our_frames(backbone, steps=4, guidance=3.0)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)
    assert expected.std() > 0.01


def spoilt(wan_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(wan_folder, tmp_path / "copy"))


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_other_families_are_refused_by_name(wan_folder: Path, tmp_path: Path) -> None:
    folder = spoilt(wan_folder, tmp_path)
    change(folder / "model_index.json", _class_name="LTXPipeline")
    with pytest.raises(WeightsError, match="holds a LTXPipeline, not a WanPipeline"):
        read_checkout(folder)
    change(folder / "model_index.json", _class_name="WanPipeline",
           transformer_2=["diffusers", "WanTransformer3DModel"])  # fmt: skip
    with pytest.raises(WeightsError, match="two transformers"):
        read_checkout(folder)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda f: (f / "vae/config.json").write_text("{"), "is not JSON"),
        (lambda f: (f / "vae/config.json").write_text("[]"), "is not a table"),
        (lambda f: (f / "scheduler/scheduler_config.json").unlink(), "cannot read"),
        (lambda f: next((f / "transformer").glob("*.safetensors")).unlink(), "no safetensors"),
        (
            lambda f: next((f / "vae").glob("*.safetensors")).rename(f / "vae/weights.bin"),
            "weights.bin is a pickle",
        ),
    ],
)
def test_damaged_checkouts_name_the_file(
    wan_folder: Path, tmp_path: Path, damage: Any, told: str
) -> None:
    folder = spoilt(wan_folder, tmp_path)
    damage(folder)
    with pytest.raises(WeightsError, match=told):
        read_checkout(folder)


def test_a_missing_shard_is_named(wan_folder: Path, tmp_path: Path) -> None:
    folder = spoilt(wan_folder, tmp_path)
    diffusers.WanTransformer3DModel.from_pretrained(folder / "transformer").save_pretrained(
        folder / "sharded", max_shard_size="20KB"
    )
    shutil.rmtree(folder / "transformer")
    (folder / "sharded").rename(folder / "transformer")
    shards = read_checkout(folder).files["transformer"]
    assert len(shards) > 1
    load_wan(read_checkout(folder), device="cpu", dtype=torch.float32)
    shards[1].unlink()
    with pytest.raises(
        WeightsError, match=f"1 of {len(shards)} shards are missing, {shards[1].name}"
    ):
        read_checkout(folder)


def test_half_a_download_and_numbers_that_are_not_finite(wan_folder: Path, tmp_path: Path) -> None:
    folder = spoilt(wan_folder, tmp_path)
    (weights,) = read_checkout(folder).files["transformer"]
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match="cannot load"):
        load_wan(read_checkout(folder), device="cpu", dtype=torch.float32)
    model = diffusers.WanTransformer3DModel.from_pretrained(wan_folder / "transformer")
    model.blocks[1].attn1.to_q.bias.data[3] = float("nan")
    model.save_pretrained(folder / "transformer")
    with pytest.raises(WeightsError, match=r"blocks\.1\.attn1\.to_q\.bias holds numbers"):
        load_wan(read_checkout(folder), device="cpu", dtype=torch.float32)


def load_and_read(folder: Path, offload: Offload) -> None:
    """From the disk the text encoder is read when it is needed."""
    backbone = load_wan(read_checkout(folder), device="cpu", dtype=torch.float32, offload=offload)
    with backbone.parts.residence.on("text"):
        pass


@pytest.mark.parametrize("offload", ["none", "disk"])
@pytest.mark.parametrize("part", ["transformer", "text_encoder", "vae"])
@pytest.mark.parametrize(
    ("spoil", "told"), [("cut", "cannot load"), ("short", "has no"), ("nan", "not finite")]
)
def test_damage_of_every_part_is_told_and_not_made_up_for(
    wan_folder: Path, tmp_path: Path, part: str, spoil: str, told: str, offload: Offload
) -> None:
    folder = spoilt(wan_folder, tmp_path)
    (path,) = read_checkout(folder).files[part]
    if spoil == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        tensors = load_file(path)
        name = max(tensors, key=lambda key: tensors[key].numel())
        spoilt_tensor = tensors.pop(name)
        if spoil == "nan":
            tensors[name] = spoilt_tensor.fill_(float("nan"))
        save_file(tensors, path, {"format": "pt"})
    with pytest.raises(WeightsError, match=told):
        load_and_read(folder, offload)


@pytest.mark.parametrize("offload", ["none", "disk"])
def test_a_checkout_without_tokenizer_is_told(
    wan_folder: Path, tmp_path: Path, offload: Offload
) -> None:
    folder = spoilt(wan_folder, tmp_path)
    shutil.rmtree(folder / "tokenizer")
    with pytest.raises(WeightsError, match=f"{folder} has no tokenizer"):
        load_wan(read_checkout(folder), device="cpu", dtype=torch.float32, offload=offload)


@pytest.mark.parametrize(
    ("part", "key"), [("transformer", "ffn_dim"), ("text_encoder", "d_ff"), ("vae", "base_dim")]
)
@pytest.mark.parametrize("offload", ["none", "disk"])
def test_a_config_of_another_width_is_told(
    wan_folder: Path, tmp_path: Path, part: str, key: str, offload: Offload
) -> None:
    folder = spoilt(wan_folder, tmp_path)
    path = folder / part / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, key: 2 * config[key]}))
    with pytest.raises(WeightsError):
        load_wan(read_checkout(folder), device="cpu", dtype=torch.float32, offload=offload)


@pytest.mark.parametrize("offload", ["none", "model", "disk"])
def test_tags_are_read_as_training_reads_them(wan_folder: Path, offload: Offload) -> None:
    backbone = load_wan(
        read_checkout(wan_folder), device="cpu", dtype=torch.float32, offload=offload
    )
    text = "a [Rex] runs"
    segments = (Segment(start=0, end=len(text), cell=None),)
    prompt = Prompt(text=text, segments=segments)
    plain = backbone.encode_text([prompt], [[[True]]]).tokens_BKLE
    facts = read_checkout(wan_folder)
    reader = load_trunk(facts, device=torch.device("cpu"), dtype=torch.float32)[1]
    row_E = torch.randn(1, reader.tag_width, generator=torch.Generator().manual_seed(0))
    tags = TagTable(names=("Rex",), embeddings_GE=row_E)
    reader.put_tags(tags)
    backbone.use_tags(tags)
    found = backbone.encode_text([prompt], [[[True]]]).tokens_BKLE
    expected = reader.read_rows([[text]], cells=1).tokens_BKLE
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert not torch.allclose(found, plain)
    other = Prompt(text="a dog", segments=(Segment(start=0, end=5, cell=None),))
    bare = backbone.parts.segments
    with backbone.parts.residence.on("text"):
        same = bare.encode_rows([["a dog"]], cells=1).tokens_BKLE
    assert torch.equal(backbone.encode_text([other], [[[True]]]).tokens_BKLE, same)
