"""What a run goes on from: the newest checkpoint that is whole, and what its recipe changed since.

    state.safetensors          the newest, every two minutes
    state-500.safetensors      copies at certain steps, the last few of them

A copy is a file of its own, not a link: what damages one must not damage the other. A resumed run
does not take a changed recipe silently; `optim.steps` may change, which makes a run longer or
shorter, and so may the tables [log] and [inference] and where weights are (of [scale]), which do
not touch what is trained.
"""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path

from dcgrid.errors import RecipeError, WeightsError
from dcgrid.io.atomic import whole_file
from dcgrid.io.progress import counted
from dcgrid.train.checkpoint import (
    STATE_NAME,
    DamagedCheckpoint,
    TrainState,
    full_disk_hint,
    load_state,
    read_facts,
)
from dcgrid.train.settings import TrainRecipe


def kept_states(folder: Path) -> list[tuple[int, Path]]:
    """Return the kept checkpoints with their steps, newest first."""
    named = [(re.fullmatch(r"state-(\d+)\.safetensors", p.name), p) for p in folder.glob("state-*")]
    return sorted(((int(match[1]), path) for match, path in named if match), reverse=True)


def keep_state(folder: Path, step: int, keep_last: int) -> None:
    """Copy the newest checkpoint to `state-STEP.safetensors`, and drop the oldest copies.

    Raises:
        OutputError: The copy cannot be written; the newest checkpoint stays.
    """
    target = folder / f"state-{step}.safetensors"
    with whole_file(target, hint=full_disk_hint(folder)) as part:
        shutil.copyfile(folder / STATE_NAME, part)
    drop_states(folder, keep_last)


def drop_states(folder: Path, keep_last: int = 0) -> None:
    """Remove all kept checkpoints but the newest few."""
    for _, path in kept_states(folder)[keep_last:]:
        with suppress(OSError):  # one too many is no reason to stop
            path.unlink(missing_ok=True)


def find_state(folder: Path) -> tuple[Path, int, dict[str, str], str]:
    """Return the checkpoint to go on from, its step and facts, and why it is not the newest.

    Only heads and lengths are read, which is what a file that was cut short fails on.

    Raises:
        WeightsError: There is no checkpoint.
        DamagedCheckpoint: The newest is damaged, and so is every kept one.
    """
    newest = folder / STATE_NAME
    try:
        return newest, *read_facts(newest), ""
    except WeightsError as error:
        for _, path in kept_states(folder):
            with suppress(DamagedCheckpoint):
                return path, *read_facts(path), error.message
        raise


def load_newest(folder: Path, state: TrainState, say: Callable[[str], None]) -> None:
    """Fill `state` from the newest checkpoint that is whole; report if that is a kept one.

    Raises:
        WeightsError: There is no checkpoint, or it is of another model.
        DamagedCheckpoint: The newest is damaged, and so is every kept one.
    """
    try:
        load_state(folder / STATE_NAME, state)
        return
    except WeightsError as error:
        if (folder / STATE_NAME).exists() and not isinstance(error, DamagedCheckpoint):
            raise
        for step, path in kept_states(folder):
            with suppress(DamagedCheckpoint):
                load_state(path, state)
                say(f"{error.message}; going on from {path.name}, {counted(step, 'step')}")
                return
        raise


def drop_later_states(folder: Path, step: int) -> None:
    """Remove kept checkpoints of later steps than the one a run goes on from: they are damaged.

    Not before every process of the run has looked for one that is whole.
    """
    for later, damaged in kept_states(folder):
        if later > step:
            damaged.unlink(missing_ok=True)


def read_step(folder: Path) -> int | None:
    """Return how many steps the checkpoint to go on from has behind it; None without one.

    Raises:
        DamagedCheckpoint: No checkpoint is whole.
    """
    if not (folder / STATE_NAME).exists() and not kept_states(folder):
        return None
    return find_state(folder)[1]


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
        RecipeError: Model or recipe changed, and `accept` is False.
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
    listed = "; ".join(lines[:SHOWN_CHANGES]) + (f"; and {more} more" if more > 0 else "")
    if not accept:
        raise RecipeError(
            f"the recipe is not the checkpoint's: {listed}",
            hint="change it back, go on with --resume --accept-changes, or use another --out",
        )
    say(f"going on with changes: {listed}")


def changed_keys(earlier: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """Return "was -> is" by dotted key, for model and recipe, as far as it matters."""
    was, is_ = _flat(earlier), _flat(now)
    if "stage" in was:
        # A checkpoint from before a key was known went by what is its default now.
        known = dict(_DEFAULTS)
        for key in is_:
            for end, text in _PHASE_DEFAULTS.items():
                if key.startswith("phases[") and key.endswith(end):
                    known[key] = text
        was = {key: text for key, text in known.items() if key in is_} | was
    return {
        key: f"{was.get(key, 'not there')} -> {is_.get(key, 'not there')}"
        for key in dict.fromkeys([*is_, *was])
        if was.get(key) != is_.get(key) and not key.startswith(_NO_MATTER)
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
