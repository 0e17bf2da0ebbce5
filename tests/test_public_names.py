"""The public names are one list, in three places that agree; and asking for help costs nothing."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import possm

HEAVY = ("torch", "numpy", "h5py", "tyro", "matplotlib", "safetensors", "scipy")


def names_for_type_checkers() -> dict[str, str]:
    """Name -> module, from the TYPE_CHECKING block."""
    tree = ast.parse(Path(possm.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    lines = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name: str(node.module) for node in lines for alias in node.names}


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=60)


def test_one_list():
    assert sorted(possm.__all__) == sorted(possm._HOME) == sorted(names_for_type_checkers())
    assert names_for_type_checkers() == possm._HOME
    assert set(dir(possm)) >= set(possm.__all__)


@pytest.mark.parametrize("name", possm.__all__)
def test_every_name_resolves_to_what_its_home_has(name):
    assert getattr(possm, name) is getattr(importlib.import_module(possm._HOME[name]), name)


def test_an_unknown_name():
    with pytest.raises(AttributeError, match="nonsense"):
        _ = possm.nonsense


@pytest.mark.parametrize("line", ["import possm", "import possm.cli; possm.cli.main(['--help'])"])
def test_loads_nothing_heavy(line):
    code = f"{line}\nimport sys, json; print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    loaded = set(json.loads(run("-c", code).stderr))
    assert "possm" in loaded
    assert not loaded & set(HEAVY)


def test_typed():
    assert Path(possm.__file__).with_name("py.typed").is_file()
