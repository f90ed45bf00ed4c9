"""The law of the house, read off the syntax trees: who may import whom, and what nobody may call.

`python -m tests.test_architecture` prints the sizes of files and functions, which are rules of thumb and not enforced.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = ("app", "studio", "trainer", "benchmarks", "tests")

LEAVES = {"studio.errors", "studio.checks", "studio.conditions", "studio.pixels", "studio.adherence"}
VALUES = LEAVES | {"studio.types", "studio.specs"}
HISTORY = VALUES | {
    "studio.storage",
    "studio.database",
    "studio.history",
    "studio.history_index",
    "studio.parameters",
    "studio.inputs",
}
SERVED = HISTORY | {
    "studio.catalog",
    "studio.gpu",
    "studio.runs",
    "studio.datasets",
    "studio.engine",
    "studio.settings",
    "studio.multiview",
    "studio.upscaling",
    "studio.comparing",
}

# Which rooms of the project a room may import, besides itself. The longest prefix that fits a module is its room.
MAY_IMPORT = {
    "studio.errors": set(),
    "studio.checks": {"studio.errors"},
    "studio.conditions": LEAVES,
    "studio.pixels": set(),
    "studio.adherence": set(),
    "studio.specs": LEAVES,
    "studio.types": LEAVES,
    "studio.settings": VALUES,
    "studio.catalog": VALUES,
    "studio.storage": VALUES,
    "studio.database": VALUES,
    "studio.parameters": VALUES,
    "studio.inputs": VALUES | {"studio.storage", "studio.parameters"},
    "studio.history_index": HISTORY,
    "studio.history": HISTORY,
    "studio.gpu": VALUES,
    "studio.guard": set(),
    "studio.runs": VALUES | {"studio.storage", "studio.database"},
    "studio.datasets": VALUES | {"studio.storage"},
    "studio.perflow": VALUES,
    "studio.networks": LEAVES,
    "studio.multiview": VALUES,
    "studio.upscaling": VALUES,
    "studio.comparing": VALUES,
    "studio.engine": VALUES
    | {"studio.perflow", "studio.catalog", "studio.networks", "studio.multiview", "studio.upscaling"},
    "studio.training": SERVED | {"studio.datasets"},
    "studio.sharing": VALUES | {"studio.runs"},
    "studio.multiviews": SERVED,
    "studio.upscales": SERVED,
    "studio.comparisons": SERVED,
    "studio.grids": SERVED,
    "studio.services": SERVED
    | {
        "studio.training",
        "studio.sharing",
        "studio.multiviews",
        "studio.upscales",
        "studio.comparisons",
        "studio.grids",
    },
    "studio.ui": HISTORY
    | {
        "studio.services",
        "studio.multiviews",
        "studio.upscales",
        "studio.comparisons",
        "studio.grids",
        "studio.training",
        "studio.datasets",
        "studio.catalog",
        "studio.runs",
        "studio.settings",
    }
    | {"studio.guard", "studio.multiview", "studio.upscaling", "studio.comparing"},
    "studio": set(),
    "trainer": VALUES
    | {"studio.perflow", "studio.networks", "studio.multiview", "studio.runs", "studio.datasets", "studio.storage"},
    "app": {"studio"},
}

HEAVY = {"torch", "torchvision", "diffusers", "transformers", "accelerate", "peft", "controlnet_aux", "safetensors"}
# Which libraries a room must never import.
MUST_NOT_IMPORT = {
    "studio.ui": HEAVY,
    "studio.perflow": {"gradio"},
    "studio.engine": {"gradio"},
    "studio.networks": {"gradio"},
    "studio": HEAVY | {"gradio"},
    "trainer": {"gradio"},
    "app": HEAVY,
}

PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
CALLED_BY_NAME = {"eval", "exec", "compile", "__import__", "extractall"}
CALLED_BY_PATH = {"torch.load", "os.system", "os.popen", "builtins.eval", "builtins.exec", "builtins.compile"}
FORBIDDEN_FLAGS = {("shell", True), ("trust_remote_code", True), ("allow_pickle", True), ("share", True)}


@dataclass(frozen=True, kw_only=True)
class Module:
    name: str
    tree: ast.Module


# --- the checker ------------------------------------------------------------------------------------------------


def violations(module: Module) -> list[str]:
    """Every sentence the law has to say about one module."""
    found = [*_imports_against_the_law(module), *_dangers(module)]
    return [f"{module.name}:{line}: {sentence}" for line, sentence in found]


def _room(name: str, rooms: dict[str, set[str]]) -> str | None:
    fitting = [room for room in rooms if name == room or name.startswith(f"{room}.")]
    return max(fitting, key=len, default=None)


def _imported(module: Module) -> Iterator[tuple[int, str]]:
    """Every module named by an import, at any depth, under TYPE_CHECKING too, or by a text given to import_module."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.name.split(".")[: -node.level]
                base = ".".join([*parents, *([base] if base else [])])
            # `from studio import ui` names studio.ui.
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and _path(node.func).split(".")[-1] == "import_module" and node.args:
            first = node.args[0]
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield node.lineno, first.value


