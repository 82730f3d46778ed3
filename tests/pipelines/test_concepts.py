"""Tags in prompts: `--concepts`, files found beside LoRAs, what is refused, and reruns."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dcgrid.adapters.attach import attach_adapter
from dcgrid.adapters.files import save_adapter
from dcgrid.adapters.reading import hash_tensors
from dcgrid.adapters.spec import AdapterSpec
from dcgrid.cli.main import main
from dcgrid.errors import AdapterError, PromptError, WeightsError
from dcgrid.models.registry import find_model
from dcgrid.models.tags import save_tags
from dcgrid.pipelines.job import ComposeJob
from dcgrid.pipelines.plan import plan_run
from dcgrid.pipelines.prepared import prepare_run
from dcgrid.pipelines.rerun import RerunJob, prepare_rerun
from tests.pipelines.runs import job, run, story_job, tell

CAT, STROLL = "Cat_identity", "motion_stroll"
TEXT = f"a cat [{CAT}] in [{STROLL}] motion"
Maker = Callable[..., Path]


@pytest.fixture
def tags_of(tmp_path: Path) -> Maker:
    """Return a maker of files of two tags for the tiny model."""

    def make(seed: int, name: str = "concepts") -> Path:
        encoder = find_model("tiny").load().parts.text  # type: ignore[attr-defined]
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for tag_E in encoder.add_tags((CAT, STROLL)):
                tag_E.copy_(torch.randn(tag_E.shape, generator=generator) * 2)
        path = tmp_path / f"{name}.safetensors"
        save_tags(path, encoder, {"model": "tiny"})
        return path

    return make


@pytest.fixture
def multi_dc(tmp_path: Path) -> Path:
    """Write a Multi-DC LoRA of the tiny model that knows both tags."""
    network = find_model("tiny").load().network
    spec = AdapterSpec(
        name="cats",
        stage="dc",
        form="structured",
        rank=2,
        alpha=2.0,
        targets=("query",),
        base="tiny",
        base_hash=hash_tensors(network.state_dict()),
        tokens=(f"[{CAT}]", f"[{STROLL}]"),
    )
    attach_adapter(network, spec)
    path = tmp_path / "cats.safetensors"
    save_adapter(network, spec, path)
    return path


def hashes(result: Any) -> list[str]:
    return [one.frames_sha256 for one in result.manifest.outputs]


def edit_of(clip: Path, out: Path, prompt: str = TEXT, **values: object) -> Any:
    out.mkdir(exist_ok=True)
    return job(clip, effects=(), prompt=prompt, out=out, force=True, **values)


def test_a_named_tag_is_what_its_file_says(clip, tmp_path, tags_of):
    one, other = tags_of(1, "one"), tags_of(2, "other")
    made = [run(edit_of(clip, tmp_path / "o", concepts=str(path))) for path in (one, other, one)]
    assert hashes(made[0]) == hashes(made[2])
    assert hashes(made[0]) != hashes(made[1])
    # Texts that name none are what they are without the file.
    plain = [
        run(edit_of(clip, tmp_path / "o", "in the rain", concepts=path)) for path in ("", str(one))
    ]
    assert hashes(plain[0]) == hashes(plain[1])


def test_the_plan_says_which_tags_are_known_and_what_to_expect(clip, tmp_path, tags_of, multi_dc):
    tags = tags_of(1)
    alone = plan_run(prepare_run(edit_of(clip, tmp_path / "o", concepts=str(tags))))
    text = "\n".join(alone.lines())
    assert f"knows the tags [{CAT}], [{STROLL}]." in text
    assert "does not act here" in text
    assert alone.as_json()["concepts"]["tags"] == [CAT, STROLL]
    values = {"concepts": str(tags), "loras": (str(multi_dc),)}
    acting = plan_run(prepare_run(edit_of(clip, tmp_path / "o", **values)))
    assert "Warning" not in "\n".join(acting.lines())
    # At strength 0 it is not there.
    values["loras"] = (f"{multi_dc}:0",)
    off = plan_run(prepare_run(edit_of(clip, tmp_path / "o", **values)))
    assert "Warning" in "\n".join(off.lines())


def test_the_file_beside_a_lora_is_found_when_a_prompt_names_tags(
    clip, tmp_path, tags_of, multi_dc
):
    asked = edit_of(clip, tmp_path / "o", loras=(str(multi_dc),))
    with pytest.raises(PromptError, match="no tags are loaded"):
        plan_run(prepare_run(asked))
    beside = tags_of(1, "cats-tokens")
    assert plan_run(prepare_run(asked)).concepts.reference == str(beside)
    plain = edit_of(clip, tmp_path / "o", "in the rain", loras=(str(multi_dc),))
    assert plan_run(prepare_run(plain)).concepts.reference == ""
    beside.rename(tmp_path / "dc-tokens.safetensors")
    assert plan_run(prepare_run(asked)).concepts.names == (CAT, STROLL)


def test_an_unknown_tag_is_refused_in_the_plan_of_every_command(clip, tmp_path, tags_of):
    values = {"concepts": str(tags_of(1)), "model": "tiny"}
    wrong, near = "a [Cat_identty]", rf"\[Cat_identty\].*did you mean '{CAT}'"
    with pytest.raises(PromptError, match=near):
        plan_run(prepare_run(edit_of(clip, tmp_path / "o", wrong, concepts=values["concepts"])))
    with pytest.raises(PromptError, match=near):
        plan_run(prepare_run(job(clip, subject=wrong, concepts=values["concepts"])))
    fusion = ComposeJob(first=clip, second=clip, concept=wrong, **values)
    with pytest.raises(PromptError, match=near):
        plan_run(prepare_run(fusion))
    story = story_job(tmp_path, "rain", wrong, source=clip, concepts=values["concepts"])
    with pytest.raises(PromptError, match=near):
        plan_run(prepare_run(story))


def test_a_file_that_cannot_be_used_is_refused_in_the_plan(clip, tmp_path, tags_of):
    with pytest.raises(AdapterError, match=r"file of concepts .* does not exist"):
        plan_run(prepare_run(edit_of(clip, tmp_path / "o", concepts=str(tmp_path / "nowhere"))))
    mini = "package:mini/dc-tokens.safetensors"
    with pytest.raises(WeightsError, match="tags are 128 wide, the text encoder's words 16"):
        plan_run(prepare_run(edit_of(clip, tmp_path / "o", concepts=mini)))


def test_a_rerun_reads_the_same_tags_or_says_that_they_changed(clip, tmp_path, tags_of):
    tags, out = tags_of(1), tmp_path / "o"
    first = run(edit_of(clip, out, concepts=str(tags)))
    manifest = first.files[-1]
    assert json.loads(manifest.read_text())["model"]["concepts_sha256"]
    prepared, _ = prepare_rerun(RerunJob(manifest=manifest))
    assert run(prepared).same_pixels is True
    tags_of(2)
    (tmp_path / "again").mkdir()
    prepared, _ = prepare_rerun(RerunJob(manifest=manifest, out=tmp_path / "again"))
    with pytest.raises(WeightsError, match="weights concepts are not those of the manifest"):
        run(prepared)


def test_a_manifest_from_before_tags_reads_brackets_as_words_again(clip, tmp_path, monkeypatch):
    from dcgrid.pipelines import texts

    out = tmp_path / "o"
    with monkeypatch.context() as earlier:
        earlier.setattr(texts, "check_tags", lambda *_, **__: None)
        manifest = run(edit_of(clip, out, "in the [rain]")).files[-1]
    values = json.loads(manifest.read_text())
    del values["job"]["concepts"], values["model"]["concepts_sha256"]
    manifest.write_text(json.dumps(values))
    prepared, _ = prepare_rerun(RerunJob(manifest=manifest))
    assert run(prepared).same_pixels is True


def test_a_story_names_tags_in_every_scene(clip, tmp_path, tags_of):
    one, other = tags_of(1, "one"), tags_of(2, "other")
    told = [
        tell(
            story_job(tmp_path / name, f"[{CAT}] in the rain", "night", source=clip, force=True,
                      concepts=str(path))
        )
        for name, path in (("a", one), ("b", other))
        if (tmp_path / name).mkdir() is None
    ]  # fmt: skip
    first, second = hashes(told[0]), hashes(told[1])
    assert first[0] != second[0]
    assert told[0].manifest.model["concepts_sha256"]


def test_the_command_line_takes_the_file(clip, tmp_path, tags_of, capsys):
    words = ["edit", str(clip), "--model", "tiny", "--prompt", "a [Cat_identity]", "--dry-run"]
    assert main(words) == 3
    assert "--concepts FILE" in capsys.readouterr().err
    assert main([*words, "--concepts", str(tags_of(1))]) == 0
    assert f"[{CAT}]" in capsys.readouterr().out
