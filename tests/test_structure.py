"""The habits of CONTRIBUTING.md that a program can check, by reading the source text."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from unireal.sample import Role
from unireal.tasks import CONTROL_KINDS, TASKS

ROOT = Path(__file__).parent.parent
MAX_MODULE, MAX_FUNCTION = 300, 60  # lines

# What a module or package of unireal may import from the rest of it; the order is from the bottom to the top.
BELOW = {
    "notices": (),
    "arguments": ("notices",),
    "names": (),
    "files": (),
    "plugins": (),
    "sample": (),
    "taxonomy": ("names", "sample"),
    "config": ("names",),
    "tasks": ("names", "sample", "taxonomy"),
    "prompts": ("names", "sample", "tasks"),
    "transforms": ("sample", "tasks", "prompts"),
    "data": ("arguments", "files", "plugins", "sample", "tasks", "prompts", "transforms"),
    "request": ("sample", "tasks", "prompts", "transforms"),
    "video": ("sample", "tasks", "transforms", "request"),
    "speech": (),
    "conditions": ("names", "speech", "tasks", "transforms", "request"),
    "model": ("names", "files", "notices", "sample", "config", "prompts"),  # prompts: the referring words
    "metadata": ("files", "data", "request", "model", "video"),
    "diffusion": ("sample", "config", "model"),
    "acceleration": ("names", "notices", "sample", "config", "model", "diffusion"),
    "finishing": ("sample", "tasks", "transforms", "request"),
    "encoding": ("sample", "prompts", "transforms", "model", "diffusion"),
    "model_card": ("tasks", "model"),
    "loading": ("model", "model_card"),
    "pipeline": (
        *("sample", "config", "tasks", "prompts", "transforms", "request", "video"),
        *("model", "diffusion", "acceleration", "finishing", "encoding", "loading"),
    ),
    "jobs": ("notices",),
    "options": ("arguments", "plugins", "sample", "tasks", "conditions", "video", "metadata", "jobs"),
    # weights of others, called as ours are
    "public": ("notices", "tasks", "transforms", "model", "acceleration", "finishing", "pipeline"),
    "experiments": ("names", "config", "data", "diffusion"),
    "cli": (
        *("sample", "config", "tasks", "prompts", "transforms", "request", "conditions", "video", "metadata"),
        *("arguments", "files", "notices", "jobs", "options", "diffusion", "acceleration", "pipeline", "public"),
    ),
}
TOP = ("training", "evaluation", "demo")  # they may import all of the above, but not each other
BUILDERS_MAY = ("unireal.sample", "unireal.tasks", "unireal.data.records")
# (module, what it imports): the tools that work on the procedural world itself.
WORLD_USERS = (
    "unireal.evaluation",
    "unireal.training.autoencoder",
    "unireal.training.phrases",
    "unireal.acceleration.fit_teacache",
)
# Command lines, and what they share with benchmarks, that lie beside what they are about but need the whole pipeline.
TOOLS = (
    *("unireal.acceleration.fit_teacache", "unireal.acceleration.measure"),
    *("unireal.data.precompute", "unireal.model.video_prior", "unireal.model.vocabulary"),
)

SOURCES = sorted(path for folder in ("unireal", "data_builders") for path in (ROOT / folder).rglob("*.py"))
SCRIPTS = sorted(
    path
    for pattern in ("*.py", "docs/*.py", "examples/*.py", "benchmarks/*.py")
    for path in ROOT.glob(pattern)
    if not path.name.startswith(".")
)


def _name(path: Path) -> str:
    """Of the module: "unireal.model.blocks"; a package's own code is the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def _imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and module of every import, in functions too; `from a import b` gives a.b, which may be a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{origin}.{alias.name}") for alias in node.names)


def _within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def _may_import(importer: str, imported: str) -> bool:
    package = importer.split(".")[0]
    if imported.startswith("."):
        return False  # relative: the reader should see the whole name
    if not _within(imported, ("unireal", "data_builders")):
        return True
    if package == "data_builders":
        return _within(imported, ("data_builders", *BUILDERS_MAY))
    if imported.startswith("data_builders"):
        return _within(imported, ("data_builders.world",)) and _within(importer, WORLD_USERS)
    if importer == package:
        return False  # unireal/__init__.py stays empty of imports, so that sample does not bring torch along
    unit, other = importer.split(".")[1], imported.split(".")[1]
    return unit == other or other in (tuple(BELOW) if unit in TOP or importer in TOOLS else BELOW[unit])


