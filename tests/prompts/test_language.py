"""The language itself: what templates render to, and what each mistake says."""

import doctest
from types import SimpleNamespace

import pytest

from dcgrid.errors import PromptError
from dcgrid.prompts import (
    cell_names,
    grid_problems,
    render_grid,
    render_text,
    text_problems,
)
from dcgrid.prompts import template as template_module
from dcgrid.prompts.parser import MAX_NESTING, MAX_TEMPLATE
from dcgrid.prompts.template import MAX_CELLS, MAX_OUTPUT


def layout(template, *, rows=1, cols=2, place=None, **slots):
    return SimpleNamespace(
        rows=rows,
        cols=cols,
        cells=cell_names(rows, cols),
        template=template,
        template_place=place,
        slots=slots,
    )


@pytest.mark.parametrize(
    ("template", "slots", "expected"),
    [
        ("plain", {}, "plain"),
        ("{a}", {"a": "x"}, "x"),
        ("{{a}} }}{{", {}, "{a} }{"),
        ("{{{a}}}", {"a": "x"}, "{x}"),
        ("{ a\n| capital }", {"a": "x y"}, "X y"),
        ('{a or "none"}', {"a": ""}, "none"),
        ('{a or b or "none"}', {"a": " ", "b": "bee"}, "bee"),
        ('{a or "say \\"hi\\" \\\\"}', {"a": None}, 'say "hi" \\'),
        ('{a or ""}.', {"a": None}, "."),
        ("{if a}[{a}]{end}.", {"a": "x"}, "[x]."),
        ("{if a}[{a}]{end}.", {"a": ""}, "."),
        ("{if a}A{else}B{end}", {"a": ""}, "B"),
        ("{if not a}A{else}B{end}", {"a": ""}, "A"),
        ("{if a}{if b}both{else}a only{end}{end}", {"a": "1", "b": ""}, "a only"),
        ("  two\n\n  lines\t{a}  ", {"a": " and\nmore "}, "two lines and more"),
        ("{a}", {"a": "{b} {end} {{"}, "{b} {end} {{"),
        ("{a | bare}.", {"a": "in the rain."}, "in the rain."),
        ("{a | lower | capital | tag}", {"a": "MY Dog"}, "[My_dog]"),
        ("", {}, ""),
    ],
)
def test_text_renders(template, slots, expected):
    assert render_text(template, slots) == expected


@pytest.mark.parametrize(
    ("noun", "expected"),
    [
        ("cat", "a cat"),
        ("orange cat", "an orange cat"),
        ("hour glass", "an hour glass"),
        ("unicorn", "a unicorn"),
        ("uninvited guest", "an uninvited guest"),
        ("one-eyed man", "a one-eyed man"),
        ("the dog", "the dog"),
        ("an owl", "an owl"),
        ("My dog", "My dog"),
        ("Lincoln", "Lincoln"),
        ("two dogs", "two dogs"),
        ("3 dogs", "3 dogs"),
    ],
)
def test_article(noun, expected):
    assert render_text("{noun | article}", {"noun": noun}) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("a b", "[a_b]"), (" [x] ", "[x]"), ("", ""), ("[ ]", "")]
)
def test_tag(text, expected):
    assert render_text("{x or y | tag}", {"x": text, "y": "[]"}) == expected


