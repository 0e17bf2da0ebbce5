"""Imports point one way: the arrows of the design, and no other.

cli -> training -> evaluation -> checkpoint -> data, model -> batch, errors
cli -> streaming ---------------> checkpoint
data -x- model      streaming -x- training, evaluation      nothing imports cli
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "possm"

BASE = {"batch", "config", "errors"}
FILE = BASE | {"baselines", "checkpoint", "data", "decoders", "model", "version"}
ARROWS = {
    "errors": set(),
    "batch": set(),
    "config": {"errors"},
    "data": BASE,
    "model": BASE,
    "baselines": BASE | {"data", "model"},
    "decoders": BASE | {"baselines", "model"},
    "checkpoint": BASE | {"data", "decoders", "model", "version"},
    "evaluation": FILE,
    "training": FILE | {"evaluation"},
    "streaming": FILE,
    "api": FILE | {"evaluation", "training", "streaming"},
    "demo": FILE | {"api", "evaluation", "training", "streaming"},
    "recipes": BASE | {"model", "training", "data"},
    "bench": FILE | {"api", "evaluation", "recipes", "training", "streaming"},
    "cli": FILE | {"api", "bench", "demo", "evaluation", "recipes", "training", "streaming"},
    "__main__": {"cli"},
    "__init__": FILE | {"api", "training", "streaming", "evaluation"},
}
"""Room -> rooms it may import. A room may always import itself."""
OUTSIDE = {"data": {"torch", "safetensors"}, "batch": {"torch"}, "config": {"torch"}, "errors": {"torch"}}
"""Room -> packages it may not import: a live decoder can run without torch."""
OUTSIDE["model"] = {"h5py", "safetensors", "json", "os", "pathlib", "numpy"}


def modules() -> dict[str, Path]:
    """Dotted name inside possm -> file; a package goes by its own name, the root by `__init__`."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = path
    return found


MODULES = modules()


def not_at_import(tree: ast.AST) -> set[ast.AST]:
    """Nodes that do not run when a module is imported: in functions, and under `if TYPE_CHECKING:`."""
    blocks = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) or (
            isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        ):
            blocks += node.body
    return {child for part in blocks for child in ast.walk(part)}


def imports(name: str, tree: ast.AST, *, everywhere: bool = True) -> set[str]:
    """Dotted names that a module imports: everywhere, or only when it is imported itself."""
    skipped = set() if everywhere else not_at_import(tree)
    found = set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole.removeprefix("possm.") in MODULES else node.module)
                if node.module == "possm" and alias.name == "__version__":
                    found.discard("possm")
                    found.add("possm.version")
    return found


def own(name: str, *, everywhere: bool = True) -> set[str]:
    """Modules of possm that a module imports."""
    tree = ast.parse(MODULES[name].read_text())
    ours = {i for i in imports(name, tree, everywhere=everywhere) if i == "possm" or i.startswith("possm.")}
    return {i.removeprefix("possm.") if i != "possm" else "__init__" for i in ours}


def room(module: str) -> str:
    return module.split(".")[0]


def test_there_is_something_to_walk():
    assert {"data.chunks", "model.decoder", "training.loop", "evaluation.score", "cli"} <= set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_arrows(name):
    here = room(name)
    assert here in ARROWS, f"the room '{here}' has no line in ARROWS"
    wrong = {i for i in own(name) if room(i) not in ARROWS[here] | {here}}
    assert not wrong, f"possm.{name} may not import {sorted(wrong)}"


@pytest.mark.parametrize("name", [m for m in MODULES if room(m) in OUTSIDE])
def test_what_a_room_does_without(name):
    packages = {i.split(".")[0] for i in imports(name, ast.parse(MODULES[name].read_text()))}
    assert not packages & OUTSIDE[room(name)]


def test_nothing_imports_a_door():
    doors = {"cli": {"__main__"}, "demo": {"cli"}, "bench": {"cli"}}
    doors["api"] = {"cli", "demo", "bench", "__init__"}
    for name in MODULES:
        for door, who in doors.items():
            used = {room(module) for module in own(name)}
            assert room(name) in who | {door} or door not in used, f"{name} imports {door}"


def test_no_cycles():
    """At import. Inside a room, a dict of classes may fetch one of them in a function."""
    graph = {name: {i for i in own(name, everywhere=False) if i in MODULES} for name in MODULES}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, "cycle: " + " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            for other in graph[name]:
                visit(other, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_lazy_names_are_arrows_too():
    """`possm.__getattr__` imports by name, which no syntax tree shows."""
    import possm

    assert {room(home.removeprefix("possm.")) for home in possm._HOME.values()} <= ARROWS["__init__"]


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("def f():\n    from possm.model import decoder", {"possm.model.decoder"}),
        ("import possm.cli", {"possm.cli"}),
        ("from possm import errors", {"possm.errors"}),
        ("from possm import __version__", {"possm.version"}),
    ],
)
def test_the_walker_sees(code, found):
    assert imports("x", ast.parse(code)) == found
    assert imports("x", ast.parse(code), everywhere=False) == (set() if "def" in code else found)