def _imports_against_the_law(module: Module) -> Iterator[tuple[int, str]]:
    own = _room(module.name, MAY_IMPORT)
    libraries = MUST_NOT_IMPORT.get(_room(module.name, MUST_NOT_IMPORT) or "", set())
    for line, name in _imported(module):
        top = name.split(".")[0]
        if top in libraries:
            yield line, f"{module.name} must not import {top}"
        if own is None or top not in PROJECT:
            continue
        other = _room(name, MAY_IMPORT)
        allowed = MAY_IMPORT[own]
        if other is None or (other != own and other not in allowed and top not in allowed):
            yield line, f"{own} must not import {name}"


def _path(node: ast.expr) -> str:
    """`a.b.c` of nested attributes; `?` stands for a root that is no name."""
    if isinstance(node, ast.Attribute):
        return f"{_path(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def _dangers(module: Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call):
            yield from _dangerous_call(module, node)
        elif isinstance(node, ast.ExceptHandler) and _swallows(node):
            yield node.lineno, "errors must not be swallowed: name the exception, or log it"
    for line, name in _imported(module):
        if name.split(".")[0] in PICKLES:
            yield line, f"{name.split('.')[0]} runs code from files"


def _dangerous_call(module: Module, node: ast.Call) -> Iterator[tuple[int, str]]:
    path = _path(node.func)
    last = path.split(".")[-1]
    if path in CALLED_BY_NAME or path in CALLED_BY_PATH or last == "extractall":
        yield node.lineno, f"{path}() is forbidden"
    if path == "print" and module.name.split(".")[0] in ("studio", "app"):
        yield node.lineno, "print() is forbidden in studio: log, or yield an event"
    if last == "suppress" and any(_path(each) in ("Exception", "BaseException") for each in node.args):
        yield node.lineno, "errors must not be swallowed: name the exception, or log it"
    for keyword in node.keywords:
        value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
        if (keyword.arg, value) in FORBIDDEN_FLAGS:
            yield node.lineno, f"{keyword.arg}=True is forbidden"


def _swallows(handler: ast.ExceptHandler) -> bool:
    broad = handler.type is None or _path(handler.type) in ("Exception", "BaseException")
    return broad and all(
        isinstance(each, ast.Pass | ast.Continue)
        or (isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant))
        for each in handler.body
    )


def _modules(*tops: str) -> list[Module]:
    paths = [path for top in tops for path in sorted([*ROOT.glob(f"{top}.py"), *ROOT.glob(f"{top}/**/*.py")])]
    return [Module(name=_name_of(path), tree=ast.parse(path.read_text(encoding="utf-8"))) for path in paths]


def _name_of(path: Path) -> str:
    """The dotted name; a package keeps its `__init__`, so that relative imports count from inside it."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


# --- the law holds ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", _modules("app", "studio", "trainer", "benchmarks"), ids=lambda module: module.name)
def test_a_module_keeps_the_law(module: Module) -> None:
    assert violations(module) == []


def test_every_module_of_studio_has_a_room_of_its_own() -> None:
    homeless = [
        module.name
        for module in _modules("studio")
        if _room(module.name, MAY_IMPORT) == "studio" and module.name != "studio.__init__"
    ]
    assert homeless == [], "give the new module a line in MAY_IMPORT"


def test_the_page_starts_without_torch() -> None:
    """The law's point, observed: building the page and its server loads no torch, by any detour."""
    code = "import sys, studio.ui.layout, studio.ui.server; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=120).returncode == 0


# --- the checker catches what it is for -------------------------------------------------------------------------