# Each: template, slots, line, column, words of the message.
MISTAKES = [
    ("a } b", {}, 1, 3, "'}' closes nothing"),
    ("a\nb {", {}, 2, 3, "never closed"),
    ("{}", {}, 1, 2, "expected a slot's name or a string, found }"),
    ("{a b}", {"a": "x"}, 1, 4, "expected '}' at the end of a slot, found b"),
    ("{a ! b}", {"a": "x"}, 1, 4, "unexpected '!'"),
    ('{a or "x}', {"a": "x"}, 1, 7, "string is not closed"),
    ('{a or "x\\n"}', {"a": "x"}, 1, 7, "string is not closed"),
    ("{a or}", {"a": "x"}, 1, 6, "expected a slot's name or a string"),
    ("{a | }", {"a": "x"}, 1, 6, "expected a filter's name"),
    ("{a | captial}", {"a": "x"}, 1, 6, "unknown filter 'captial'; did you mean 'capital'?"),
    ("one\n  {subjct}", {"subject": "x"}, 2, 4, "slot 'subjct'; did you mean 'subject'?"),
    ("{if subjct}x{end}", {"subject": "x"}, 1, 5, "slot 'subjct'; did you mean 'subject'?"),
    ("{if a}x{ned}{end}", {"a": "x"}, 1, 9, "slot 'ned'; did you mean 'end'?"),
    ("{if a}x", {"a": "x"}, 1, 2, "this {if} has no {end}"),
    ("{if a}x{else}y", {"a": "x"}, 1, 2, "this {if} has no {end}"),
    ("{if a}x{else}y{else}z{end}", {"a": "x"}, 1, 16, "{else} belongs to no {if}"),
    ("{if}x{end}", {}, 1, 4, "expected a slot's name"),
    ("{if not}x{end}", {}, 1, 8, "expected a slot's name"),
    ("x{end}", {}, 1, 3, "{end} without a block"),
    ("{else}", {}, 1, 2, "{else} without a block"),
    ("{or}", {}, 1, 2, "'or' cannot begin a tag"),
    ("{each}x{end}", {}, 1, 1, "cell blocks belong to layout templates"),
    ("{cell}", {}, 1, 2, "only inside {each} and {in}"),
    ("{a}", {"a": " "}, 1, 1, "slot 'a' has no value"),
    ("bell \x07", {}, 1, 6, "control character U+0007"),
    ("\ud800", {}, 1, 1, "control character U+D800"),
]


@pytest.mark.parametrize(("template", "slots", "line", "column", "words"), MISTAKES)
def test_mistake_is_named_and_shown(template, slots, line, column, words):
    with pytest.raises(PromptError) as raised:
        render_text(template, slots)
    head, source_line, caret = raised.value.message.split("\n")
    assert head.startswith(f"template:{line}:{column}: ")
    assert words in head
    assert caret.index("^") - 4 == column - 1
    printable = "".join(c if c.isprintable() else " " for c in template.split("\n")[line - 1])
    assert source_line == "    " + printable


@pytest.mark.parametrize(
    ("template", "column", "words"),
    [
        ('{in "LEFTT"}x{end}', 5, "unknown cell 'LEFTT'; did you mean 'LEFT'?"),
        ("{in LEFT}x{end}", 5, "expected a cell's name in quotes"),
        ("{each}{each}x{end}{end}", 8, "a cell block inside a cell block"),
        ('{each}{if a}{in "LEFT"}x{end}{end}{end}', 14, "a cell block inside a cell block"),
        ("{each}x", 2, "this {each} has no {end}"),
        ("{each}x{else}y{end}", 9, "{else} belongs to no {if}"),
        ("{clause}", 2, "only inside {each} and {in}"),
        ("{if cell}x{end}", 5, "only inside {each} and {in}"),
        ("  ", 1, "renders to nothing"),
        ("{each}{clause}{end}", 7, "slot 'clause' has no value"),
    ],
)
def test_grid_mistake_is_named(template, column, words):
    with pytest.raises(PromptError) as raised:
        render_grid(layout(template, cols=3, a=""), {})
    assert raised.value.message.startswith(f"template:1:{column}: ")
    assert words in raised.value.message


def test_place_in_a_file_shifts_lines_and_the_first_column():
    place = SimpleNamespace(file="my.toml", line=10, column=13)
    with pytest.raises(PromptError, match=r"^my\.toml:10:15: "):
        render_text("x {", {}, place=place)
    with pytest.raises(PromptError, match=r"^my\.toml:11:2: "):
        render_text("x\n {", {}, place=place)


def test_caret_stays_in_a_window_on_a_long_line():
    with pytest.raises(PromptError) as raised:
        render_text("x" * 5000 + "{nope}" + "y" * 5000, {})
    _, line, caret = raised.value.message.split("\n")
    assert len(line) < 120
    assert line[caret.index("^") : caret.index("^") + 4] == "nope"
    assert caret.count("^") == 4


def test_cells_own_their_words_and_the_rest_is_global():
    template = 'All {grid}:{each}[{cell}] {clause or "same"}.{end} {in "RIGHT"}last{end} bye'
    prompt = render_grid(layout(template, cols=3), {}, ["one", None, "three"], negative=" a\nb ")
    assert prompt.text == "All 1×3: [LEFT] one. [MIDDLE] same. [RIGHT] three. last bye"  # noqa: RUF001
    owned = [(segment.cell, prompt.segment_text(segment)) for segment in prompt.segments]
    assert owned == [
        (None, "All 1×3:"),  # noqa: RUF001
        (0, "[LEFT] one."),
        (1, "[MIDDLE] same."),
        (2, "[RIGHT] three. last"),
        (None, "bye"),
    ]
    assert prompt.negative == "a b"


