"""docs/prompt-language.md says what is true: each example in it renders as shown."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from dcgrid import prompts, recipes
from dcgrid.errors import DcgridError, PromptError
from dcgrid.prompts import parser
from dcgrid.prompts.template import FILTERS

PAGE = (Path(__file__).parents[2] / "docs" / "prompt-language.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+) ?(.*?)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
LABEL = re.compile(r"^(Template|Result|Error|[a-zA-Z]+):\s+", re.MULTILINE)


def blocks(kind):
    return [(arguments, body) for name, arguments, body in BLOCKS if name == kind]


def arguments_of(text):
    return dict(re.findall(r'(\w+)="(.*?)"', text))


def layout_of(template, shape, slots):
    rows, cols = (int(side) for side in shape.split("x"))
    return SimpleNamespace(
        rows=rows,
        cols=cols,
        cells=prompts.cell_names(rows, cols),
        template=template,
        template_place=None,
        slots=slots,
    )


@pytest.mark.parametrize(("arguments", "body"), blocks("template"))
def test_template_renders_as_shown(arguments, body):
    slots = arguments_of(arguments)
    template, shown = body.removeprefix("Template: ").rstrip("\n").split("\nResult:   ")
    if "grid" not in slots:
        known = {"place": "", "motion": "", "identity": "", **slots}
        assert prompts.render_text(template, known) == shown
        return
    clauses = [clause.strip() or None for clause in slots.pop("clauses").split(";")]
    prompt = prompts.render_grid(layout_of(template, slots.pop("grid"), slots), {}, clauses)
    result, *owned = shown.split("\n")
    assert prompt.text == result
    names = {None: "global", **dict(enumerate(prompts.cell_names(1, 3)))}
    lines = [f"{names[s.cell] + ':':<10}{prompt.segment_text(s)}" for s in prompt.segments]
    assert lines == owned


@pytest.mark.parametrize(("arguments", "body"), blocks("error"))
def test_error_reads_as_shown(arguments, body):
    template, shown = body.removeprefix("Template: ").rstrip("\n").split("\nError:    ")
    with pytest.raises(PromptError) as raised:
        prompts.render_text(template, arguments_of(arguments))
    assert raised.value.message == shown


def filter_rows():
    rows = [line for line in PAGE.split("\n") if re.match(r"\| `\w+` \|", line)]
    return [
        (cells[0].strip("`"), cells[2].strip("`"), cells[3].strip("`"))
        for cells in ([cell.strip() for cell in row.strip("|").split("|")] for row in rows)
    ]


@pytest.mark.parametrize(("name", "value", "shown"), filter_rows())
def test_filter_does_as_shown(name, value, shown):
    assert prompts.render_text(f"{{value | {name}}}", {"value": value}) == shown


def test_page_has_every_filter_keyword_and_example():
    assert {name for name, _, _ in filter_rows()} == set(FILTERS)
    grammar = dict.fromkeys(re.findall(r'"([a-z]+)"', blocks("ebnf")[0][1]))
    assert set(grammar) == set(FILTERS) | parser.KEYWORDS
    assert len(blocks("template")) >= 5
    assert len(blocks("error")) >= 5
    numbers = {"20,000", "16 blocks", "64 cells"}
    assert all(number in PAGE for number in numbers)


@pytest.mark.parametrize(("arguments", "body"), blocks("toml"))
def test_recipe_on_the_page_loads_and_renders(arguments, body, tmp_path):
    kind, name = arguments.split("=")
    path = tmp_path / f"{name}.toml"
    path.write_text(body, encoding="utf-8")
    if kind == "effect":
        effect = recipes.load_effect(path)
        text = prompts.render_text(effect.clause, dict.fromkeys(recipes.EFFECT_SLOTS))
        assert text == "in a thunderstorm, everything lit by flashes of lightning"
        assert effect.sampler.noise_scale == 1.8
        assert all(slot in PAGE for slot in recipes.EFFECT_SLOTS)
    else:
        prompt = prompts.render_grid(recipes.load_layout(path), {}, [None, "in the rain."])
        assert "[MIDDLE] The subject in the rain." in prompt.text


def test_recipe_error_reads_as_shown(tmp_path):
    (_, body) = next(block for block in blocks("toml") if block[0] == "effect=storm")
    path = tmp_path / "storm.toml"
    changed = re.sub(r"deterministic = false.*", "determinstic = false", body)
    path.write_text(changed, encoding="utf-8")
    with pytest.raises(DcgridError) as raised:
        recipes.load_effect(path)
    shown = PAGE.rstrip().split("```\n")[-1].removesuffix("\n```")
    assert shown.startswith("storm.toml:4:1: ")
    assert shown in raised.value.message
