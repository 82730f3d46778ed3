"""Manifests: every problem at once, before anything starts."""

import shutil

import pytest

from dcgrid.errors import RecipeError
from dcgrid.models.native.presets import TINY_SPEC
from dcgrid.pipelines.plan import clip_rules
from dcgrid.train.data.concept_manifest import MOST_TOLD, read_concepts, unused_files

RULES = clip_rules(TINY_SPEC)


@pytest.fixture
def folder(clip, tmp_path):
    place = tmp_path / "clips"
    place.mkdir()
    for name in ("cat.mp4", "9 lives.mp4"):
        shutil.copy(clip, place / name)
    return place


def write(folder, text):
    path = folder / "manifest.toml"
    path.write_text(text)
    return path


GOOD = """
[[concepts]]
clip = "cat.mp4"
subject = "a cat"
motion = "stroll"
scene = "on a roof"
identity = "Cat_identity"
motion_token = "motion_stroll"
start = 0.1
duration = 0.5
[[concepts]]
clip = "9 lives.mp4"
subject = "sparks"
motion = "fly up"
role = "effect"
"""


def test_a_manifest_and_its_folder_say_the_same(folder):
    path = write(folder, GOOD)
    concepts = read_concepts(path, RULES)
    assert read_concepts(folder, RULES) == concepts
    cat, sparks = concepts
    assert cat.clip == folder / "cat.mp4"
    assert cat.static_prompt == "a cat [Cat_identity] on a roof"
    assert cat.dynamic_prompt == (
        "a cat [Cat_identity] performing stroll [motion_stroll] on a roof"
    )
    assert (cat.start, cat.duration, cat.role) == (0.1, 0.5, "subject")
    # Tokens are made from the file's name, and begin with a letter.
    assert (sparks.identity, sparks.motion_token) == (
        "clip_9_lives_identity",
        "motion_clip_9_lives",
    )
    assert sparks.role == "effect"


def test_a_folder_with_a_text_beside_each_video(folder):
    (folder / "cat.txt").write_text("subject: a cat\nmotion: stroll\n\nstart: 0.1\n")
    (folder / "9 lives.txt").write_text("subject: a dog: brown\nmotion: run\n")
    dog, cat = read_concepts(folder, RULES)
    assert (cat.subject, cat.motion, cat.start) == ("a cat", "stroll", 0.1)
    assert dog.subject == "a dog: brown"
    (folder / "cat.txt").write_text("subject a cat")
    with pytest.raises(RecipeError, match="not of the form"):
        read_concepts(folder, RULES)


def test_what_no_concept_uses_is_named(folder):
    assert unused_files(write(folder, GOOD)) == []
    (folder / "other.flv").write_bytes((folder / "cat.mp4").read_bytes())
    assert unused_files(folder) == ["other.flv"]
    (folder / "manifest.toml").unlink()
    for stem in ("cat", "9 lives", "other"):
        (folder / f"{stem}.txt").write_text(f"subject: a {stem}\nmotion: run\n")
    (folder / "thumb.html").write_text("<p>")
    assert len(read_concepts(folder, RULES)) == 3
    assert unused_files(folder) == ["thumb.html"]


def test_every_problem_is_told_at_once(folder):
    (folder / "notes.mp4").write_text("no video")
    path = write(
        folder,
        GOOD
        + """
[[concepts]]
clip = "gone.mp4"
subject = "a cat"
motion = "stroll"
[[concepts]]
clip = "notes.mp4"
subject = "a cat"
motion = "stroll"
[[concepts]]
clip = "cat.mp4"
subject = "a dog"
motion = "jump"
identity = "Cat_identity"
start = 0.2
[[concepts]]
clip = "cat.mp4"
subjct = "a cat"
motion = 3
duration = 0
role = "hero"
identity = "no spaces"
[[concepts]]
clip = "cat.mp4"
subject = "a cat"
motion = "stroll"
identity = "Other"
motion_token = "other"
start = 999
""",
    )
    with pytest.raises(RecipeError) as caught:
        read_concepts(path, RULES)
    told = caught.value.message
    for part in (
        "concept 3",
        "gone.mp4",
        "concept 4",
        "notes.mp4",
        "token Cat_identity stands for the identity 'a cat' and the identity 'a dog'",
        "concept 6: key 'subjct' is unknown; did you mean 'subject'?",
        "concept 6: key 'subject' is missing",
        "'motion' must be a string, not 3",
        "'duration' must be a number above 0, not 0",
        "'role' must be one of subject, effect, not 'hero'",
        "'identity' must be letters, digits and _, a letter first, at most 64, not 'no spaces'",
        "concept 7",
    ):
        assert part in told, part
    assert "9 lives" not in told


def test_many_problems_are_counted(folder):
    path = write(folder, "[[concepts]]\n" * (MOST_TOLD + 5))
    with pytest.raises(RecipeError, match=f"{3 * (MOST_TOLD + 5)} problems") as caught:
        read_concepts(path, RULES)
    assert caught.value.message.count("\n") == MOST_TOLD + 1


def test_one_clip_named_twice(folder):
    one = '[[concepts]]\nclip = "cat.mp4"\nsubject = "a cat"\nmotion = "stroll"\n'
    with pytest.raises(RecipeError, match=r"cat\.mp4 is named 2 times"):
        read_concepts(write(folder, one * 2), RULES)
    assert len(read_concepts(write(folder, one + one + "start = 0.2\n"), RULES)) == 2


def test_a_clip_that_is_too_short(folder):
    text = '[[concepts]]\nclip = "cat.mp4"\nsubject = "a"\nmotion = "b"\nduration = 0.1\n'
    with pytest.raises(RecipeError, match=r"too short: 0\.42 s are needed"):
        read_concepts(write(folder, text), RULES)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("concepts = 3", r"no \[\[concepts\]\]"),
        ("", r"no \[\[concepts\]\]"),
        ("concepts = []", "names no clips"),
        ("clips = []", "'clips' at its top"),
        ("[[concepts", "not TOML"),
        ("concepts = [1]", "concept 1 is not a table"),
    ],
)
def test_what_is_no_manifest(folder, text, told):
    with pytest.raises(RecipeError, match=told):
        read_concepts(write(folder, text), RULES)


def test_missing_and_empty_places(tmp_path):
    with pytest.raises(RecipeError, match="cannot read"):
        read_concepts(tmp_path / "gone.toml", RULES)
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecipeError, match="names no clips"):
        read_concepts(tmp_path / "empty", RULES)
