"""What the ablations compare: texts, regions, leaks, and the table that comes of the figures."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from benchmarks.ablations.data import FixedPool, mean_figures, region_db
from benchmarks.ablations.measure import leak
from benchmarks.ablations.moved import moved_figures
from benchmarks.ablations.report import report
from benchmarks.ablations.training import (
    adapters_of,
    load_networks,
    mask_words,
    put_multi_dc,
    recipe_of,
    shown_rows,
)
from benchmarks.ablations.variants import FILL, QUESTIONS, ROUTED, VARIANTS, Variant
from dcgrid.adapters.attach import adapter_names
from dcgrid.errors import UsageError
from dcgrid.train.settings import Phase

ROWS = [["whole", "a"], ["whole", "b"], ["whole", "c"], ["whole", "d"]]


def clip(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (3, 8, 8, 3), generator=generator).to(torch.uint8)


def named(name: str) -> Variant:
    return next(variant for variant in VARIANTS if variant.name == name)


def setting(variant: Variant) -> tuple[Variant, Variant]:
    """Return how a variant is used, and how its adapter was trained."""
    source = named(variant.trained_as or variant.name)
    return replace(variant, name="", trained_as=""), replace(source, name="")


def test_every_question_compares_two_variants_of_one_family_that_differ() -> None:
    for question in QUESTIONS:
        first, second = named(question.first), named(question.second)
        assert first.family == second.family
        assert setting(first) != setting(second)
    asked = {name for question in QUESTIONS for name in (question.first, question.second)}
    assert asked == {variant.name for variant in VARIANTS}
    assert len({variant.name for variant in VARIANTS}) == len(VARIANTS)


def test_cells_read_what_the_paper_lets_them_read() -> None:
    """Section 3.2: A reads g and A, B reads g and B, the fusions read g, A, B and their own."""
    assert shown_rows(ROWS, ROUTED) == [
        ["whole", "a"],
        ["whole", "b"],
        ["whole", "a", "b", "c"],
        ["whole", "a", "b", "d"],
    ]
    assert shown_rows(ROWS, named("naive")) == [["whole", "a", "b", "c", "d"]] * 4
    assert shown_rows(ROWS, FILL) == ROWS
    assert shown_rows(ROWS, named("joined"))[2] == ["whole c"]


def test_words_are_masked_before_the_encoder_once_for_all_cells() -> None:
    rows = [["w " * 500, "a b c d"], ["w " * 500, "e"]]
    masked = mask_words(rows, 0.6, torch.Generator().manual_seed(0))
    assert masked[0][0] == masked[1][0]
    # Three standard deviations of 500 draws are 0.066.
    assert len(masked[0][0].split()) / 500 == pytest.approx(0.4, abs=0.066)
    assert mask_words(rows, 0.0, torch.Generator())[0][1] == "a b c d"


def test_a_variant_differs_from_its_family_in_what_it_says_alone() -> None:
    base = recipe_of(FILL, 100, 1)
    for variant in VARIANTS:
        if variant.family == "fill":
            recipe = recipe_of(variant, 100, 1)
            same = replace(recipe, given="clean", given_first=False, loss=base.loss)
            assert same == base
            was, now = asdict(base.loss), asdict(recipe.loss)
            assert {key for key in was if was[key] != now[key]} == set(variant.loss)
    naive, routed = (
        adapters_of(named(name), 1, recipe_of(named(name), 100, 1), "")
        for name in ("naive", "routed-visible")
    )
    assert len(naive) == 1
    assert len(routed) == 2
    assert {spec.targets for spec in naive + routed} == {naive[0].targets}


def test_leak_is_none_for_the_clip_itself_all_for_the_fusion_and_linear_between() -> None:
    own, fused = clip(1), clip(2)
    assert leak(own, own, fused) == 0
    assert leak(fused, own, fused) == pytest.approx(1)
    own = own // 2 * 2
    half = (own.int() + (fused // 2 * 2).int()).div(2, rounding_mode="floor").to(torch.uint8)
    assert leak(half, own, fused // 2 * 2) == pytest.approx(0.5, abs=1e-2)


def test_regions_are_scored_apart() -> None:
    truth, alpha = torch.full((2, 4, 4, 3), 100, dtype=torch.uint8), torch.zeros(2, 4, 4)
    alpha[:, :2] = 1
    alpha[:, 2] = 0.3  # the edge belongs to neither
    found = truth.clone()
    found[:, :2] += 5
    found[:, 2] += 90
    found[:, 3] += 20
    figures = region_db(found, truth, alpha)
    assert figures["subject"] == pytest.approx(10 * math.log10(255**2 / 25))
    assert figures["outside"] == pytest.approx(10 * math.log10(255**2 / 400))
    assert figures["all"] < figures["outside"]
    assert "subject" not in region_db(found, truth, torch.zeros(2, 4, 4))


def moved_square(left: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A patterned square on grey, its left edge at a column, and where it is."""
    clip_THWC, there_THW = torch.full((2, 16, 32, 3), 90, dtype=torch.uint8), torch.zeros(2, 16, 32)
    pattern = torch.randint(256, (8, 8, 3), generator=torch.Generator().manual_seed(3))
    clip_THWC[:, 4:12, left : left + 8] = pattern.to(torch.uint8)
    there_THW[:, 4:12, left : left + 8] = 1
    return clip_THWC, there_THW


