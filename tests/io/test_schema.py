"""The one reader of TOML and JSON: every mistake is named with its line, all in one error."""

import json
import os
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dcgrid.errors import InputVideoError, RecipeError
from dcgrid.io.schema import EACH_ONCE, Text, read_format, read_json, read_toml
from dcgrid.io.text import MAX_BYTES, read_text
from dcgrid.io.toml_positions import key_positions, string_start

# The machine may be busy with a training run.
BUSY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
Pairs = Annotated[tuple[tuple[int, int], ...], "a list of [height, width]"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    key: Annotated[float, Gt(0), Le(1)] = 0.5
    type: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    text: Annotated[str, Text(10)]
    whole: Annotated[int, Ge(0), Le(5)] = 0
    part: Annotated[float, Ge(0), Lt(1)] = 0.0
    kind: Literal["cat", "dog"] = "cat"
    words: Annotated[tuple[Annotated[str, Text(5)], ...], MaxLen(3), EACH_ONCE] = ()
    few: Annotated[tuple[int, ...], MinLen(2)] = (1, 2)
    sizes: Pairs = ()
    inner: Inner = field(default_factory=Inner)
    names: dict[str, str] = field(default_factory=dict)
    step: tuple[Inner, ...] = ()
    maybe: Path | None = None


@pytest.fixture
def write(tmp_path):
    def make(text, name="r.toml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return make


def problems_of(path, kind=Outer):
    with pytest.raises(RecipeError) as raised:
        read_toml(path).build(kind)
    lines = raised.value.message.split("\n")
    return [line.split("r.toml:", 1)[1] for line in lines if "r.toml:" in line]


def test_all_types_read(write):
    path = write(
        """
        text = "t"
        whole = 3
        part = 0
        words = ["a", "b"]
        sizes = [[1, 2], [3, 4]]
        maybe = "a/b"
        [inner]
        key = 1e-4
        type = true
        [names]
        x = "y"
        [[step]]
        [[step]]
        key = 1
        """
    )
    assert read_toml(path).build(Outer) == Outer(
        text="t", whole=3, part=0.0, words=("a", "b"), sizes=((1, 2), (3, 4)), maybe=Path("a/b"),
        inner=Inner(key=1e-4, type=True), names={"x": "y"}, step=(Inner(), Inner(key=1.0)),
    )  # fmt: skip
    made = read_toml(path).build(Outer)
    assert isinstance(made.part, float)
    assert isinstance(made.step[1].key, float)


def test_every_problem_is_named_in_file_order(write):
    path = write(
        'whole = 9\npart = "x"\nkind = "dgo"\n[inner]\nkey = nan\ntpye = 1\n'
        "[[step]]\n[[step]]\ntype = 1\n"
    )
    assert problems_of(path) == [
        " key 'text' is missing; it must be a string",
        "1:1: key 'whole' must be an integer from 0 to 5, not 9",
        "2:1: key 'part' must be a number from 0 to below 1, not 'x'",
        "3:1: key 'kind' must be one of cat, dog, not 'dgo'; did you mean 'dog'?",
        "5:1: key 'inner.key' must be a number above 0, at most 1, not nan",
        "6:1: key 'inner.tpye' is unknown; did you mean 'type'?",
        "9:1: key 'step.1.type' must be true or false, not 1",
    ]


def test_caret_stands_under_the_key(write):
    path = write('text = "x"\n  [inner]\n  type = 3\n')
    with pytest.raises(RecipeError) as raised:
        read_toml(path, hint="look").build(Outer)
    assert raised.value.message.endswith("      type = 3\n      ^^^^")
    assert raised.value.hint == "look"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('words = ["a", 1]', "'words.1' must be a string, not 1"),
        ('words = ["a", " "]', "'words.1' must not be blank"),
        ('words = ["a", "A"]', "'words' holds 'A' twice"),
        ('words = ["toolong"]', "has 7 characters; at most 5 are allowed"),
        ('words = ["a", "b", "c", "d"]', "'words' has 4 entries; at most 3 are allowed"),
        ("few = [1]", "needs at least 2 entries, has 1"),
        ('words = "a"', "must be a list of strings, not 'a'"),
        ("few = [1, true]", "'few.1' must be an integer, not True"),
        ("sizes = [[1, 2], [3]]", "'sizes' must be a list of [height, width], not [[1, 2], [3]]"),
        ("sizes = [[1, 2, 3]]", "'sizes' must be a list of [height, width]"),
        ("sizes = [[1.5, 2]]", "'sizes' must be a list of [height, width]"),
        ("names = {a = 1}", "'names.a' must be a string, not 1"),
        ("inner = 3", "'inner' must be a table, not 3"),
        ("step = [3]", "'step.0' must be a table, not 3"),
        ("maybe = 3", "'maybe' must be a string, not 3"),
        ("maybe = 2021-03-04", "'maybe' must be a string, not datetime.date(2021, 3, 4)"),
        ("part = 1e400", "must be a number from 0 to below 1, not inf"),
        (f"whole = {10**30}", "must be an integer from 0 to 5, not 1000"),
        (f"part = {10**400}", "must be a number from 0 to below 1, not 1000"),
        ("whole = 1.0", "must be an integer from 0 to 5, not 1.0"),
    ],
)
def test_wrong_values(write, line, problem):
    (message,) = problems_of(write(f'text = "t"\n{line}'))
    assert message.startswith("2:1: key ")
    assert problem in message


