"""The page: a tab for each family of tasks, in it a tab for each task, and what happens when one is run."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from unireal.demo.engine import Engine, Outcome
from unireal.demo.events import QUIET
from unireal.demo.examples import examples_of
from unireal.demo.form import Form
from unireal.demo.results import Results, status
from unireal.notices import collected
from unireal.sample import Role
from unireal.tasks import TASKS, TaskSpec

TITLE = "UniReal"
ABOUT = "One diffusion transformer that treats every input and output image as a frame of a video."


def family(spec: TaskSpec) -> str:
    """The tab that a task is under."""
    if spec.video:
        return "Video"
    if spec.num_results[1] > 1:
        return "Compose"
    if spec.result_kind != "image":
        return "Understand"
    return "Edit" if any(slot.role is Role.CANVAS for slot in spec.slots) else "Generate"


def families() -> dict[str, list[TaskSpec]]:
    """Tasks by family, both in the order of TASKS."""
    found: dict[str, list[TaskSpec]] = {}
    for spec in TASKS.values():
        found.setdefault(family(spec), []).append(spec)
    return found


def build_app(engine: Engine) -> gr.Blocks:
    """The app of all tasks that are known now."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 3600)) as app:
        with gr.Row(elem_classes=["head"]):
            gr.HTML(f"<h1>{TITLE}</h1><p>{ABOUT}</p>")
            model = gr.HTML(status("loading the model ..."), elem_classes=["model"])
        plugins = []
        with gr.Tabs():
            for name, specs in families().items():
                with gr.Tab(name), gr.Tabs():
                    for spec in specs:
                        with gr.Tab(spec.name):
                            plugins.append(_page(spec, engine).plugins)

        def loaded() -> list[Any]:
            """What is known of the model once it is there."""
            try:
                text = engine.description()
            except (ValueError, OSError) as error:
                return [status(f"the model cannot be loaded: {error}"), *(gr.skip() for _ in plugins)]
            return [status(text), *(gr.update(choices=engine.accelerations()) for _ in plugins)]

        app.load(loaded, None, [model, *plugins], **QUIET)
    return app


def _page(spec: TaskSpec, engine: Engine) -> Form:
    summary = re.sub(r" \(--.*?\)", "", spec.summary)  # options of a command are fields here
    gr.Markdown(summary[:1].upper() + summary[1:] + ".")
    with gr.Row():
        with gr.Column(scale=5, min_width=360):
            form = Form(spec, engine)
            _examples(spec, form)
        with gr.Column(scale=5, min_width=360):
            results = Results(spec)

    def run(*values: Any) -> Iterator[dict[Any, Any]]:
        video = None
        try:
            with collected() as notices:
                recipe, video = form.read(values)
            with tempfile.TemporaryDirectory(prefix="unireal-") as name:
                folder = Path(name)
                for news in engine.run(recipe, video, folder / f"{spec.name}.mp4"):
                    if not isinstance(news, Outcome):
                        yield results.progress(news)
                        continue
                    for notice in (*notices, *news.notices):
                        gr.Warning(escape(notice, quote=False))
                    yield results.finished(news, folder)
        except ValueError as error:
            told = re.sub(r"--(?=[a-z])", "", str(error))  # a visitor sees fields, not options of a command
            told = told if video is None else told.replace(video, Path(video).name)  # nor where the server keeps things
            yield {results.status: status(f"not done: {told}"), results.result: None}
            raise gr.Error(told, print_exception=False) from error
        except Exception:
            yield {results.status: status("not done: it failed on the server"), results.result: None}
            raise

    run.__signature__ = form.signature()  # type: ignore[attr-defined]  # gradio reads the names there
    call = gr.on(
        [form.button.click, form.prompt.submit],
        run,
        list(form.parameters.values()),
        results.outputs,
        api_name=spec.name,
        api_description=spec.summary,
        concurrency_id="model",
        concurrency_limit=1,
        show_progress="minimal",
        show_progress_on=results.status,
    )
    call.success(results.remember, [results.files, results.gallery], results.gallery, **QUIET)
    # runs after a cancelled call as well, and only when another one can be started
    call.failure(results.ended, results.status, [results.status, results.result], **QUIET)
    form.cancel.click(None, cancels=[call])
    return form


def _examples(spec: TaskSpec, form: Form) -> None:
    rows = examples_of(spec)
    if not rows:
        return
    names = [name for name in form.parameters if any(name in row for row in rows)]
    gr.Examples(
        [[form.example(name, row.get(name)) for name in names] for row in rows],
        [form.parameters[name] for name in names],
        cache_examples=False,
        api_visibility="private",
        label="examples",
    )