def test_a_copy_in_place_has_nothing_of_a_moved_subject() -> None:
    (before, was), (truth, now) = moved_square(2), moved_square(18)
    copied, right = (moved_figures(found, truth, was, now) for found in (before, truth))
    assert right == {"moved": right["left"], "left": right["left"], "identity": pytest.approx(1)}
    assert abs(copied["identity"]) < 1e-6
    assert copied["moved"] < 12
    assert copied["left"] < 12
    darker = moved_figures((truth.float() * 0.5 + 20).to(torch.uint8), truth, was, now)
    assert darker["identity"] == pytest.approx(1, abs=1e-3)
    assert darker["moved"] < right["moved"]


def test_regions_that_are_not_there_have_no_figure() -> None:
    clip_THWC, there_THW = moved_square(2)
    grown = torch.zeros_like(there_THW)
    grown[:, 3:13, 1:11] = 1
    assert set(moved_figures(clip_THWC, clip_THWC, there_THW, grown)) == {"moved", "identity"}


class OneVariantSet:
    """A pool whose every set is the same."""

    world = autoencoder = None

    def __init__(self, name: str) -> None:
        self.name = name

    def draw(self, phase: Phase, generator: torch.Generator, *, fresh: int) -> list[str]:
        return [self.name]


def test_a_share_of_the_draws_is_moved_and_none_changes_nothing() -> None:
    phase = Phase(until=1.0, frames=1, sizes=((8, 8),), batch=400)
    edits, moved = (FixedPool(OneVariantSet(n), 0, lambda _: None) for n in ("edit", "moved"))  # type: ignore[arg-type]
    assert edits.with_moved(moved, 0.0) is edits
    drawn = edits.with_moved(moved, 0.5).draw(phase, torch.Generator().manual_seed(1), fresh=0)
    assert 150 < drawn.count("moved") < 250  # type: ignore[arg-type]
    assert "moved" not in edits.draw(phase, torch.Generator().manual_seed(1), fresh=0)


def test_means_are_over_the_rows_that_have_a_figure() -> None:
    assert mean_figures([{"a": 1.0, "b": 4.0}, {"a": 3.0}]) == {"a": 2.0, "b": 4.0}


def write_figures(work: Path, name: str, seed: int, value: float, steps: int = 9) -> None:
    figures = {f"{region} {count}": value for region in ("subject", "outside") for count in (1, 6)}
    row = {"variant": name, "seed": seed, "steps": steps, "clips": 2, "figures": figures}
    (work / f"{name}-{seed}.json").write_text(json.dumps(row))


def test_the_table_has_means_spreads_and_differences_by_seed(tmp_path: Path) -> None:
    for seed, (one, other) in enumerate([(20.0, 21.0), (22.0, 22.5)]):
        write_figures(tmp_path, "fill", seed, one)
        write_figures(tmp_path, "given-first", seed, other)
    write_figures(tmp_path, "fill", 2, 99.0)  # has no partner yet
    text = report(tmp_path)
    assert "| given-first | 2 | 21.75 ± 1.06 |" in text
    line = next(line for line in text.splitlines() if "full attention" in line)
    assert "| subject 1 | 21.00 ± 1.41 | 21.75 ± 1.06 | +0.75 (+1.00, +0.50) |" in line
    assert "naive" not in text


def test_runs_of_different_length_are_not_put_together(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no figures"):
        report(tmp_path)
    write_figures(tmp_path, "fill", 0, 20.0)
    write_figures(tmp_path, "fill", 1, 20.0, steps=10)
    with pytest.raises(UsageError, match="different steps"):
        report(tmp_path)


def test_multi_dc_is_under_the_variant_that_is_trained_on_it_and_measured_both_ways() -> None:
    dropped, kept = named("multi-dc-dropped"), named("multi-dc-kept")
    assert kept.trained_as == dropped.name
    assert (dropped.multi_dc, kept.multi_dc) == (0.0, 1.0)
    recipe = recipe_of(dropped, 100, 1)
    (spec,) = adapters_of(dropped, 1, recipe, "")
    assert spec.dc_strength == recipe.loss.dc_strength == 1.0
    assert spec.dc_sha256
    (alone,) = adapters_of(FILL, 1, recipe_of(FILL, 100, 1), "")
    assert (alone.dc_strength, alone.dc_sha256) == (0.0, "")
    networks = load_networks()
    before = adapter_names(networks.dit)
    put_multi_dc(networks, 0.0)
    assert adapter_names(networks.dit) == before == []
    put_multi_dc(networks, 1.0)
    assert adapter_names(networks.dit) == ["dc"]
    assert not any(parameter.requires_grad for parameter in networks.dit.parameters())
