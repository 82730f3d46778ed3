"""Captions: what a cell of a training grid reads is what the same cell reads in `edit`."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dcgrid.models.base import cell_texts
from dcgrid.models.native.presets import MINI_SPEC
from dcgrid.models.native.text import WordTokenizer
from dcgrid.pipelines.job import ComposeJob, EditJob
from dcgrid.pipelines.resolve import resolve
from dcgrid.pipelines.sampling import grid_request, visible_rows
from dcgrid.recipes import effect_names, load_effect, load_layout
from dcgrid.synthetic.effects import EFFECT_NAMES
from dcgrid.synthetic.world_clips import MOTIONS
from dcgrid.train.data.captions import Captions, cell_rows, world_captions
from dcgrid.train.data.variants import VariantSet


@pytest.fixture(scope="module")
def captions():
    effects = [load_effect(n) for n in EFFECT_NAMES]
    return Captions(
        effects, load_layout("edit-2x2"), load_layout("composition-2x2"), own_clause_only=True
    )


def variants(*effects):
    return VariantSet(
        latents_VCFYX=torch.zeros(len(effects), 1, 1, 1, 1),
        drift_VMFYX=torch.zeros(5, 0, 1, 1, 1),
        effects=effects,
        subject="dog face",
        motion="gesture",
    )


def clauses_of(effect):
    recipe = load_effect(effect)
    return {recipe.clause, *recipe.phrases}


def test_each_cell_reads_the_global_text_and_its_own_clause_only(captions):
    effects = ("", "rain", "night", "noir", "snow")
    generator = torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(60):
        chosen = torch.randperm(5, generator=generator)[:4].tolist()
        rows = captions.grid_rows(variants(*effects), chosen, generator)
        assert len(rows) == 4
        shared = set(rows[0]) & set(rows[1])
        assert len(shared) == 1, "one global segment"
        assert shared < set(rows[2])
        assert shared < set(rows[3])
        for place, (variant, row) in enumerate(zip(chosen, rows, strict=True)):
            own = " ".join(text for text in row if text not in shared)
            cell = captions.layout.cells[place]
            assert f"[{cell}]" in own
            others = [c for c in captions.layout.cells if c != cell]
            assert not any(f"[{other}]" in own for other in others)
            whole = " ".join(row).lower()
            for other, effect in enumerate(effects):
                if not effect:
                    continue
                told = any(
                    clause.lower().rstrip(".") in own.lower() for clause in clauses_of(effect)
                )
                assert told == (other == variant), (own, effect)
                assert other == variant or load_effect(effect).clause.lower() not in whole
            if not effects[variant]:
                assert captions.layout.slots["scene"] in own
            seen.add("dog face" in whole)
    assert seen == {True, False}, "the subject is named sometimes"


def test_single_clips_have_one_text(captions):
    generator = torch.Generator().manual_seed(1)
    texts = {captions.clip_row(variants("", "rain"), 1, generator)[0] for _ in range(40)}
    assert all(any(t.endswith(c) for c in clauses_of("rain")) for t in texts)
    assert any(t.startswith("dog face gesture") for t in texts)
    assert len(texts) > 5
    assert "rain" not in captions.clip_row(variants("", "rain"), 0, generator)[0]


def test_same_generator_same_captions(captions):
    rows = [
        captions.grid_rows(variants("", "fog", "rain", "noir"), [0, 1, 2, 3], generator)
        for generator in (torch.Generator().manual_seed(7), torch.Generator().manual_seed(7))
    ]
    assert rows[0] == rows[1]


def test_every_rendered_effect_is_shipped_and_the_other_way_round():
    assert sorted(EFFECT_NAMES) == sorted(effect_names())


def test_vocabulary_covers_every_shipped_phrase_and_caption(captions):
    tokenizer = WordTokenizer(captions.vocabulary(["dog face", "hot air balloon"]))
    for name in effect_names():
        effect = load_effect(name)
        for text in (effect.clause, effect.negative, effect.title, *effect.phrases):
            assert tokenizer.unknown_words(text) == (), (name, text)
    for text in (*MOTIONS, "dog face", "hot air balloon", *captions.layout.slots.values()):
        assert tokenizer.unknown_words(text) == ()
    generator = torch.Generator().manual_seed(3)
    rows = captions.grid_rows(variants("", "rain", "night", "fog"), [3, 1, 0, 2], generator)
    assert all(tokenizer.unknown_words(text) == () for row in rows for text in row)
    assert tokenizer.unknown_words("zeppelin") == ("zeppelin",)


def test_a_moved_cell_says_so_before_its_effect(captions):
    moved = replace(variants("", "rain", ""), moves=("", "moved up", "moved near"))
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        plain, rain, near = (captions.clip_row(moved, i, generator)[0] for i in range(3))
        assert "moved" not in plain
        assert near.endswith("moved near")
        said = rain.partition(" moved up ")[2]
        assert said in clauses_of("rain")


@pytest.mark.parametrize("own_clause_only", [True, False])
@pytest.mark.parametrize(
    "job",
    [
        EditJob(input=Path("a.mp4"), effects=("rain", "night", "fog")),
        ComposeJob(first=Path("a.mp4"), second=Path("b.mp4")),
    ],
    ids=["edit", "compose"],
)
def test_training_reads_what_inference_reads(job, own_clause_only):
    grid = resolve(job)
    spec = replace(MINI_SPEC, own_clause_only=own_clause_only)
    clip = torch.zeros(5, 32, 32, 3, dtype=torch.uint8)
    request = grid_request(grid, spec, [clip] * len(grid.given))
    shown = cell_texts([request.grid.prompt], [visible_rows(request.grid, spec)])
    clauses = [None if i is None else grid.edits[i].clause or None for i in grid.edit_of_cell]
    rows = cell_rows(load_layout(job.layout), clauses, {}, own_clause_only=own_clause_only)
    assert rows == shown


def test_cells_of_the_paper_read_what_section_3_2_says():
    """Consistent: everything. Composition: A reads g, A; B reads g, B; fusions read all."""
    wide = world_captions(own_clause_only=False)
    generator = torch.Generator().manual_seed(0)
    rows = wide.grid_rows(variants("", "rain", "night", "fog"), (0, 1, 2, 3), generator)
    assert rows == [rows[0]] * 4
    assert [text.split("]")[0] for text in rows[0][1:]] == [f"[{c}" for c in wide.layout.cells]
    fused = replace(variants("", "", "", ""), element="sparks")
    rows = wide.grid_rows(fused, (0, 1, 2, 3), generator)
    whole, a, b, *out = rows[2]
    assert rows == [[whole, a], [whole, b], [whole, a, b, *out], [whole, a, b, *out]]
    # A single clip has no other cells: its own clause alone.
    assert wide.clip_row(fused, 2, generator)[0].startswith("[BOTTOM LEFT]")
    assert len(wide.clip_row(fused, 2, generator)) == 1