@pytest.mark.parametrize("escape", ["\\u001b[31m", "\\u0000", "\\u009b", "\\u007f"])
def test_characters_that_terminals_obey_are_refused(write, escape):
    with pytest.raises(RecipeError, match=r"r\.toml:1:1: key 'text' holds the control character U"):
        read_toml(write(f'text = "a{escape}b"'))
    with pytest.raises(RecipeError, match="holds the control character") as caught:
        read_toml(write(f'"a{escape}" = 1'))
    assert all(line.isprintable() for line in caught.value.message.split("\n"))


def test_what_the_caller_fills_in_is_not_for_the_file(write):
    assert read_toml(write("")).build(Outer, text="t").text == "t"
    (message,) = problems_of_ready(write('text = "x"'))
    assert "1:1: key 'text' is unknown" in message


def problems_of_ready(path):
    with pytest.raises(RecipeError) as raised:
        read_toml(path).build(Outer, text="t")
    return raised.value.message.split("\n")[:1]


def test_a_table_for_one_model_goes_over_the_root(write):
    path = write(
        'text = "t"\nwhole = 1\n[inner]\nkey = 0.1\n[mini]\nwhole = 2\n[mini.inner]\ntype = true\n'
        "[big]\nwhole = 9\n"
    )
    known = ("mini", "big", "none")
    made = read_toml(path).layered(["mini", "none"], known).build(Outer)
    assert (made.whole, made.inner) == (2, Inner(key=0.1, type=True))
    with pytest.raises(RecipeError, match=r"r\.toml:10:1: key 'big\.whole' must be an integer"):
        read_toml(path).layered(["big"], known).build(Outer)
    with pytest.raises(RecipeError, match=r"'mini' is unknown; did you mean 'mint'"):
        read_toml(path).layered(["big"], ("big", "mint")).build(Outer)
    with pytest.raises(RecipeError, match="'mini' must be a table"):
        read_toml(write('text = "t"\nmini = 3')).layered(["mini"], known)


def test_json_has_the_same_rules(write):
    path = write(json.dumps({"format": "f-1", "text": "t", "step": [{"key": 1}]}), "a.json")
    made = read_format(path, "f-1", InputVideoError, hint="h").build(Outer)
    assert made == Outer(text="t", step=(Inner(key=1.0),))
    with pytest.raises(InputVideoError, match=r"not of the format f-2") as caught:
        read_format(path, "f-2", InputVideoError, hint="h")
    assert caught.value.hint == "h"
    values: list[tuple[Any, str]] = [
        ({"text": 1, "part": float("nan")}, "'part' must be a number from 0 to below 1, not nan"),
        ({"text": "t", "step": [1]}, "'step.0' must be a table"),
        ({"text": "t", "part": 10**400}, "'part' must be a number"),
        ({"text": "t", "extra": 1}, "'extra' is unknown"),
        ([1], "holds"),
        ("x", "holds"),
    ]
    for value, told in values:
        with pytest.raises(InputVideoError) as caught:
            read_json(write(json.dumps(value), "b.json"), InputVideoError, hint="").build(Outer)
        assert told in caught.value.message
        assert str(path.with_name("b.json")) in caught.value.message
    for text in ("{", "[" * 5000, '{"a": ' + "9" * 5000 + "}", ""):
        with pytest.raises(InputVideoError, match="is not JSON"):
            read_json(write(text, "b.json"), InputVideoError, hint="")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a = ", "r.toml:1:5: not TOML"),
        ("a = 1\nb = = 2", "r.toml:2:5: not TOML"),
        ('a = """x', "r.toml:1:"),
        ("a = 1\na = 2", "r.toml:2:"),
        ("a = " + "[" * 5000, "r.toml"),
        ("a = " + "9" * 5000, "r.toml"),
        ("a = 2021-02-30", "r.toml"),
    ],
)
def test_not_toml(write, text, words):
    with pytest.raises(RecipeError, match="TOML") as raised:
        read_toml(write(text))
    assert words in raised.value.message


def test_files_that_are_no_text(tmp_path):
    with pytest.raises(RecipeError, match="no such file"):
        read_toml(tmp_path / "absent.toml")
    with pytest.raises(RecipeError, match="is a folder, not a file"):
        read_toml(tmp_path)
    with pytest.raises(RecipeError, match="cannot read") as caught:
        read_toml(tmp_path / "a\0b.toml")
    assert caught.value.message.isprintable()
    (tmp_path / "big.toml").write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(RecipeError, match="larger than"):
        read_toml(tmp_path / "big.toml")
    (tmp_path / "latin.toml").write_bytes(b"a = 1\nb = '\xe9'\n")
    with pytest.raises(RecipeError, match=r"latin\.toml:2: not UTF-8") as caught:
        read_toml(tmp_path / "latin.toml")
    assert "iconv" in caught.value.hint
    (tmp_path / "nul.toml").write_bytes(b"a = 1\n\0")
    with pytest.raises(RecipeError, match=r"nul\.toml:2: not text"):
        read_toml(tmp_path / "nul.toml")


