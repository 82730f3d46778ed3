"""Where the clips and weights are that cannot be committed."""

import importlib.util
from pathlib import Path

import pytest

# The checkout may be a worktree deeper down.
SHARED = next(
    (one / "shared" for one in Path(__file__).parents if (one / "shared" / "weights").is_dir()),
    Path(__file__).parents[3] / "shared",
)
CLIPS, WEIGHTS = SHARED / "clips", SHARED / "weights"
needs_weights = pytest.mark.skipif(
    not (WEIGHTS / "w600k_mbf.onnx").is_file(), reason="no ../shared/weights"
)
needs_clips = pytest.mark.skipif(
    not (CLIPS / "asl_again.mkv").is_file(), reason="no ../shared/clips"
)


def lacks(*modules):
    """A mark that skips where a package of the extra is not installed."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs dcgrid[eval]: {missing}")
