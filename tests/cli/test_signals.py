"""Ctrl-C and SIGTERM at any moment: exit code 130, one word, nothing left, never lost."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import dcgrid.cli.app  # noqa: F401 - before a test replaces what its modules import
from dcgrid.cli.interrupts import INTERRUPTED, Interrupts
from dcgrid.cli.main import main
from tests.cli.test_main import environment, run_python

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def send(number: signal.Signals = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.01)


def drop() -> None:
    """Do what Python does with an exception of a finaliser, and torch with one of an import."""
    try:
        send()
    except BaseException:
        return
    pytest.fail("nothing was raised")


def test_handlers_stand_before_the_imports() -> None:
    done = run_python("-X", "importtime", "-m", "dcgrid", "--version")
    names = [line.split("|")[-1].strip() for line in done.stderr.splitlines()]
    before = names[: names.index("dcgrid.cli.interrupts")]
    assert not {"typer", "rich", "click", "pydantic", "dcgrid.cli.app"} & set(before)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_becomes_an_interrupt_and_the_handlers_come_back(number: signal.Signals) -> None:
    earlier = [signal.getsignal(one) for one in (*SIGNALS, signal.SIGALRM)]
    with pytest.raises(KeyboardInterrupt), Interrupts():
        send(number)
    assert [signal.getsignal(one) for one in (*SIGNALS, signal.SIGALRM)] == earlier
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_an_interrupt_that_is_swallowed_is_raised_again() -> None:
    def work() -> None:
        with Interrupts() as interrupts:
            drop()
            assert interrupts.received
            time.sleep(20)

    with pytest.raises(KeyboardInterrupt):
        work()


def test_signals_while_the_stack_unwinds_wait() -> None:
    cleaned = []

    def generate():
        try:
            yield
        finally:
            send()
            cleaned.append("generator")

    def work() -> None:
        with Interrupts():
            opened = generate()
            next(opened)
            try:
                send()
            finally:
                send(signal.SIGTERM)
                time.sleep(0.4)  # longer than it takes to look again
                del opened
                cleaned.append("finally")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert cleaned == ["generator", "finally"]


def test_one_that_comes_late_ends_a_clean_up_that_hangs() -> None:
    code = (
        "import os, signal, time\n"
        "from dcgrid.cli import interrupts\n"
        "interrupts._PATIENCE_S = 0.1\n"
        "with interrupts.Interrupts():\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGINT); time.sleep(9)\n"
        "    finally:\n"
        "        time.sleep(0.2)\n"
        "        os.kill(os.getpid(), signal.SIGINT); time.sleep(9)\n"
    )
    done = run_python("-c", code)
    assert (done.returncode, done.stderr) == (INTERRUPTED, "interrupted\n")


def test_a_signal_after_the_end_goes_to_the_earlier_handlers() -> None:
    come = []
    earlier = signal.signal(signal.SIGTERM, lambda *_: come.append("earlier"))
    try:
        with Interrupts() as interrupts:
            interrupts.hold()
            send(signal.SIGTERM)
            assert not come
        assert come == ["earlier"]
    finally:
        signal.signal(signal.SIGTERM, earlier)


def test_what_the_process_ignores_stays_ignored() -> None:
    earlier = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            send()
        assert not interrupts.received
    finally:
        signal.signal(signal.SIGINT, earlier)


@pytest.mark.parametrize("outcome", [None, ValueError("what a library made of it")])
def test_an_interrupted_run_never_ends_otherwise(
    outcome: Exception | None,
    clip: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def swallow(*_: object, **__: object) -> None:
        drop()
        if outcome:
            raise outcome

    monkeypatch.setattr("dcgrid.cli.run_job.in_first_process", swallow)
    assert main(["edit", str(clip), "-e", "rain"]) == INTERRUPTED
    assert capsys.readouterr() == ("", "interrupted\n")


def test_a_dropped_interrupt_leaves_no_trace(
    clip: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    class Finalised:
        def __del__(self) -> None:
            send()

    def work(*_: object, **__: object) -> None:
        Finalised()
        time.sleep(20)

    monkeypatch.setattr("dcgrid.cli.run_job.in_first_process", work)
    began_s = time.monotonic()
    assert main(["edit", str(clip), "-e", "rain"]) == INTERRUPTED
    assert time.monotonic() - began_s < 10
    assert capfd.readouterr() == ("", "interrupted\n")


def has_handlers(process: int) -> bool:
    """Return True once SIGTERM has a handler: Python has started and reached our first lines.

    What comes before is the interpreter's own start, which no program sees.
    """
    status = Path(f"/proc/{process}/status").read_text().splitlines()
    caught = next(line for line in status if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_a_hundred_signals_at_random_moments(clip: Path, tmp_path: Path) -> None:
    """Half of them in the first half second, a third of them twice."""
    dice = random.Random(27)
    words = ["edit", str(clip), "-e", "rain", "--model", "tiny", "--num-inference-steps", "2"]
    wrong, ended = [], 0
    for case in range(100):
        cache = tmp_path / f"cache-{case}"
        wait_s = dice.uniform(0, 0.5) if case % 2 else dice.uniform(0, 4)
        number, twice = dice.choice(SIGNALS), case % 3 == 0
        out = tmp_path / f"out-{case}"
        with subprocess.Popen(
            [sys.executable, "-m", "dcgrid", *words, "--out", str(out)],
            env={**environment(), "DCGRID_CACHE_DIR": str(cache)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            while not has_handlers(process.pid):
                time.sleep(0.001)
            time.sleep(wait_s)
            over = process.poll() is not None
            process.send_signal(number)
            if twice:
                time.sleep(dice.choice((0, 0.002, 0.02, 0.2)))
                process.send_signal(number)
            _, err = process.communicate(timeout=120)
        left = sorted(path.name for path in out.glob("*")) if out.exists() else []
        parts = [path.name for path in cache.rglob("*.part*")]
        good = process.returncode == INTERRUPTED and err.endswith("interrupted\n") and not left
        if over:
            ended += 1
            good = process.returncode == 0 and len(left) == 3
        if not good or parts or "Traceback" in err or "Exception ignored" in err:
            wrong.append((case, wait_s, number.name, process.returncode, left, parts, err[-300:]))
    assert not wrong
    assert ended < 50