def test_every_part_has_its_place():
    parts = {_name(path).split(".")[1] for path in SOURCES if _name(path).startswith("unireal.")}
    unknown = parts - set(BELOW) - set(TOP)
    assert not unknown, f"say in BELOW what {sorted(unknown)} may import"


def test_the_order_has_no_cycle():
    order = list(BELOW)
    for part, below in BELOW.items():
        assert all(order.index(other) < order.index(part) for other in below), part


def test_the_rules_tell_right_from_wrong():
    assert _may_import("unireal.pipeline", "unireal.model.build.Components")
    assert _may_import("unireal.training.trainer", "unireal.pipeline.UniRealPipeline")
    assert _may_import("data_builders.world.draw", "unireal.data.records.write_shards")
    assert not _may_import("unireal.sample", "unireal.tasks.TASKS")
    assert not _may_import("unireal.model.blocks", "unireal.diffusion.flow.as_velocity")
    assert not _may_import("unireal.evaluation.world", "unireal.training.trainer.Trainer")
    assert not _may_import("unireal.model.blocks", "data_builders.world.render")
    assert not _may_import("unireal.model.blocks", ".packing")
    assert not _may_import("data_builders.world.draw", "unireal.transforms.resize")


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_imports_go_one_way(path):
    name = _name(path)
    wrong = [f"line {line}: {other}" for line, other in _imports(_tree(path)) if not _may_import(name, other)]
    assert not wrong, f"{name} must not import from above it: {wrong}"


def test_no_module_is_called_utils():
    assert not [path for path in SOURCES + SCRIPTS if path.stem in ("utils", "util", "helpers", "misc")]


@pytest.mark.parametrize("path", SOURCES + SCRIPTS, ids=_name)
def test_modules_and_functions_are_short(path):
    lines = len(path.read_text().splitlines())
    assert lines <= MAX_MODULE, f"{lines} lines; split it by what it does"
    functions = (node for node in ast.walk(_tree(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    lengths = {node.name: node.end_lineno - node.lineno + 1 for node in functions}
    long = {name: length for name, length in lengths.items() if length > MAX_FUNCTION}
    assert not long, f"functions of more than {MAX_FUNCTION} lines: {long}"


# Words that are tasks' names and something else as well: comparing a frame's kind with "depth" is no branch on a task.
_OTHER_MEANINGS = {"image", *CONTROL_KINDS, *Role}
_TASK_WORDS = ("task", "tasks", "name", "task_name", "spec")


def _task_branches(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Comparisons and match cases with a task's name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            asked = {
                n.attr if isinstance(n, ast.Attribute) else n.id
                for n in ast.walk(node)
                if isinstance(n, ast.Attribute | ast.Name)
            }
            words = _strings(node)
        elif isinstance(node, ast.Match):
            asked = {n.attr for n in ast.walk(node.subject) if isinstance(n, ast.Attribute)}
            asked |= {n.id for n in ast.walk(node.subject) if isinstance(n, ast.Name)}
            words = {word for case in node.cases for word in _strings(case.pattern)}
        else:
            continue
        about_task = bool(asked & set(_TASK_WORDS))
        for word in words & set(TASKS):
            if about_task or word not in _OTHER_MEANINGS:
                yield node.lineno, word


def _strings(node: ast.AST) -> set[str]:
    return {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)}


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("if task == 'edit': pass", True),
        ("x = 1 if spec.name in ('t2i', 'a') else 2", True),
        ("if sample.task != 'depth': pass", True),
        ("match task:\n    case 'insert': pass", True),
        ("if frame.kind == 'depth': pass", False),
        ("if role == 'control': pass", False),
        ("TASKS['edit']", False),
    ],
)
def test_branches_on_tasks_are_found(code, found):
    assert bool(list(_task_branches(ast.parse(code)))) == found


@pytest.mark.parametrize("path", [p for p in SOURCES if _name(p).startswith("unireal")], ids=_name)
def test_no_code_asks_for_a_tasks_name(path):
    if _name(path) == "unireal.tasks":
        return
    branches = [f"line {line}: {word!r}" for line, word in _task_branches(_tree(path))]
    assert not branches, f"put what differs into the TaskSpec: {branches}"
