"""`dcgrid eval study` through Typer: from results to a table, and what it refuses."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from typer.testing import CliRunner

import dcgrid
from dcgrid.cli.study import app
from dcgrid.errors import OutputError, StudyError, UsageError
from dcgrid.eval.study.design import read_key
from tests.eval.study.conftest import (
    FAR,
    NEAR,
    OURS,
    answer_sheet,
    hand_in,
    make_evaluation,
    right_file,
)


def run(*arguments):
    """Return stdout, and the error that the command raised."""
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    return result.stdout, result.exception


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    failed = (f"meadowclip--raintask--{FAR}--0",)
    return make_evaluation(tmp_path_factory.mktemp("evaluation"), failed=failed)


def test_from_results_to_a_table(evaluation, tmp_path):
    study = tmp_path / "study"
    options = ("--ours", OURS, "--out", study, "--pairs", 4, "--checks", 2)
    stdout, error = run("make", evaluation, *options, "--format", "json")
    assert error is None
    made = json.loads(stdout)
    facts = {"pairs": 7, "pairs_per_rater": 4, "checks": 2, "left_out": 1, "unlike": 0}
    assert facts.items() <= made.items()
    assert Path(made["page"]).is_file()
    assert Path(made["key"]).is_file()
    key = read_key(study)
    for rater in ("ada", "bo"):
        sheet = answer_sheet(key, rater, lambda shown, _: right_file(shown))
        assert len(sheet["trials"]) == 6
        hand_in(tmp_path / "answers", sheet)
    stdout, error = run("table", study, tmp_path / "answers", "--format", "json")
    assert error is None
    table = json.loads(stdout)
    assert [row["against"] for row in table["rows"]] == [NEAR, FAR]
    assert sum(one["answers"] for row in table["rows"] for one in row["cells"]) == 2 * 4 * 4
    assert all(one["share"] == 1.0 for row in table["rows"] for one in row["cells"])
    stdout, error = run("table", study, tmp_path / "answers", "--out", tmp_path / "out")
    assert error is None
    assert "Grid method vs. Rival method" in stdout
    assert "Ours vs. DreamMix" in stdout
    assert (tmp_path / "out" / "table.csv").is_file()


def test_make_tells_people_what_to_hand_out_and_what_was_left_out(evaluation, tmp_path):
    study = tmp_path / "study"
    stdout, error = run("make", evaluation / "results.json", "--ours", OURS, "--out", study)
    assert error is None
    assert f"hand out {study / 'page'}" in stdout
    assert "1 pair left out" in stdout
    stdout, error = run("make", evaluation, "--ours", OURS, "--out", study)
    assert isinstance(error, OutputError)
    assert "--force" in error.hint


def test_what_it_refuses(evaluation, tmp_path):
    _, error = run("make", evaluation, "--ours", "nobody", "--out", tmp_path / "s")
    assert isinstance(error, UsageError)
    assert OURS in error.hint
    _, error = run("table", tmp_path, tmp_path)
    assert isinstance(error, StudyError)
    assert error.exit_code == 3
    _, error = run("serve", tmp_path)
    assert isinstance(error, StudyError)


def test_the_command_loads_no_torch():
    code = "import sys, dcgrid.cli.study; sys.exit('torch' in sys.modules or 'av' in sys.modules)"
    source = str(Path(dcgrid.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": source})
    assert done.returncode == 0


def test_serve_until_interrupted(evaluation, tmp_path):
    study = tmp_path / "study"
    assert run("make", evaluation, "--ours", OURS, "--out", study)[1] is None
    code = "from dcgrid.cli.study import app; app(['serve', *__import__('sys').argv[1:]])"
    source = str(Path(dcgrid.__file__).parents[1])
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", code, str(study), "--port", "0"],
        env={**os.environ, "PYTHONPATH": source},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(address, timeout=10) as reply:
            assert b"Which edit is better?" in reply.read()
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 0
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()
