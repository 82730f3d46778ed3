"""Texts that the model cannot read whole are refused in the plan, counted as it counts them."""

import json
import re
from pathlib import Path

import pytest

from dcgrid import hub
from dcgrid.cli.main import main
from dcgrid.errors import PromptError
from dcgrid.models.native.model import load_text_encoder
from dcgrid.models.registry import find_model
from dcgrid.models.wan.parts import load_networks
from dcgrid.pipelines import texts
from dcgrid.pipelines.job import ComposeJob, EditJob
from dcgrid.pipelines.plan import plan_run
from dcgrid.pipelines.prepared import prepare_run
from dcgrid.pipelines.rerun import RerunJob, prepare_rerun
from dcgrid.pipelines.script import Scene, StoryJob
from tests.pipelines.runs import job, run

WORD = "rain "


def edit(clip: Path, words: int, **values: object) -> EditJob:
    return EditJob(input=clip, prompt=WORD * words, **values)  # type: ignore[arg-type]


def test_the_limit_is_that_of_the_encoder_to_the_word(clip):
    encoder = load_text_encoder("mini", find_model("mini").files["text"])
    fits = [n for n in range(20, 48) if _plans(edit(clip, n))]
    grid = prepare_run(edit(clip, max(fits))).grid
    texts = [grid.prompt.segment_text(segment) for segment in grid.prompt.segments]
    assert max(len(encoder.tokenizer.tokens(text)) for text in texts) == encoder.config.limit
    assert fits == list(range(20, max(fits) + 1))


def _plans(asked: EditJob) -> bool:
    try:
        plan_run(prepare_run(asked))
    except PromptError:
        return False
    return True


def test_the_message_says_which_text_is_how_long_and_whose_words_it_has(clip):
    asked = edit(clip, 60, subject="a big grey rabbit")
    with pytest.raises(PromptError) as caught:
        plan_run(prepare_run(asked))
    message, hint = caught.value.message, caught.value.hint
    found = re.match(r"the text for cell 2 \(rain-.*\) has (\d+) tokens, mini reads 48: '", message)
    assert found
    assert "[TOP RIGHT] A big grey rabbit" in message
    assert "--prompt 60, --subject 4" in hint
    assert hint.endswith(f"shorten --prompt by {int(found[1]) - 48} or more")


def test_a_few_words_in_a_long_recipe_are_not_blamed(clip, tmp_path):
    shipped = Path(prepare_run(edit(clip, 1)).grid.layout_file).read_text()
    layout = tmp_path / "wordy.toml"
    layout.write_text(
        shipped.replace("edit-2x2", "wordy").replace("This {grid} grid", "very " * 50 + "{grid}")
    )
    with pytest.raises(PromptError, match="the text for the whole grid has") as caught:
        plan_run(prepare_run(edit(clip, 1, layout=str(layout))))
    assert "words of recipes alone" in caught.value.hint


def test_every_command_refuses_before_anything_is_loaded(clip, tmp_path, capsys):
    long = WORD * 60
    with pytest.raises(PromptError, match="mini reads 48") as caught:
        plan_run(prepare_run(ComposeJob(first=clip, second=clip, concept=long)))
    assert "--concept 60" in caught.value.hint
    story = StoryJob(
        name="tale", folder=tmp_path, source=clip, scenes=(Scene(prompt="x"), Scene(prompt=long))
    )
    with pytest.raises(PromptError, match="mini reads 48") as caught:
        plan_run(prepare_run(story))
    assert "scene 2 60" in caught.value.hint
    assert main(["edit", str(clip), "--prompt", long, "--dry-run"]) == 3
    assert "shorten --prompt by" in capsys.readouterr().err


def test_a_run_from_before_is_repeated_as_it_was_read(clip, tmp_path, monkeypatch):
    with monkeypatch.context() as earlier:
        earlier.setattr("dcgrid.pipelines.texts.check_lengths", lambda *_: "")
        first = run(job(clip, effects=(), prompt=WORD * 70, out=tmp_path, force=True))
    values = json.loads(first.files[-1].read_text())
    assert values["job"]["prompt"] == WORD * 70
    prepared, _ = prepare_rerun(RerunJob(manifest=first.files[-1]))
    assert run(prepared).same_pixels is True


TEXTS = (
    "",
    "a dog",
    "Cafe\u0301 &amp; \n fog  2\u00d72 \ufdfa \u00bd",
    "rain " * 40,
    "a [Rex] in the [x] rain",
)


def test_wans_texts_are_counted_as_its_encoder_cuts_them(wan_folder):
    counter = find_model(str(wan_folder)).text_counter()
    assert counter is not None
    _, segments = load_networks(wan_folder, None)  # type: ignore[arg-type]
    for text in TEXTS:
        assert counter.of_segment(text) == len(segments.encode(text))
        assert counter.most(text) >= counter.of_segment(text)
    tagged = find_model(str(wan_folder)).text_counter(["Rex"])
    assert tagged is not None
    assert tagged.of_words("[Rex]") == 1
    parts = counter.of_words("a") + counter.of_words("in the [x] rain")
    assert tagged.of_segment("a [Rex] in the [x] rain") == parts + 2


def test_wan_counts_all_that_a_cell_reads(clip, wan_folder):
    values = {"input": clip, "model": str(wan_folder), "effects": ("rain",)}
    plan_run(prepare_run(EditJob(**values)))  # type: ignore[arg-type]
    with pytest.raises(PromptError, match="reads 512 a cell: the whole grid") as caught:
        plan_run(prepare_run(EditJob(**values, prompt="smoke " * 400)))  # type: ignore[arg-type]
    assert "--prompt" in caught.value.hint


def test_a_model_that_is_not_here_is_counted_later(clip, monkeypatch):
    monkeypatch.setattr(hub, "locate_model", lambda _: None)
    prepared = prepare_run(edit(clip, 300))
    line = texts.check_lengths(prepared.job, find_model("wan2.2-5b"), [prepared.grid], ())
    assert line == ("Text: counted once wan2.2-5b is downloaded; a cell reads at most 512 tokens.")
