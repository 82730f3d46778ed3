"""The command line as a whole: start-up, exit codes, streams, help."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dcgrid import __version__
from dcgrid.cli import errors as cli_errors
from dcgrid.cli.main import main
from dcgrid.errors import DcgridError, NetworkError, RecipeError

HEAVY = ("torch", "peft", "av", "transformers", "huggingface_hub", "numpy", "einops")


def environment() -> dict[str, str]:
    import dcgrid

    source = str(Path(dcgrid.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["recipes", "list"], ["edit", "--help"]]
)
def test_light_commands_load_no_heavy_module(arguments: list[str]) -> None:
    code = (
        "import sys; from dcgrid.cli.main import main; "
        f"code = main({arguments!r}); "
        f"print(code, sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)"
    )
    done = run_python("-c", code)
    assert done.stderr.strip().splitlines()[-1] == "0 []"
    assert done.stdout


def test_a_misspelt_effect_is_told_before_torch_is_loaded(clip: Path) -> None:
    code = (
        "import sys; from dcgrid.cli.main import main; "
        f"code = main(['edit', {str(clip)!r}, '--effect', 'rian']); "
        f"print(code, sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)"
    )
    done = run_python("-c", code)
    assert done.stderr.strip().splitlines()[-1] == "3 []"
    assert "did you mean 'rain'" in done.stderr


def test_an_edit_of_mini_loads_nothing_of_wan_and_no_compiler(clip: Path, tmp_path: Path) -> None:
    """torch's compiler takes as long to import as torch itself."""
    code = (
        "import sys; from dcgrid.cli.main import main; "
        f"code = main(['edit', {str(clip)!r}, '--effect', 'night', '--out', {str(tmp_path)!r}]); "
        "foreign = [name for name in sys.modules if name.startswith(('dcgrid.models.wan', "
        "'torch._dynamo', 'diffusers', 'transformers'))]; "
        "print(code, foreign, file=sys.stderr)"
    )
    done = run_python("-c", code)
    assert done.stderr.strip().splitlines()[-1] == "0 []"


def test_openmp_waits_passively_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "")
    monkeypatch.delenv("OMP_WAIT_POLICY")
    main(["--version"])
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    main(["--version"])
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"


def test_version_and_bare_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"dcgrid {__version__}\n"
    assert main([]) == 0
    assert "rerun" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["edit"], "INPUT"),
        (["edit", "x.mp4", "--efect", "rain"], "--efect"),
        (["edit", "x.mp4", "--seed", "many"], "--seed"),
        (["edit", "x.mp4", "--keep", "some"], "some"),
        (["nonsense"], "nonsense"),
    ],
)
def test_usage_errors_are_two_lines_and_code_2(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert lines[0].startswith("error: ")
    assert expected in lines[0]
    assert lines[1].startswith("hint: ")
    assert len(lines) == 2


def test_a_group_without_a_command_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 2
    out, err = capsys.readouterr()
    assert "render" in out + err
    assert "error" not in err


@pytest.mark.parametrize(
    ("error", "code", "expected"),
    [
        (NetworkError("no route", hint="try later"), 4, "error: no route\nhint: try later\n"),
        (DcgridError("odd"), 1, "error: odd\n"),
        (RecipeError("bad"), 3, "error: bad\nhint: correct the file"),
        (OSError(errno.ENOSPC, "No space left on device", "/x/y.mp4"), 3, "no space left"),
        (MemoryError(), 5, "error: out of memory\n"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), 5, "out of memory"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 3, "Permission denied: /x"),
        (KeyError("k"), 1, "error: internal error: KeyError: 'k'\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (ValueError("two\nlines"), 1, "error: internal error: ValueError: two\n"),
    ],
)
def test_the_table_of_errors(
    error: BaseException, code: int, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli_errors.report(error) == code
    err = capsys.readouterr().err
    assert expected in err
    assert "Traceback" not in err


def test_a_traceback_is_printed_on_demand(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DCGRID_TRACEBACK", "1")
    monkeypatch.setattr("dcgrid.cli.run_job.prepare_job", None)
    assert main(["edit", "x.mp4", "-e", "rain"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("Traceback")
    assert "TypeError: 'NoneType' object is not callable" in err


def test_hostile_file_names_cannot_write_to_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["edit", "a\x1b[31mb.mp4", "-e", "rain"]) == 3
    assert "\x1b" not in capsys.readouterr().err


def test_a_bug_in_a_command_is_one_line(
    monkeypatch: pytest.MonkeyPatch, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("dcgrid.cli.run_job.prepare_job", broken)
    assert main(["edit", str(clip), "-e", "rain"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: internal error: ZeroDivisionError: division by zero\nhint:")
    assert "Traceback" not in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_run_without_a_trace(clip: Path, number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "dcgrid", "edit", str(clip), "-e", "rain", "--model", "tiny",
         "--num-inference-steps", "1000"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        for line in process.stderr:
            if "sampling" in line:
                break
        time.sleep(0.1)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out == ""
    assert err.strip().splitlines()[-1] == "interrupted"
    assert "Traceback" not in err
    assert [path.name for path in clip.parent.iterdir()] == ["input.mp4"]


def test_json_is_alone_on_stdout(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["edit", str(clip), "-e", "rain", "--model", "tiny", "--num-inference-steps", "1"]
    assert main([*arguments, "--format", "json"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert [Path(path).name for path in result["files"]] == [
        "input.rain.mp4",
        "input.rain.png",
        "input.rain.json",
    ]
    assert all(Path(path).exists() for path in result["files"])
    assert "Grid: 2x2" in err
    assert "sampling" in err
    assert main(["rerun", result["files"][-1], "--format", "json", "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["same_pixels"] is True
    assert err == ""


def test_a_dry_run_loads_and_writes_nothing(
    clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("dcgrid.pipelines.run.run_plan", None)
    assert main(["edit", str(clip), "-e", "rain", "-e", "fog", "--dry-run"]) == 0
    assert "Grid: 2x2 cells" in capsys.readouterr().out
    assert main(["edit", str(clip), "-e", "rain", "--dry-run", "--format", "json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["dry_run"] is True
    assert plan["tokens"] > 0
    assert [path.name for path in clip.parent.iterdir()] == ["input.mp4"]


def test_quiet_says_nothing(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["edit", str(clip), "-e", "rain", "--model", "tiny", "--num-inference-steps", "1"]
    assert main([*arguments, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_offline_turns_the_hubs_own_switch(
    clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    arguments = ["edit", str(clip), "-e", "rain", "--model", "tiny", "--offline"]
    assert main([*arguments, "--adapter", "hf:someone/model@v1/fill.safetensors"]) == 4
    err = capsys.readouterr().err
    assert "network is off" in err
    assert "hint: run once without --offline" in err
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert [path.name for path in clip.parent.iterdir()] == ["input.mp4"]


def test_doctor_tells_devices_models_and_codecs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--format", "json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["versions"]["dcgrid"] == __version__
    assert "cpu" in facts["machine"]["devices"]
    assert {model["name"] for model in facts["models"]} >= {"mini", "tiny"}
    assert facts["codecs"]["decode"]["h264"] is True
    assert facts["codecs"]["encode"]["libx264"] is True
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "mini" in out
    assert "h264" in out
