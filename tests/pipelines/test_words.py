"""Words that `mini` never learned: an edit of none but these is refused, others are named."""

from dataclasses import replace
from pathlib import Path

import pytest

from dcgrid.errors import PromptError, UsageError
from dcgrid.pipelines.job import EditJob
from dcgrid.pipelines.plan import plan_run
from dcgrid.pipelines.prepared import prepare_run
from tests.pipelines.runs import moving_square, story_job


def planned(tmp_path: Path, **words: str) -> list[str]:
    clip = moving_square(tmp_path / "a.mp4", 9, size=(96, 160))
    job = EditJob(input=clip, effects=() if "prompt" in words else ("rain",), **words)
    return [line for line in plan_run(prepare_run(job)).lines() if line.startswith("Text:")]


@pytest.mark.parametrize("prompt", ["zorgish glimmer of the quux", "Überschwemmung", "鯨"])
def test_an_edit_of_which_it_knows_no_word_is_refused(tmp_path: Path, prompt: str) -> None:
    with pytest.raises(PromptError, match="mini knows no word of") as caught:
        planned(tmp_path, prompt=prompt)
    assert "purple-smoke" in (caught.value.hint or "")


def test_words_that_it_does_not_know_are_named(tmp_path: Path) -> None:
    (line,) = planned(tmp_path, prompt="heavy rain on a zebra", subject="a quagga")
    assert line == "Text: mini does not know 'zebra', 'quagga'; it changes nothing."
    assert planned(tmp_path, prompt="heavy rain") == []
    assert planned(tmp_path, subject="a woman") == []


def test_other_models_read_pieces_of_words(tmp_path: Path) -> None:
    assert planned(tmp_path, prompt="zorgish glimmer", model="tiny") == []


def test_a_story_of_words_alone_needs_a_model_that_can_make_one(tmp_path: Path) -> None:
    job = replace(story_job(tmp_path, "rain", "night"), model="mini")
    with pytest.raises(UsageError, match="mini makes no character from words alone") as caught:
        plan_run(prepare_run(job))
    assert "--from" in (caught.value.hint or "")
