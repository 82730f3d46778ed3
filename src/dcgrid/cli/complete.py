"""What shells complete after an option: effects, models, metrics, ...; docs/cli.md says how.

No torch is loaded, nothing is downloaded, and a mistake in a file of the user's completes nothing
instead of printing an error.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

from dcgrid import hub


def _completes(names: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """Return what Typer calls for the names that go on from what is typed."""

    def complete(incomplete: str) -> list[str]:
        try:
            return [name for name in names() if name.startswith(incomplete)]
        except Exception:
            # Whatever is wrong, the shell's prompt is no place to say so.
            return []

    return complete


def _recipe_dir() -> Path:
    return hub.config_dir() / "recipes"


def _effects() -> Iterable[str]:
    from dcgrid.recipes import effect_names

    return effect_names(_recipe_dir())


def _layouts() -> Iterable[str]:
    from dcgrid.recipes import layout_names

    return layout_names(_recipe_dir())


def _suites() -> Iterable[str]:
    from dcgrid.eval.suites.suite import suite_names

    return suite_names(_recipe_dir())


def _metrics() -> Iterable[str]:
    from dcgrid.eval.columns import METRICS

    return METRICS


def _methods() -> Iterable[str]:
    from dcgrid.pipelines.baselines.table import METHODS

    return METHODS


def _elements() -> Iterable[str]:
    from dcgrid.pipelines.elements import ELEMENT_CLIPS

    return ELEMENT_CLIPS


def _models() -> Iterable[str]:
    from dcgrid.models.native.config import PRESETS

    return (*PRESETS, *hub.MODELS)


def _adapters() -> Iterable[str]:
    import dcgrid

    weights = Path(dcgrid.__file__).parent / "models" / "weights"
    files = sorted(weights.glob("*/fill*.safetensors"))
    packaged = (f"package:{path.relative_to(weights).as_posix()}" for path in files)
    return ("default", "none", *packaged, *(one.reference for one in hub.ADAPTERS))


def _config_keys() -> Iterable[str]:
    from dcgrid.cli.app import command_tree
    from dcgrid.cli.defaults import Options

    return Options(command_tree()).keys()


effects = scenes = _completes(_effects)
layouts = _completes(_layouts)
recipes = _completes(lambda: (*_effects(), *_layouts()))
suites = _completes(_suites)
metrics = _completes(_metrics)
methods = _completes(lambda: ("grid", *_methods()))
elements = _completes(_elements)
models = _completes(_models)
hub_models = _completes(lambda: (*_models(), *hub.SCORERS))
adapters = _completes(_adapters)
config_keys = _completes(_config_keys)
devices = _completes(lambda: ("auto", "cpu", "cuda", "mps"))


def ranks(incomplete: str) -> list[str]:
    """Return the metrics that a list with commas may go on with."""
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in metrics(last)]