def test_a_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe.toml")
    with pytest.raises(RecipeError, match=r"pipe\.toml: it is a pipe or a device, not a file"):
        read_toml(tmp_path / "pipe.toml")


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-be", "utf-32-le"]
)
def test_encodings_that_say_what_they_are(tmp_path, encoding):
    text = "a = 'caf\N{LATIN SMALL LETTER E WITH ACUTE} \N{SNOWMAN}'\r\n"
    mark = "\ufeff" if encoding[-2:] in ("be", "le") else ""
    (tmp_path / "a.toml").write_bytes((mark + text).encode(encoding))
    assert read_text(tmp_path / "a.toml", RecipeError) == text.replace("\r\n", "\n")
    assert read_toml(tmp_path / "a.toml").values == tomllib.loads(text)


def test_half_a_character_of_utf16_is_refused(tmp_path):
    (tmp_path / "a.toml").write_bytes("a = 1".encode("utf-16")[:-1])
    with pytest.raises(RecipeError, match=r"a\.toml:1: not UTF-16-LE text"):
        read_toml(tmp_path / "a.toml")


def test_windows_lines_are_fine(tmp_path):
    path = tmp_path / "w.toml"
    path.write_bytes(b"\xef\xbb\xbfa = 1\r\nb = '''\r\nx'''\r\n")
    document = read_toml(path)
    assert document.values["b"] == "x"
    assert (document.place("b").line, document.place("b").column) == (3, 1)


@pytest.mark.parametrize(
    ("value", "line", "column"),
    [
        ('"abc"', 2, 6),
        ("'abc'", 2, 6),
        ("'''abc'''", 2, 8),
        ("'''\nabc'''", 3, 1),
        ('"""\nabc"""', 3, 1),
    ],
)
def test_place_of_a_text(write, value, line, column):
    place = read_toml(write(f"# comment\nkey={value}\n")).place("key")
    assert (place.line, place.column) == (line, column)


def test_positions_see_through_strings_comments_and_arrays():
    text = (
        "# a = 1\na = '''\nb = 2\n'''\nc = [ # d = 3\n  'x]', \"]\",\n  [1]]\ne . \"f\" = {g = 1}\n"
        '[h]\ni = "\\"" # ]\n[[j]]\nk = 1\n[[j]]\nk = 2\n[j.l]\nm = """a\\"""b"""\nn = 1'
    )
    tomllib.loads(text)
    found = key_positions(text)
    starts = {path: text[p.key :].split("\n")[0][:5] for path, p in found.items()}
    assert starts == {
        ("a",): "a = '",
        ("c",): "c = [",
        ("e", "f"): 'e . "',
        ("h",): "[h]",
        ("h", "i"): 'i = "',
        ("j", 0): "[[j]]",
        ("j", 0, "k"): "k = 1",
        ("j", 1): "[[j]]",
        ("j", 1, "k"): "k = 2",
        ("j", 1, "l"): "[j.l]",
        ("j", 1, "l", "m"): 'm = "',
        ("j", 1, "l", "n"): "n = 1",
    }
    assert found["j", 0, "k"].key < found["j", 1, "k"].key


SCALARS = st.one_of(
    st.integers(-9, 9).map(str),
    st.sampled_from(["true", "1.5", "1979-05-27", "'l # ] ='", "'''\nq = 1\n'''", '"\\"#["']),
)
VALUES = st.recursive(
    SCALARS, lambda v: st.lists(v, max_size=3).map(lambda i: "[" + ",\n ".join(i) + "]")
)
LINES = st.dictionaries(st.sampled_from("abcdef"), VALUES, min_size=1, max_size=5)


@settings(BUSY, max_examples=200)
@given(LINES, LINES, st.sampled_from(["", "# c = 1\n", "\n  "]))
def test_positions_agree_with_tomllib(top, inner, gap):
    """Oracle: the text from a key's position on, cut at the next key, parses to its value."""
    body = "".join(f"{gap}{key} = {value}\n" for key, value in top.items())
    text = body + "[t] # x = [\n" + "".join(f"{key} = {value}\n" for key, value in inner.items())
    document = tomllib.loads(text)
    found = key_positions(text)
    assert set(found) == {(k,) for k in top} | {("t", k) for k in inner} | {("t",)}
    ends = [*sorted(p.key for p in found.values()), len(text)]
    for path, position in found.items():
        if path == ("t",):
            continue
        end = ends[ends.index(position.key) + 1]
        (value,) = tomllib.loads(text[position.key : end]).values()
        assert value == (document[path[0]] if len(path) == 1 else document["t"][path[1]])
        if isinstance(value, str):
            assert string_start(text, position.value) > position.value


@settings(BUSY, max_examples=200)
@given(st.text(alphabet="ab=.[]{}\"'#\n \\1,", max_size=60))
def test_positions_never_fail(text):
    assert isinstance(key_positions(text), dict)
