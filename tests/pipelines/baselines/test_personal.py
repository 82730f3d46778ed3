"""Methods that learn a clip: the same for the same seed, and the base is left as it was."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import nn

from dcgrid.adapters.attach import routed_layers
from dcgrid.errors import DeviceError, UsageError
from dcgrid.io.progress import NullProgress
from dcgrid.models.registry import find_model
from dcgrid.models.trainable import trainable
from dcgrid.pipelines.baselines import dreambooth, dreammix, sdedit, set_and_sequence
from dcgrid.pipelines.baselines.cells import Steps
from dcgrid.pipelines.baselines.personal import (
    ADAPTER,
    Example,
    LearnSettings,
    Student,
    adapter_on,
    learn,
    still_frames,
)
from dcgrid.pipelines.baselines.set_and_sequence import Course
from tests.pipelines.baselines.cases import opened, request

LEARNING = LearnSettings(steps=3, learning_rate=4e-3, rank=4, noise_share=0.3)
METHODS = (dreambooth, dreammix, set_and_sequence)


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in METHODS:
        for name in ("MINI", "SETTINGS"):
            monkeypatch.setattr(module, name, short(getattr(module, name)))


def short(chosen):
    """Return settings of a few steps."""
    parts = ("learning", "set_learning", "sequence_learning")
    few = {name: replace(getattr(chosen, name), steps=3) for name in parts if hasattr(chosen, name)}
    rest = {"prior_steps": 2} if hasattr(chosen, "prior_steps") else {}
    return replace(chosen, **few, **rest)


@contextmanager
def student_of(backbone) -> Iterator[Student]:
    yield Student(clip=opened(backbone), networks=trainable(backbone))


def weights(backbone) -> dict[str, torch.Tensor]:
    return {
        f"{number}.{name}": tensor.clone()
        for number, module in enumerate(backbone.parts.modules())
        for name, tensor in module.state_dict().items()
    }


def assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert list(found) == list(wanted)
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("method", METHODS)
def test_the_base_is_the_same_bit_for_bit_afterwards(method):
    backbone = find_model("tiny").load()
    asked = request(backbone)
    before, modules = weights(backbone), dict(backbone.network.named_modules())
    edit = sdedit.generate(backbone, asked, NullProgress())
    chance = torch.get_rng_state()
    made = method.generate(backbone, asked, NullProgress())
    assert torch.equal(torch.get_rng_state(), chance)
    assert_same(weights(backbone), before)
    after = dict(backbone.network.named_modules())
    assert list(after) == list(modules)
    assert all(after[name] is module for name, module in modules.items())
    assert not any(p.requires_grad for part in backbone.parts.modules() for p in part.parameters())
    assert not any(
        module.training for part in backbone.parts.modules() for module in part.modules()
    )
    # Another edit of the same process sees no trace of it, and it did generate something else.
    again = sdedit.generate(backbone, asked, NullProgress())
    for cell, clip_THWC in edit.items():
        assert torch.equal(clip_THWC, again[cell])
        assert not torch.equal(clip_THWC, made[cell])


@pytest.mark.parametrize("method", METHODS)
def test_an_error_on_the_way_leaves_the_base_as_it_was(method):
    class Breaks(NullProgress):
        def update(self, done: int, total: int | None = None) -> None:
            if self.stage == "training on the clip" and done == 2:
                raise KeyboardInterrupt

        def start(self, stage: str, total: int | None = None, *, in_bytes: bool = False) -> None:
            self.stage = stage

    backbone = find_model("tiny").load()
    before = weights(backbone)
    with pytest.raises(KeyboardInterrupt):
        method.generate(backbone, request(backbone), Breaks())
    assert_same(weights(backbone), before)
    assert not any(module.training for module in backbone.network.modules())


@pytest.mark.parametrize("method", METHODS)
def test_same_seed_same_pixels(method):
    asked = [request(find_model("tiny").load(), seed=seed) for seed in (3, 3, 4)]
    first, again, other = (
        method.generate(find_model("tiny").load(), one, NullProgress()) for one in asked
    )
    for cell, clip_THWC in first.items():
        assert torch.equal(clip_THWC, again[cell])
        assert not torch.equal(clip_THWC, other[cell])


def mean_loss(student: Student, text: str) -> float:
    example = Example(latents_BKCFYX=student.clip.latents_BKCFYX, text=text)
    with torch.no_grad():
        losses = [
            student.loss(example, torch.Generator().manual_seed(seed), 0.3) for seed in range(24)
        ]
    return float(torch.stack(losses).mean())


def test_set_and_sequence_masks_single_tokens_of_checkouts_texts(monkeypatch):
    assert (set_and_sequence.SETTINGS.text_masking, set_and_sequence.MINI.text_masking) == (0.1, 0)
    chosen = replace(set_and_sequence.MINI, text_masking=0.5, caption_dropout=0.0, prior_share=0.0)
    with student_of(find_model("tiny").load()) as student:
        course = Course.of(student, chosen, NullProgress())
        draw, generator = course.sequence_examples(), torch.Generator().manual_seed(0)
        reader, counts = student.networks.text, []
        read = reader.read_rows

        def watched(rows, cells, masking=None):
            text = read(rows, cells, masking)
            counts.append(int(text.valid_BKL.sum()) / int(read(rows, cells).valid_BKL.sum()))
            return text

        monkeypatch.setattr(reader, "read_rows", watched)
        with torch.no_grad():
            for _ in range(30):
                student.loss(draw(generator), generator)
    assert sum(counts) / len(counts) == pytest.approx(0.5, abs=0.15)
    assert min(counts) > 0
    assert len(set(counts)) > 3


def test_dreambooths_lora_lowers_the_loss_on_the_clip():
    chosen = replace(dreambooth.MINI, learning=replace(LEARNING, steps=60, rank=8))
    with student_of(find_model("tiny").load()) as student:
        text = f"sks {student.clip.text}"
        draw = dreambooth.examples(student.clip, chosen, NullProgress())
        before = mean_loss(student, text)
        with adapter_on(student, chosen.learning) as parameters:
            assert mean_loss(student, text) == before  # a fresh one changes nothing
            steps = Steps(NullProgress(), "training on the clip", 60)
            losses = learn(student, [(parameters, 4e-3)], draw, chosen.learning, steps)
            after = mean_loss(student, text)
        assert len(losses) == 60
        assert after < 0.9 * before
        assert mean_loss(student, text) == before


def sides(network: nn.Module) -> dict[str, dict[str, torch.Tensor]]:
    found: dict[str, dict[str, torch.Tensor]] = {"A1": {}, "B1": {}, "B2": {}}
    for place, layer in routed_layers(network):
        inside = layer.lora_A[ADAPTER]
        found["A1"][place] = layer.up_weight(ADAPTER).detach().clone()
        found["B1"][place] = inside.appearance_in.detach().clone()
        found["B2"][place] = inside.motion_in.detach().clone()
    return found


def test_the_second_stage_leaves_a1_and_b1_alone_and_the_first_b2():
    backbone = find_model("tiny").load()
    chosen = set_and_sequence.MINI
    networks = trainable(backbone)
    with student_of(backbone) as student:
        tags = networks.text.add_tags(("v", "u"))
        course = Course.of(student, chosen, NullProgress())
        with adapter_on(student, chosen.set_learning, "structured"):
            fresh = sides(backbone.network)
            course.learn("appearance", tags[:1], Steps(NullProgress(), "", 3))
            middle, look = sides(backbone.network), tags[0].detach().clone()
            assert look.abs().max() > 0
            assert not tags[1].any()
            assert_same(middle["B2"], fresh["B2"])
            # What looks from cell to cell learns nothing from a single one.
            assert any(not torch.equal(middle["A1"][n], t) for n, t in fresh["A1"].items())
            course.learn("motion", tags[1:], Steps(NullProgress(), "", 3))
            last = sides(backbone.network)
        assert_same(last["A1"], middle["A1"])
        assert_same(last["B1"], middle["B1"])
        assert any(tensor.abs().max() > 0 for tensor in last["B2"].values())
        assert torch.equal(tags[0], look)
        assert tags[1].abs().max() > 0


def test_lessons_are_the_clip_its_frames_and_clips_of_the_base():
    backbone = find_model("tiny").load()
    clip = opened(backbone)
    pictures = still_frames(clip)
    assert pictures.shape == (5, 1, *clip.latents_BKCFYX.shape[2:3], 1, *pictures.shape[4:])
    # The first latent frame of a causal codec is that of the picture alone.
    assert torch.allclose(pictures[0, 0, :, 0], clip.latents_BKCFYX[0, 0, :, 0], atol=1e-4)

    mixed = dreammix.examples(clip, replace(dreammix.MINI, batch=2))
    generator = torch.Generator().manual_seed(0)
    drawn = [mixed(generator) for _ in range(40)]
    shapes = {(len(one.latents_BKCFYX), one.latents_BKCFYX.shape[3]) for one in drawn}
    assert shapes == {(2, 1), (1, clip.latents_BKCFYX.shape[3])}
    assert {one.text for one in drawn} == {f"sks {clip.text}"}

    chosen = replace(dreambooth.MINI, prior_share=0.2, caption_dropout=0.0)
    booth = dreambooth.examples(clip, chosen, NullProgress())
    drawn = [booth(generator) for _ in range(40)]
    own = [one for one in drawn if one.text.startswith("sks ")]
    assert all(torch.equal(one.latents_BKCFYX, clip.latents_BKCFYX) for one in own)
    prior = [one for one in drawn if one.text == clip.text]
    assert 0 < len(prior) < len(own)
    assert not any(torch.equal(one.latents_BKCFYX, clip.latents_BKCFYX) for one in prior)
    half = replace(chosen, prior_share=0.0, caption_dropout=0.5)
    plain = dreambooth.examples(clip, half, NullProgress())
    drawn = [plain(generator) for _ in range(40)]
    assert {one.text for one in drawn} == {"", f"sks {clip.text}"}
    assert all(torch.equal(one.latents_BKCFYX, clip.latents_BKCFYX) for one in drawn)


def test_a_loss_that_is_no_number_is_told():
    with student_of(find_model("tiny").load()) as student:
        bad = Example(latents_BKCFYX=student.clip.latents_BKCFYX * float("nan"), text="")
        steps = Steps(NullProgress(), "", 3)
        with adapter_on(student, LEARNING) as parameters, pytest.raises(DeviceError, match="nan"):
            learn(student, [(parameters, 1e-3)], lambda _: bad, LEARNING, steps)


@pytest.mark.parametrize("method", METHODS)
def test_a_wan_checkout_learns_too_and_is_left_as_it_was(wan_folder, method):
    backbone = find_model(str(wan_folder)).load()
    before = {n: t.clone() for n, t in backbone.network.state_dict().items()}
    asked = request(backbone, num_inference_steps=2)
    made = method.generate(backbone, asked, NullProgress())
    assert list(made) == [1, 2, 3]
    assert_same(dict(backbone.network.state_dict()), before)


def test_a_checkout_whose_weights_are_away_is_refused(wan_folder):
    from dcgrid.models.model import Placement

    backbone = find_model(str(wan_folder)).load(placement=Placement(offload="block"))
    with pytest.raises(UsageError, match="cannot be learnt") as told:
        dreambooth.generate(backbone, request(backbone), NullProgress())
    assert "--offload none" in told.value.hint