PLANTED = [
    ("studio.errors", "import studio.types"),
    ("studio.types", "from studio.settings import Settings"),
    ("studio.types", "def f():\n    from studio import catalog"),
    ("studio.types", "import torch"),
    ("studio.perflow.windows", "import gradio as gr"),
    ("studio.perflow.windows", "from studio.engine import diffusion"),
    ("studio.perflow.windows", "from studio.ui.theme import x"),
    ("studio.perflow.windows", "from ..engine import diffusion"),
    ("studio.engine.diffusion", "import gradio"),
    ("studio.engine.diffusion", "from studio.services import Services"),
    ("studio.engine.diffusion", "from studio.ui import form"),
    ("studio.multiview.hull", "import torch"),
    ("studio.multiview.hull", "from studio.networks import wonder3d"),
    ("studio.ui.form", "import torch"),
    ("studio.ui.form", "def f():\n    import torch.nn"),
    ("studio.ui.form", "if TYPE_CHECKING:\n    from diffusers import DDIMScheduler"),
    ("studio.ui.form", "from trainer import loop"),
    ("studio.ui.form", "from studio.engine.diffusion import DiffusionEngine"),
    ("studio.services", "import trainer"),
    ("studio.services", "import gradio"),
    ("studio.services", "from studio.ui.api.endpoints import register"),
    ("studio.runs.events", "import torch"),
    ("studio.runs.events", "from studio.perflow import windows"),
    ("studio.history", "from studio.engine import fake"),
    ("studio.catalog", "import importlib\nimportlib.import_module('trainer.loop')"),
    ("trainer.loop", "from studio.engine import diffusion"),
    ("trainer.loop", "from studio.ui import theme"),
    ("trainer.loop", "import gradio"),
    ("app", "import torch"),
    ("app", "from trainer import loop"),
    ("studio.engine.x", "eval('1')"),
    ("studio.engine.x", "exec('1')"),
    ("studio.engine.x", "compile('1', '', 'eval')"),
    ("studio.engine.x", "import pickle"),
    ("studio.engine.x", "from marshal import loads"),
    ("studio.engine.x", "import shelve"),
    ("studio.engine.x", "torch.load('x')"),
    ("studio.engine.x", "os.system('ls')"),
    ("studio.engine.x", "subprocess.run('ls', shell=True)"),
    ("studio.engine.x", "zipfile.ZipFile('x').extractall()"),
    ("studio.engine.x", "P.from_pretrained('x', trust_remote_code=True)"),
    ("studio.engine.x", "np.load('x', allow_pickle=True)"),
    ("studio.engine.x", "page.launch(share=True)"),
    ("studio.engine.x", "try:\n    f()\nexcept Exception:\n    pass"),
    ("studio.engine.x", "try:\n    f()\nexcept:\n    ..."),
    ("studio.engine.x", "with contextlib.suppress(Exception):\n    f()"),
    ("studio.engine.x", "print('x')"),
]

INNOCENT = [
    ("studio.engine.x", "re.compile('x')\nmodel.eval()\nparts[0].eval()\ntorch.compile(model)"),
    ("studio.engine.x", "try:\n    f()\nexcept OSError:\n    pass"),
    ("studio.engine.x", "import torch\nfrom studio.perflow import PeRFlowScheduler\nfrom studio.types import Engine"),
    ("studio.ui.form", "import gradio as gr\nfrom studio.services import Services"),
    ("trainer.loop", "from studio.perflow import windows\nimport torch\nprint('x')"),
    ("app", "from studio.ui import layout\nfrom studio.engine.fake import FakeEngine"),
]


@pytest.mark.parametrize(("name", "source"), PLANTED)
def test_a_planted_violation_is_caught(name: str, source: str) -> None:
    assert violations(Module(name=name, tree=ast.parse(source)))


@pytest.mark.parametrize(("name", "source"), INNOCENT)
def test_the_innocent_pass(name: str, source: str) -> None:
    assert violations(Module(name=name, tree=ast.parse(source))) == []


# --- sizes, reported only ---------------------------------------------------------------------------------------


def _report() -> None:
    functions = []
    for module in _modules("app", "studio", "trainer", "benchmarks"):
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                functions.append(((node.end_lineno or node.lineno) - node.lineno + 1, f"{module.name}.{node.name}"))
    functions.sort()
    print(f"functions: {len(functions)}, median {functions[len(functions) // 2][0]} lines")
    for lines, name in reversed(functions[-10:]):
        print(f"{lines:6} {name}")
    for path in sorted(path for top in ("studio", "trainer") for path in ROOT.glob(f"{top}/**/*.py")):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > 300:
            print(f"{lines:6} lines in {path.relative_to(ROOT)}")


if __name__ == "__main__":
    _report()
