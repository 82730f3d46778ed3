"""The strict TOML reader: every mistake is named with its line, all in one error."""

import tomllib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dcgrid.errors import RecipeError
from dcgrid.recipes import read_toml
from dcgrid.recipes.positions import key_positions, string_start
from dcgrid.recipes.tables import MAX_BYTES

# The machine may be busy with a training run.
BUSY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture
def table_of(tmp_path):
    def make(text):
        path = tmp_path / "r.toml"
        path.write_text(text, encoding="utf-8")
        return read_toml(path)

    return make


def problems_of(table):
    with pytest.raises(RecipeError) as raised:
        table.finish()
    lines = raised.value.message.split("\n")
    return [line.split("r.toml:", 1)[1] for line in lines if "r.toml:" in line]


def test_all_types_read(table_of):
    table = table_of(
        """
        text = "t"
        whole = 3
        real = 0.5
        yes = true
        words = ["a", "b"]
        reals = [1, 2.5]
        [inner]
        key = 1e-4
        [names]
        x = "y"
        [[step]]
        n = 1
        [[step]]
        n = 2
        """
    )
    assert table.text("text") == "t"
    assert table.integer("whole", minimum=0, maximum=3) == 3
    assert table.number("real", minimum=0, maximum=1) == 0.5
    assert table.number("whole", minimum=0, maximum=9) == 3.0
    assert table.flag("yes") is True
    assert table.texts("words") == ("a", "b")
    assert table.numbers("reals") == (1.0, 2.5)
    assert table.table("inner").number("key", minimum=0, maximum=1) == 1e-4
    assert table.texts_by_name("names") == {"x": "y"}
    assert [t.integer("n", minimum=0, maximum=9) for t in table.tables("step")] == [1, 2]
    assert table.text("absent", default="d") == "d"
    assert table.integer("absent", minimum=0, maximum=1, default=7) == 7
    assert table.tables("absent") == ()
    assert table.table("absent", optional=True).text("x", default="") == ""
    assert table.is_clean
    table.finish()


def test_every_problem_is_named_in_file_order(table_of):
    table = table_of(
        'a = 1\nb = "x"\nc = 9\n[inner]\nd = nan\ntypo = 1\n[[step]]\nn = 1\n[[step]]\nn = true\n'
    )
    table.text("a")
    table.integer("b", minimum=0, maximum=1)
    table.integer("c", minimum=0, maximum=5)
    inner = table.table("inner")
    inner.number("d", minimum=0, maximum=1)
    inner.flag("type")
    for step in table.tables("step"):
        step.integer("n", minimum=0, maximum=5)
    table.text("missing")
    assert not table.is_clean
    assert problems_of(table) == [
        "1:1: key 'a' must be a string, not 1",
        " key 'missing' is missing; it must be a string",
        "2:1: key 'b' must be an integer from 0 to 1, not 'x'",
        "3:1: key 'c' must be an integer from 0 to 5, not 9",
        "4:1: key 'inner.type' is missing; it must be true or false",
        "5:1: key 'inner.d' must be a number from 0 to 1, not nan",
        "6:1: key 'inner.typo' is unknown; did you mean 'type'?",
        "10:1: key 'step.1.n' must be an integer from 0 to 5, not True",
    ]


def test_caret_stands_under_the_key(table_of):
    table = table_of('title = "x"\n  [box]\n  colour = 3\n')
    table.text("title")
    table.table("box").text("colour")
    with pytest.raises(RecipeError) as raised:
        table.finish()
    assert raised.value.message.endswith("      colour = 3\n      ^^^^^^")


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ('["a", 1]', "must hold strings only"),
        ('["a", " "]', "must hold strings only"),
        ('["a", "A"]', "holds 'A' twice"),
        ('["a"]', "needs at least 2 entries, has 1"),
        ('"a"', "must be a list of strings"),
    ],
)
def test_wrong_lists(table_of, value, problem):
    table = table_of(f"words = {value}")
    table.texts("words", minimum=2)
    (message,) = problems_of(table)
    assert problem in message


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
def test_not_toml(table_of, text, words):
    with pytest.raises(RecipeError, match="TOML") as raised:
        table_of(text)
    assert words in raised.value.message


def test_files_that_are_no_text(tmp_path):
    with pytest.raises(RecipeError, match="No such file"):
        read_toml(tmp_path / "absent.toml")
    with pytest.raises(RecipeError, match="cannot read recipe"):
        read_toml(tmp_path)
    with pytest.raises(RecipeError, match="cannot read recipe"):
        read_toml(tmp_path / "a\0b.toml")
    (tmp_path / "big.toml").write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(RecipeError, match="larger than"):
        read_toml(tmp_path / "big.toml")
    (tmp_path / "latin.toml").write_bytes(b"a = 1\nb = '\xe9'\n")
    with pytest.raises(RecipeError, match=r"latin\.toml:2: not UTF-8"):
        read_toml(tmp_path / "latin.toml")


def test_byte_order_mark_and_windows_lines_are_fine(tmp_path):
    path = tmp_path / "w.toml"
    path.write_bytes(b"\xef\xbb\xbfa = 1\r\nb = '''\r\nx'''\r\n")
    table = read_toml(path)
    assert table.text("b") == "x"
    assert (table.place("b").line, table.place("b").column) == (3, 1)


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
def test_place_of_a_text(table_of, value, line, column):
    place = table_of(f"# comment\nkey={value}\n").place("key")
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
