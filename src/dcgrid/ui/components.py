"""The page in Gradio's components: a tab for edit, compose and story, each form, plan, run, result.

Gradio is imported here, so this module is imported when the page is made.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import gradio as gr

from dcgrid.pipelines.job import MAX_CANDIDATES
from dcgrid.ui.page import Page

_LOOK_S = 0.3
"""Between two words of how far a run is."""
_FILMS = ["video", ".gif", ".webp", ".y4m", ".mkv", ".mov"]

Fields: TypeAlias = dict[str, Any]
"""Components by the name of the option that they are."""


def make_blocks(page: Page) -> gr.Blocks:
    """Return the page."""
    with gr.Blocks(title="dcgrid", analytics_enabled=False) as blocks:
        gr.Markdown("# dcgrid\nYour clip in new light, weather and company.", elem_id="dc-head")
        with gr.Tabs():
            for label, make in (("Edit", _edit), ("Compose", _compose), ("Story", _story)):
                with gr.Tab(label, elem_id=f"dc-{label.lower()}"):
                    _panel(page, label.lower(), make)
        gr.HTML(
            "<p class='dc-hint'>Previews: Big Buck Bunny, (c) 2008 Blender Foundation, "
            "www.bigbuckbunny.org, CC-BY-3.0, edited by mini.</p>"
        )

        def leave(request: gr.Request) -> None:
            page.stop(request.session_hash or "")

        blocks.unload(leave)
    return blocks


def _panel(page: Page, command: str, make: Callable[[Page], Fields]) -> None:
    """Lay out one tab: the form, what it would do, the run and what came of it."""
    with gr.Row():
        with gr.Column(scale=3, min_width=320):
            fields = make(page)
            with gr.Accordion("Options", open=False):
                fields |= _options(command)
        with gr.Column(scale=4, min_width=320, elem_classes="dc-work"):
            plan = gr.HTML()
            with gr.Row():
                go = gr.Button(command.capitalize(), variant="primary")
                stop = gr.Button("Cancel", interactive=False)
            status = gr.HTML()
            player = gr.HTML(
                html_template="<div class='dc-player'></div>",
                js_on_load=_once_loaded("dcgrid.player(element, props, watch)"),
            )
    names, inputs = list(fields), list(fields.values())

    def show_plan(*values: Any) -> str:  # noqa: ANN401 - of any field
        return page.plan(command, dict(zip(names, values, strict=True)))

    def run(request: gr.Request, *values: Any) -> Iterator[tuple[Any, ...]]:  # noqa: ANN401
        begun, ended = (
            (gr.update(interactive=one), gr.update(interactive=not one)) for one in (False, True)
        )
        try:
            form = dict(zip(names, values, strict=True))
            started = page.start(request.session_hash or "", command, form)
        except Exception as error:
            yield page.error(error), gr.skip(), *ended
            return
        while started.is_alive:
            yield page.status(started), gr.skip(), *begun
            time.sleep(_LOOK_S)
        shown = gr.skip()
        if started.result is not None and started.planned is not None:
            shown = page.player(started.planned, started.result)
        yield page.status(started), shown, *ended

    def cancel(request: gr.Request) -> None:
        page.stop(request.session_hash or "")

    changes = [one.change for one in inputs]
    gr.on(changes, show_plan, inputs, plan, show_progress="hidden", trigger_mode="always_last")
    outputs = [status, player, go, stop]
    go.click(run, inputs, outputs, show_progress="hidden", concurrency_limit=None)
    stop.click(cancel, show_progress="hidden", concurrency_limit=None)


def _once_loaded(call: str) -> str:
    """Return a call that waits for the page's script, which Gradio adds at no certain time."""
    return f"const start = () => (window.dcgrid ? {call} : setTimeout(start, 50)); start();"


def _clip(label: str) -> gr.File:
    return gr.File(label=label, file_types=_FILMS, height=120)


def _tiles(label: str, tiles: list[dict[str, str]], kind: str) -> gr.HTML:
    """Return tiles with moving previews; `kind` is many (checks), one (radio) or add (buttons)."""
    return gr.HTML(
        [],
        label=label,
        html_template="<div class='dc-tiles'></div>",
        js_on_load=_once_loaded("dcgrid.tiles(element, props, trigger)"),
        tiles=tiles,
        kind=kind,
        title=label,
    )


def _edit(page: Page) -> Fields:
    return {
        "input": _clip("Your clip"),
        "effects": _tiles("Effects, up to three", page.effect_tiles(), "many"),
        "prompt": gr.Textbox(label="Or in your own words", placeholder="in a green light"),
        "subject": gr.Textbox(label="Who or what it shows", placeholder="a cat"),
    }


def _compose(page: Page) -> Fields:
    return {
        "first": _clip("Your clip"),
        "tile": _tiles("With", page.concept_tiles(), "one"),
        "second": _clip("Or with another clip of yours"),
        "concept": gr.Textbox(label="What that clip shows", placeholder="a shower of sparks"),
        "subject": gr.Textbox(label="Who or what your clip shows", placeholder="a man"),
        "prompt": gr.Textbox(label="How it is to look", placeholder="a man made of sparks"),
    }


def _story(page: Page) -> Fields:
    source = _clip("The character's clip")
    tiles = _tiles("Add a scene", page.effect_tiles(), "add")
    scenes = gr.Textbox(
        label="Scenes, one a line: an effect or your own words", lines=4, placeholder="rain"
    )

    def add(text: str, event: gr.EventData) -> str:
        lines = [one for one in text.splitlines() if one.strip()]
        return "\n".join([*lines, event.name])

    tiles.click(add, scenes, scenes, show_progress="hidden")
    return {
        "source": source,
        "scenes": scenes,
        "subject": gr.Textbox(label="Who it is about", placeholder="a man"),
    }


def _options(command: str) -> Fields:
    """Return the options that all three have, and a command's own."""
    fields: Fields = {}
    with gr.Row():
        fields["start"] = gr.Number(label="Start, seconds", value=0)
        fields["duration"] = gr.Number(label="Duration, seconds; 0: to the end", value=0)
    with gr.Row():
        fields["seed"] = gr.Number(label="Seed", value=0, precision=0)
        fields["num_inference_steps"] = gr.Number(
            label="Steps; 0: the model's", value=0, precision=0
        )
    fields["upsample"] = gr.Radio(
        ["guided", "plain", "none"],
        value="guided",
        label="Upsample",
        info="guided takes fine detail from your clip, plain enlarges, none leaves it small",
    )
    if command == "story":
        fields["titles"] = gr.Checkbox(label="Titles in the reel")
        fields["fade"] = gr.Number(label="Cross-fade, seconds", value=0)
    else:
        fields["candidates"] = gr.Slider(
            1, MAX_CANDIDATES, value=1, step=1, label="Candidates: so many seeds, the best is kept"
        )
    return fields
