"""Hypothesis: no text does worse than a PromptError, and what renders has true segments."""

from types import SimpleNamespace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dcgrid.errors import PromptError
from dcgrid.prompts import cell_names, grid_problems, render_grid, render_text, text_problems

# The machine may be busy with a training run.
BUSY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
SLOTS = {"a": "a cat", "b": "", "long_name": "x [y] {z}"}
FILTERS = ("article", "bare", "capital", "lower", "tag")
# Pieces that meet in broken ways far more often than random characters do.
PIECES = st.sampled_from(
    [
        *("{", "}", "{{", "}}", "{a}", "{b}", "{if a}", "{if not b}", "{else}", "{end}", "{each}"),
        *('{in "LEFT"}', '{in "NO"}', "{cell}", "{clause}", "{grid}", '"', "\\", "|", " or ", "\n"),
        *('{b or "d" | tag}', "{a|capital|article}", "{zzz}", " ", "word", "\u00d7", "\U0001f408"),
    ]
)
MESSY = st.one_of(
    st.text(max_size=200),
    st.lists(PIECES, max_size=30).map("".join),
    st.text(alphabet='{}|"\\ \nabior', max_size=60),
)
VALUES = st.one_of(st.text(max_size=40), st.none())


def grid(template, cols=3):
    return SimpleNamespace(
        rows=1,
        cols=cols,
        cells=cell_names(1, cols),
        template=template,
        template_place=None,
        slots=SLOTS,
    )


def assert_segments_are_true(prompt, count):
    """Check without the renderer that every character but white space is owned once."""
    assert prompt.text == " ".join(prompt.text.split())
    end = 0
    for segment in prompt.segments:
        assert end <= segment.start < segment.end <= len(prompt.text)
        assert prompt.text[end : segment.start].strip() == ""
        assert prompt.segment_text(segment) == prompt.segment_text(segment).strip()
        assert segment.cell is None or 0 <= segment.cell < count
        end = segment.end
    assert prompt.text[end:].strip() == ""


@settings(BUSY, max_examples=400)
@given(MESSY, st.lists(VALUES, max_size=4), VALUES)
def test_any_text_renders_or_is_refused(template, clauses, value):
    try:
        prompt = render_grid(grid(template), {"a": value}, clauses)
    except PromptError:
        return
    assert_segments_are_true(prompt, 3)


@settings(BUSY, max_examples=300)
@given(MESSY, VALUES)
def test_any_text_is_checked_without_raising(template, value):
    found = [*grid_problems(grid(template)), *text_problems(template, list(SLOTS))]
    assert all(isinstance(problem, PromptError) for problem in found)
    try:
        text = render_text(template, {**SLOTS, "a": value})
    except PromptError:
        return
    assert text == " ".join(text.split())
    assert text_problems(template, list(SLOTS)) == []


SLOT_TAG = st.builds(
    lambda name, filters: "{" + " | ".join([f'{name} or "dflt"', *filters]) + "}",
    st.sampled_from([*SLOTS, "grid"]),
    st.lists(st.sampled_from(FILTERS), max_size=3),
)
WORDS = st.text(alphabet="abc XYZ.,[]\n\u00e9", max_size=12)
INNER = st.recursive(
    st.lists(st.one_of(WORDS, SLOT_TAG), max_size=3).map("".join),
    lambda body: st.builds(
        lambda sign, name, then, other: f"{{if {sign}{name}}}{then}{{else}}{other}{{end}}",
        st.sampled_from(["", "not "]),
        st.sampled_from(list(SLOTS)),
        body,
        body,
    ),
    max_leaves=6,
)
CELL_BODY = st.builds(lambda a, b: a + '[{cell}] {clause or "same"}' + b, INNER, INNER)
BLOCK = st.builds(
    lambda head, body: f"{{{head}}}{body}{{end}}",
    st.sampled_from(["each", 'in "LEFT"', 'in "MIDDLE"', 'in "RIGHT"']),
    CELL_BODY,
)
VALID = st.lists(st.one_of(INNER, BLOCK), min_size=1, max_size=5).map(lambda p: "".join(p) + "!")
CLEAN = st.text(alphabet="abc {}[]\n|\"'\u00d7", max_size=30)


@settings(BUSY, max_examples=300)
@given(VALID, CLEAN, st.lists(st.one_of(CLEAN, st.none()), max_size=3))
def test_valid_templates_render_with_true_segments(template, value, clauses):
    prompt = render_grid(grid(template), {"a": value}, clauses)
    assert_segments_are_true(prompt, 3)
    assert prompt == render_grid(grid(template), {"a": value}, clauses)
    # Each cell that a block names has words of its own, beginning inside its name or before it.
    owned = {segment.cell for segment in prompt.segments}
    for index, name in enumerate(cell_names(1, 3)):
        assert (index in owned) == ("{each}" in template or f'{{in "{name}"}}' in template)
