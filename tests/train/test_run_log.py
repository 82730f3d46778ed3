"""log.jsonl and TensorBoard: what they hold after a kill, and that they agree."""

import builtins
import importlib.util
import json
from pathlib import Path

import pytest

from dcgrid.errors import OutputError
from dcgrid.train.log import BOARD_NAME, LOG_NAME, RunLog, cut_log, open_board
from dcgrid.train.loop import LoopOptions, train
from dcgrid.train.settings import LogSettings

_FILE = importlib.util.spec_from_file_location("toy", Path(__file__).with_name("toy.py"))
toy = importlib.util.module_from_spec(_FILE)
_FILE.loader.exec_module(toy)


def lines_of(folder):
    lines = [json.loads(line) for line in (folder / LOG_NAME).read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "s_per_step"} for line in lines]


def run(folder, *, steps=12, save_every_s=1e9, resume=False, stage=None, tensorboard=False):
    options = LoopOptions(folder=folder, resume=resume, save_every_s=save_every_s, log_every=5)
    log = LogSettings(keep_last=0, tensorboard=tensorboard)
    return train(stage or toy.ToyStage(), toy.toy_recipe(steps, log=log), options, lambda _: None)


def test_cut_keeps_what_the_checkpoint_knows_of(tmp_path):
    path = tmp_path / LOG_NAME
    path.write_text('{"step": 5, "loss": 1.5}\n{"step": 10}\n[3]\n{"step": 15}\n{"step": 7, "lo')
    assert cut_log(path, 10) == [{"step": 5, "loss": 1.5}, {"step": 10}]
    assert path.read_text() == '{"step": 5, "loss": 1.5}\n{"step": 10}\n'
    assert cut_log(tmp_path / "none.jsonl", 10) == []
    assert [p.name for p in tmp_path.iterdir()] == [LOG_NAME]


def test_a_log_ahead_of_its_checkpoint_is_cut_and_written_again(tmp_path):
    """Killed at step 11, after the line of step 10; the checkpoint is of step 7."""
    run(tmp_path / "whole")

    class Stop(Exception):  # noqa: N818 - stands for a kill
        pass

    stage, calls = toy.ToyStage(), []

    def die():
        calls.append(1)
        if len(calls) > 11:
            raise Stop

    stage.before_loss = die
    folder = tmp_path / "killed"
    with pytest.raises(Stop):
        run(folder, stage=stage, save_every_s=0.0)
    assert [line["step"] for line in lines_of(folder)] == [5, 10]
    early = tmp_path / "early"
    stage, calls[:] = toy.ToyStage(), [1] * 4
    stage.before_loss = die
    with pytest.raises(Stop):
        run(early, stage=stage, save_every_s=0.0)
    (early / LOG_NAME).write_text((folder / LOG_NAME).read_text())
    run(early, resume=True)
    # Also the means of step 10, of which the checkpoint had seen two steps of five.
    assert lines_of(early) == lines_of(tmp_path / "whole")


def test_a_new_run_begins_a_new_log(tmp_path):
    run(tmp_path)
    run(tmp_path, steps=5)
    assert [line["step"] for line in lines_of(tmp_path)] == [5]


def test_a_log_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / LOG_NAME).mkdir()
    with pytest.raises(OutputError, match=r"log\.jsonl"):
        RunLog(tmp_path, 0, every=1, pending={}, board=None, on_progress=lambda _: None)


def test_without_tensorboard_there_is_a_note(tmp_path, monkeypatch):
    plain = builtins.__import__

    def without(name, *rest):
        if name.startswith("torch.utils.tensorboard"):
            raise ImportError(name)
        return plain(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    notes = []
    assert open_board(tmp_path, notes.append) is None
    assert len(notes) == 1
    assert "pip install" in notes[0]


def test_tensorboard_reads_the_same_figures_also_after_a_kill(tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tmp_path, steps=10, tensorboard=True)
    with (tmp_path / LOG_NAME).open("a") as stream:
        stream.write('{"step": 15, "loss": 99.0}\n')
    run(tmp_path, steps=20, resume=True, tensorboard=True)
    reader = EventAccumulator(str(tmp_path / BOARD_NAME))
    reader.Reload()
    log = lines_of(tmp_path)
    assert [line["step"] for line in log] == [5, 10, 15, 20]
    for name in ("loss", "grad_norm", "twice"):
        events = [(event.step, event.value) for event in reader.Scalars(name)]
        assert events == [(line["step"], pytest.approx(line[name], rel=1e-6)) for line in log]
