"""`dcgrid adapters`: what a file holds, and copies for other programs."""

import json

import pytest
from safetensors import safe_open

from dcgrid.adapters.reading import read_adapter
from dcgrid.cli.main import main
from dcgrid.models.loading import weight_files

FILL = "package:mini/fill.safetensors"


def test_show_says_what_it_is_and_how_much_it_changes(capsys):
    assert main(["adapters", "show", FILL]) == 0
    out = capsys.readouterr().out
    assert "base         mini" in out
    assert "stage        fill" in out
    assert main(["adapters", "show", FILL, "--format", "json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    spec, tensors = read_adapter(weight_files("mini")["fill"])
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


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["show", "nowhere.safetensors"], 4, "does not exist"),
        (["show", "{text}"], 4, "cannot read adapter"),
        (["export", FILL], 2, "--out"),
        (["export", FILL, "-o", "{text}/folder"], 3, "cannot make the folder"),
        (["export", FILL, "-o", "x", "--for", "gimp"], 2, "gimp"),
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