def test_clause_is_plain_text():
    prompt = render_grid(layout("{each}{clause}{end}"), {}, ["{if x}", "}} [LEFT] {cell}"])
    assert prompt.text == "{if x} }} [LEFT] {cell}"
    assert [segment.cell for segment in prompt.segments] == [0, 1]


def test_none_leaves_the_default_and_a_value_replaces_it():
    grid = layout("{a}{if b} {b}{end}", a="A", b="")
    assert render_grid(grid, {"a": None, "unknown": None}).text == "A"
    assert render_grid(grid, {"a": "x", "b": "y"}).text == "x y"
    with pytest.raises(PromptError, match="no slot 'aa'; did you mean 'a'"):
        render_grid(layout("{a}", a="A"), {"aa": "x"})


@pytest.mark.parametrize("value", ["\x00", "a\x1bb", "\udc80"])
def test_unprintable_values_are_refused(value):
    for call in (
        lambda: render_text("{a}", {"a": value}),
        lambda: render_grid(layout("{a}", a="x"), {"a": value}),
        lambda: render_grid(layout("x"), {}, [value]),
        lambda: render_grid(layout("x"), {}, negative=value),
    ):
        with pytest.raises(PromptError, match="control character"):
            call()


def test_too_many_clauses():
    with pytest.raises(PromptError, match="3 clauses for a grid of 2 cells"):
        render_grid(layout("x"), {}, ["a", "b", "c"])


def test_bounds():
    with pytest.raises(PromptError, match="at most 20000"):
        render_text("x" * (MAX_TEMPLATE + 1), {})
    with pytest.raises(PromptError, match="at most 20000"):
        render_text("{a}", {"a": "x" * (MAX_OUTPUT + 1)})
    with pytest.raises(PromptError, match="grows past 20000"):
        render_text("{a}{a}", {"a": "x" * (MAX_OUTPUT // 2 + 1)})
    assert len(render_text("{a}{a}", {"a": "x" * (MAX_OUTPUT // 2)})) == MAX_OUTPUT
    grid = layout("{each}{a}{end}", rows=8, cols=8, a="x" * 1000)
    with pytest.raises(PromptError, match="grows past"):
        render_grid(grid, {})
    grid.cells = ("A",) * (MAX_CELLS + 1)
    with pytest.raises(PromptError, match="at most 64 cells"):
        render_grid(grid, {})


def test_nesting_is_bounded():
    def nested(depth):
        return "{if a}" * depth + "x" + "{end}" * depth

    assert render_text(nested(MAX_NESTING), {"a": "1"}) == "x"
    with pytest.raises(PromptError, match="more than 16 blocks"):
        render_text(nested(MAX_NESTING + 1), {"a": "1"})
    with pytest.raises(PromptError, match="more than 16 blocks"):
        render_text("{if a}" * 3000, {"a": "1"})


def test_all_problems_are_found_at_once():
    template = '{subjct} {motion | tga} {in "LEFTT"}{moton}{end}'
    problems = grid_problems(layout(template, subject="x", motion="y"))
    assert [p.message.split(": ", 1)[1].split(";")[0].split("\n")[0] for p in problems] == [
        "unknown slot 'subjct'",
        "unknown filter 'tga'",
        "unknown cell 'LEFTT'",
        "unknown slot 'moton'",
    ]
    assert len(text_problems("{a}{b}{each}x{end}", ["a"])) == 2
    assert len(text_problems("{a", ["a"])) == 1
    assert text_problems("{a}", ["a"]) == []


def test_doctests():
    result = doctest.testmod(template_module)
    assert result.attempted > 0
    assert result.failed == 0


def test_cell_names():
    assert cell_names(2, 2) == ("TOP LEFT", "TOP RIGHT", "BOTTOM LEFT", "BOTTOM RIGHT")
    assert cell_names(1, 3) == ("LEFT", "MIDDLE", "RIGHT")
    assert cell_names(2, 3)[3] == "ROW 2 COLUMN 1"
    assert len(set(cell_names(8, 8))) == 64
    for rows, cols in [(0, 1), (1, 0), (9, 8)]:
        with pytest.raises(ValueError, match="1 to 64 cells"):
            cell_names(rows, cols)
