"""Ray (a real one, on this machine), Slurm (submitit's local executor) and the examples of docs."""

import json
import os
import random
import shlex
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from dcgrid.batch.ray_engine import RayEngine
from dcgrid.batch.slurm import SlurmEngine
from dcgrid.batch.store import open_store
from dcgrid.cli.app import command_tree
from dcgrid.cli.main import main
from dcgrid.errors import BatchError
from tests.batch.batches import leftovers, pixels, run, write_jobs

ROOT = Path(__file__).parents[2]
ROWS = [{"seed": seed} for seed in range(4)]
NEEDS_RAY = "needs Ray: pip install 'dcgrid[batch]' (260 MB)"
NEEDS_SUBMITIT = "needs submitit: pip install 'dcgrid[batch]'"


@pytest.fixture(scope="module")
def jobs(shared_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    clip = tmp_path_factory.mktemp("clusters") / "input.mp4"
    clip.write_bytes(shared_clip.read_bytes())
    return write_jobs(clip, ROWS)


@pytest.fixture(scope="module")
def expected(jobs: Path, tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    out = tmp_path_factory.mktemp("serial") / "out"
    return pixels(open_store(str(out)), run(jobs, out))


@pytest.fixture
def imports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let processes that others start find this checkout."""
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'src'}{os.pathsep}{ROOT}")


def check(out: Path, done: Any, expected: list[list[str]]) -> None:
    assert [row["status"] for row in done.rows] == ["done"] * len(ROWS), done.rows
    assert pixels(open_store(str(out)), done) == expected


@pytest.mark.parametrize("workers", [1, 2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.usefixtures("imports")
def test_ray_makes_what_one_process_makes(
    workers: int, jobs: Path, expected: list[list[str]], tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason=NEEDS_RAY)
    out = tmp_path / "out"
    check(out, run(jobs, out, RayEngine(), workers), expected)
    assert leftovers(out) == []


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 20))]
)
@pytest.mark.usefixtures("imports")
def test_an_actor_of_ray_is_killed(
    seed: int, jobs: Path, expected: list[list[str]], tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason=NEEDS_RAY)
    moment, out = random.Random(seed), tmp_path / "out"

    def kill() -> None:
        while not (pids := owners(out)):
            time.sleep(0.05)
        time.sleep(moment.random() * 3)
        pids = owners(out) or pids
        with suppress(ProcessLookupError):
            os.kill(moment.choice(sorted(pids)), 9)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    check(out, run(jobs, out, RayEngine(), 2), expected)


def owners(out: Path) -> set[int]:
    """Return the processes that hold a row."""
    found = set()
    for path in (out / "claims").glob("*.[0-9]"):
        try:
            found.add(int(json.loads(path.read_text())["owner"]["process"]))
        except (OSError, ValueError):
            continue
    return found


@pytest.mark.slow
@pytest.mark.usefixtures("imports")
def test_a_node_of_ray_is_lost(jobs: Path, expected: list[list[str]], tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason=NEEDS_RAY)
    from ray.cluster_utils import Cluster

    out = tmp_path / "out"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    node = cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    try:

        def lose() -> None:
            while not owners(out):
                time.sleep(0.05)
            cluster.remove_node(node, allow_graceful=False)
            cluster.add_node(num_cpus=1)

        thread = threading.Thread(target=lose, daemon=True)
        thread.start()
        check(out, run(jobs, out, RayEngine(), 2), expected)
        thread.join()
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.mark.usefixtures("imports")
def test_ray_that_cannot_be_reached_is_named(jobs: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason=NEEDS_RAY)
    with pytest.raises(BatchError, match="the Ray cluster cannot be reached"):
        run(jobs, tmp_path / "out", RayEngine(address="127.0.0.1:1"), 1)


@pytest.mark.usefixtures("imports")
def test_slurm_by_submitits_local_executor(
    jobs: Path, expected: list[list[str]], tmp_path: Path
) -> None:
    pytest.importorskip("submitit", reason=NEEDS_SUBMITIT)
    out = tmp_path / "out"
    done = run(jobs, out, SlurmEngine(cluster="local", poll_s=0.5), 2)
    check(out, done, expected)
    assert list((out / "slurm").glob("*_submitted.pkl"))


def test_a_task_that_is_stopped_is_queued_again() -> None:
    pytest.importorskip("submitit", reason=NEEDS_SUBMITIT)
    from dcgrid.batch.slurm import _Task
    from tests.batch.batches import task_of

    again = _Task().checkpoint(task_of("/shared/out", 3, 8))
    assert isinstance(again.function, _Task)
    assert again.args[0].number == 3


@pytest.mark.parametrize(("engine", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_an_engine_that_is_not_installed_is_named(
    engine: str,
    package: str,
    jobs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    words = ["batch", str(jobs), "--out", str(tmp_path / "out"), "--on", engine]
    assert main(words) == 3
    text = capsys.readouterr().err
    assert "which is not installed" in text
    assert "pip install 'dcgrid[batch]'" in text


def test_examples_for_kubernetes_are_yaml_with_commands_of_ours() -> None:
    yaml = pytest.importorskip("yaml", reason="needs PyYAML, which transformers brings")
    folder = ROOT / "examples" / "batch"
    job = yaml.safe_load((folder / "job.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    assert job["spec"]["completionMode"] == "Indexed"
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    command = [*container["command"], *container["args"]]
    ray_job = yaml.safe_load((folder / "rayjob.yaml").read_text())
    assert (ray_job["apiVersion"], ray_job["kind"]) == ("ray.io/v1", "RayJob")
    groups = ray_job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    templates = [pod, *(one["template"]["spec"] for one in groups)]
    for spec in templates:
        mounted = {m["name"] for one in spec["containers"] for m in one["volumeMounts"]}
        assert mounted <= {volume["name"] for volume in spec["volumes"]}
    for words in (command, shlex.split(ray_job["spec"]["entrypoint"])):
        assert words[:2] == ["dcgrid", "batch"]
        batch = command_tree().commands["batch"]
        batch.make_context("batch", words[2:], resilient_parsing=False).close()
