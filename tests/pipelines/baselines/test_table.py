"""Looking a method up, what it makes of a job, and what it refuses before anything is loaded."""

import subprocess
import sys
from pathlib import Path

import pytest

from dcgrid.errors import UsageError
from dcgrid.pipelines.baselines import METHODS, method_of
from dcgrid.pipelines.job import EditJob

JOB = EditJob(input=Path("clip.mp4"), effects=("rain",))


def test_an_unknown_method_is_told_with_the_nearest():
    with pytest.raises(UsageError, match="no method is called 'sdeditt'") as told:
        method_of("sdeditt")
    assert told.value.hint == "did you mean 'sdedit'?"
    with pytest.raises(UsageError) as told:
        method_of("?")
    assert "set-and-sequence" in told.value.hint


@pytest.mark.parametrize("key", METHODS)
def test_every_method_has_a_painter_and_a_source(key: str):
    method = METHODS[key]
    assert method.key == key
    assert callable(method.generate_fn())
    assert method.source
    assert method.line.startswith(f"Method: {method.label} (")
    assert method.trains == ("training" in method.line)


def test_only_the_grid_keeps_its_adapter():
    assert method_of("grid").prepare(JOB) == JOB
    for key, method in METHODS.items():
        prepared = method.prepare(JOB)
        assert prepared.adapter == ("default" if key == "grid" else "none")
        assert prepared.generated_by == key


def test_own_sampler_values_stand_where_the_user_names_none():
    named = method_of("sdedit").prepare(
        EditJob(input=JOB.input, effects=("rain",), num_inference_steps=7, guidance_scale=0.0)
    )
    assert (named.num_inference_steps, named.guidance_scale) == (7, 0.0)
    usual = method_of("sdedit").prepare(JOB)
    assert (usual.num_inference_steps, usual.guidance_scale) == (24, 4.0)
    inpaint = method_of("inpaint").prepare(JOB)
    assert (inpaint.num_inference_steps, inpaint.guidance_scale) == (24, None)
    # A checkout has values of its own.
    large = EditJob(input=JOB.input, effects=("rain",), model="wan2.2-5b")
    assert method_of("sdedit").prepare(large).num_inference_steps is None


def test_a_named_adapter_is_refused_where_none_is_used():
    job = EditJob(input=JOB.input, effects=("rain",), adapter="mine.safetensors")
    with pytest.raises(UsageError, match="takes no --adapter"):
        method_of("flowedit").prepare(job)
    assert method_of("grid").prepare(job).adapter == "mine.safetensors"


def test_long_clips_are_refused_with_a_duration_that_fits():
    for key, method in METHODS.items():
        if key in ("grid", "inpaint", "unedited", "codec"):
            method.refuse(windows=2, longest_s=2.756)
            continue
        with pytest.raises(UsageError, match="in one go") as told:
            method.refuse(windows=2, longest_s=2.756)
        assert told.value.hint == "use --duration 2.75 or less"
        method.refuse(windows=1, longest_s=2.756)


def test_training_is_refused_on_several_processes():
    with pytest.raises(UsageError, match="not in 2"):
        method_of("dreammix").refuse(windows=1, longest_s=2.75, processes=2)
    method_of("flowedit").refuse(windows=1, longest_s=2.75, processes=2)


def test_looking_up_loads_no_torch():
    code = (
        "import sys; from dcgrid.pipelines.baselines import method_of; method_of('sdedit'); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
