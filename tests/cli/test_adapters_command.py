"""`dcgrid adapters`: what a file holds, and the way from and to other programs."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from dcgrid.adapters.files import write_adapter
from dcgrid.adapters.reading import read_adapter
from dcgrid.cli.main import main
from dcgrid.models.registry import find_model

FILL = "package:mini/fill.safetensors"


def test_show_says_what_it_is_and_how_much_it_changes(capsys):
    assert main(["adapters", "show", FILL]) == 0
    out = capsys.readouterr().out
    assert "base         mini" in out
    assert "stage        fill" in out
    assert main(["adapters", "show", FILL, "--format", "json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    spec, tensors = read_adapter(find_model("mini").files["fill"])
    assert (facts["rank"], facts["targets"]) == (spec.rank, list(spec.targets))
    assert facts["layers"] == len(tensors) / 2
    assert facts["parameters"] == sum(t.numel() for t in tensors.values())
    assert facts["mean_update"] > 0


def test_export_and_its_refusals(tmp_path, capsys):
    folder = tmp_path / "peft"
    assert main(["adapters", "export", FILL, "-o", str(folder)]) == 0
    assert json.loads((folder / "adapter_config.json").read_text())["peft_type"] == "LORA"
    assert main(["adapters", "export", FILL, "-o", str(folder)]) == 3
    assert "--force" in capsys.readouterr().err
    out = tmp_path / "lora.safetensors"
    assert main(["adapters", "export", FILL, "-o", str(out), "--for", "diffusers"]) == 0
    with safe_open(out, "pt") as file:
        assert all(key.startswith("transformer.") for key in list(file.keys()))


@pytest.mark.parametrize("target", ["peft", "diffusers"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_export_refuses_numbers_that_are_none(tmp_path, capsys, target, value):
    """As push does."""
    spec, tensors = read_adapter(find_model("mini").files["fill"])
    key = next(iter(tensors))
    tensors[key].view(-1)[0] = value
    write_adapter(spec, tensors, tmp_path / "bad.safetensors")
    arguments = [str(tmp_path / "bad.safetensors"), "-o", str(tmp_path / "out"), "--for", target]
    assert main(["adapters", "export", *arguments]) == 4
    out, err = capsys.readouterr()
    assert "wrote" not in out
    assert "not finite" in err
    assert [path.name for path in tmp_path.iterdir()] == ["bad.safetensors"]


def write_comfyui(path: Path, width: int, *, bias: bool = False) -> Path:
    """Write a LoRA as ComfyUI's are: two layers of ranks 2 and 4, alpha 1."""
    state = {}
    for part, rank in (("self_attn.q", 2), ("cross_attn.o", 4)):
        start = f"diffusion_model.blocks.0.{part}"
        state[f"{start}.lora_down.weight"] = torch.ones(rank, width)
        state[f"{start}.lora_up.weight"] = torch.ones(width, rank)
        state[f"{start}.alpha"] = torch.tensor(1.0)
        if bias:
            state[f"{start}.diff_b"] = torch.ones(width)
    save_file(state, path)
    return path


def test_show_recognises_files_of_other_programs(tmp_path, capsys):
    path = write_comfyui(tmp_path / "steps.safetensors", 1536, bias=True)
    assert main(["adapters", "show", str(path)]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert (lines["naming"], lines["base"], lines["base_width"]) == ("comfyui", "Wan 1.3B", "1,536")
    assert (lines["ranks"], lines["scales"]) == ("2, 4", "0.25, 0.5")
    assert main(["adapters", "show", str(path), "--format", "json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["layers"], facts["deltas"]) == (2, 2)
    assert facts["parameters"] == 2 * 1536 * (2 + 4) + 2 * 1536
    # Each product is 1 everywhere, and so are both biases.
    assert facts["mean_update"] == pytest.approx(1.0)


def test_import_writes_a_file_of_ours(tmp_path, capsys, wan_folder):
    path, out = write_comfyui(tmp_path / "steps.safetensors", 48), tmp_path / "ours.safetensors"
    words = ["adapters", "import", str(path), "--base", str(wan_folder), "-o", str(out)]
    assert main([*words, "--stage", "grid", "--mode", "composition", "--name", "steps4"]) == 0
    assert "2 of 2 layers matched, rank 4, mean update 1" in capsys.readouterr().out
    assert main(["adapters", "show", str(out), "--format", "json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["name"], facts["stage"], facts["mode"]) == ("steps4", "grid", "composition")
    assert (facts["base"], facts["rank"], facts["layers"]) == ("small-wan", 4, 2)
    assert main(words) == 3
    assert "--force" in capsys.readouterr().err
    assert main([*words, "--force", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"] == [str(out)]


def test_import_says_what_does_not_fit(tmp_path, capsys, wan_folder):
    out = tmp_path / "ours.safetensors"
    large = write_comfyui(tmp_path / "large.safetensors", 5120)
    words = ["--base", str(wan_folder), "-o", str(out)]
    assert main(["adapters", "import", str(large), *words]) == 4
    assert "it is for width 5120 (Wan 14B), the model has 48" in capsys.readouterr().err
    biased = write_comfyui(tmp_path / "biased.safetensors", 48, bias=True)
    assert main(["adapters", "import", str(biased), *words]) == 4
    err = " ".join(capsys.readouterr().err.split())
    assert "changes 2 biases" in err
    assert "--lora" in err
    assert main(["adapters", "import", FILL, *words]) == 4
    assert "dcgrid wrote" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["show", "nowhere.safetensors"], 4, "does not exist"),
        (["show", "{text}"], 4, "cannot read adapter"),
        (["export", FILL], 2, "--out"),
        (["export", FILL, "-o", "{text}/folder"], 3, "cannot write"),
        (["export", FILL, "-o", "x", "--for", "gimp"], 2, "gimp"),
        (["export", FILL, "-o", "x", "--for", "comfyui"], 4, "know only Wan"),
        (["import", "{text}", "--base", "tiny", "-o", "x"], 4, "cannot read adapter"),
        (["import", FILL, "-o", "x"], 2, "--base"),
        (["import", FILL, "--base", "tiny", "-o", "x", "--stage", "all"], 2, "all"),
    ],
)
def test_what_cannot_be_ends_in_one_error(tmp_path, capsys, arguments, code, told):
    text = tmp_path / "notes.txt"
    text.write_text("no adapter")
    words = [word.replace("{text}", str(text)) for word in arguments]
    assert main(["adapters", *words]) == code
    err = capsys.readouterr().err
    assert told in err
    assert "Traceback" not in err
