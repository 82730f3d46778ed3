"""What a recipe changed since a checkpoint was written; a resumed run does not take it silently.

`optim.steps` may change, which makes a run longer or shorter, and so may the tables [log] and
[inference] and where weights are (of [scale]), which do not touch what is learnt.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, fields

from dcgrid.errors import RecipeError
from dcgrid.train.settings import TrainRecipe

_DEFAULTS = {
    one.name: json.dumps(one.default)
    for one in fields(TrainRecipe)
    if isinstance(one.default, str | bool | int)
} | {"scale.accumulate": "1", "loss.dc_strength": "0.0", "loss.self_conditioning": "0.0"}
"""Keys of a recipe that may be left out, or that earlier versions did not know, as JSON text."""
_PHASE_DEFAULTS = {".image_share": "0.0", ".image_sizes": "[]", ".image_batch": "1"}
"""The same for the keys of a phase, by the ends of their names."""
_NO_MATTER = ("log.", "inference.", "scale.checkpointing", "scale.shard")
"""What keys begin with that may change without a word: nothing is trained by them."""
SHOWN_CHANGES = 8
"""Changed keys that an error names; the rest are counted."""


def facts_of_run(recipe: TrainRecipe, model: str) -> dict[str, str]:
    """Return what a checkpoint says of its run, the whole recipe as JSON among it."""
    return {"stage": recipe.stage, "model": model, "recipe": json.dumps(asdict(recipe))}


def check_changes(
    facts: Mapping[str, str],
    recipe: TrainRecipe,
    model: str,
    say: Callable[[str], None],
    *,
    accept: bool,
) -> None:
    """Compare a run with what its checkpoint says of it; notes go to `say`.

    Raises:
        RecipeError: Model or recipe changed, and that was not asked for.
    """
    if "recipe" not in facts:
        say("the checkpoint is older than its recipe's record: changes since are not noticed")
        return
    changes = changed_keys(facts, facts_of_run(recipe, model))
    steps = changes.pop("optim.steps", None)
    if steps and (recipe.optim.cooldown or len(recipe.phases) > 1):
        say(f"optim.steps: {steps}; cooldown and phases are parts of it and move with it")
    if not changes:
        return
    lines = [f"{key}: {change}" for key, change in changes.items()]
    more = len(lines) - SHOWN_CHANGES
    told = "; ".join(lines[:SHOWN_CHANGES]) + (f"; and {more} more" if more > 0 else "")
    if not accept:
        raise RecipeError(
            f"the recipe is not the checkpoint's: {told}",
            hint="change it back, go on with --resume --accept-changes, or use another --out",
        )
    say(f"going on with changes: {told}")


def changed_keys(earlier: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """Return "was -> is" by dotted key, for model and recipe, as far as it matters."""
    was, is_ = _flat(earlier), _flat(now)
    if "stage" in was:
        # A checkpoint from before a key was known went by what is its default now.
        known = _DEFAULTS | _defaults_of_phases(is_)
        was = {key: text for key, text in known.items() if key in is_} | was
    return {
        key: f"{was.get(key, 'not there')} -> {is_.get(key, 'not there')}"
        for key in dict.fromkeys([*is_, *was])
        if was.get(key) != is_.get(key) and not key.startswith(_NO_MATTER)
    }


def _defaults_of_phases(keys: Iterable[str]) -> dict[str, str]:
    """Return what a phase's keys mean where they are left out, by dotted key."""
    return {
        key: default
        for key in keys
        for end, default in _PHASE_DEFAULTS.items()
        if key.startswith("phases[") and key.endswith(end)
    }


def _flat(facts: Mapping[str, str]) -> dict[str, str]:
    """Return every value of the facts as JSON text by its dotted key."""
    try:
        recipe = json.loads(facts["recipe"])
    except (ValueError, TypeError):  # no recipe of ours: every key then counts as changed
        recipe = {}
    flat = {"model": facts.get("model", "")}

    def walk(value: object, place: str) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(inner, f"{place}.{key}" if place else str(key))
        elif isinstance(value, list) and any(isinstance(inner, dict) for inner in value):
            for index, inner in enumerate(value):
                walk(inner, f"{place}[{index}]")
        else:
            flat[place] = json.dumps(value)

    walk(recipe, "")
    return flat
