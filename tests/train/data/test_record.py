"""What stage `dc` says of its concepts comes back as it was."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dcgrid.errors import RecipeError, WeightsError
from dcgrid.models.weights import save_weights
from dcgrid.train.data.concept_manifest import (
    RECORD,
    Concept,
    chosen_concepts,
    read_record,
    write_record,
)

CAT = Concept(
    clip=Path("cat.mp4"),
    subject="a cat",
    motion="leisurely stroll",
    scene="on a blue playground",
    identity="Cat_identity",
    motion_token="motion_stroll",
)
FIRE = replace(CAT, clip=Path("fire.mp4"), scene="", identity="Fire_identity", role="effect")


def written(tmp_path, record):
    path = tmp_path / "dc-tokens.safetensors"
    save_weights(path, {"tags": torch.zeros(1, 2)}, {RECORD: record}, torch.float32)
    return path


def test_words_come_back_and_folders_stay_at_home(tmp_path):
    record = write_record([replace(CAT, clip=Path("/home/me/cat.mp4"), start=1.0), FIRE])
    assert "/home" not in record
    assert read_record(written(tmp_path, record), "") == [CAT, FIRE]


@pytest.mark.parametrize("old", ['"a cat"', '"leisurely stroll"', '"Cat_identity"', '"subject":'])
def test_a_concept_without_texts_is_refused(tmp_path, old):
    record = write_record([CAT])
    assert old in record
    path = written(tmp_path, record.replace(old, '" "' if old[-1] == '"' else '"sbject":'))
    with pytest.raises(WeightsError, match="says no words") as caught:
        read_record(path, "do this")
    assert caught.value.hint == "do this"


def test_chosen_concepts():
    assert chosen_concepts([CAT, FIRE], []) == [CAT, FIRE]
    assert chosen_concepts([CAT, FIRE], ["Fire_identity"]) == [FIRE]
    with pytest.raises(RecipeError, match="did you mean 'Fire_identity'"):
        chosen_concepts([CAT, FIRE], ["fire_identty"])
