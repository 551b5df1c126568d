"""Imports only go down: every module has a layer, and what it imports has at most that layer."""

from __future__ import annotations

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import subspan

ROOT = Path(subspan.__file__).parent
LAYERS = {
    "errors _random _batches _scaling _validation _parameters _resources _json _environment": 0,
    "self_expression affinity losses spectral postprocessing convex sparse_codes principal subspaces pairs": 1,
    "information merging neighbours multiscale gans augment k_subspaces centroids soft_assignments": 1,
    "encoders layers heads scattering wavelets channels checkpoint components whitened": 1,
    "training pretraining stacked selection proposals": 2,
    "progress base": 3,
    "methods": 4,
    "datasets": 5,
    "metrics": 6,
    "bench": 7,
    "plots report runs cli __main__": 8,
}
LAYER = {name: layer for names, layer in LAYERS.items() for name in names.split()}
REGISTRY = "methods.__init__"  # finds methods by name: imports them when asked, as the package itself does
FACE_LAYER = 8

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in sorted(ROOT.rglob("*.py"))
    if path != ROOT / "__init__.py"
}


def layer_of(module: str) -> int:
    top = module.split(".")[0]
    if top.startswith("_cli_"):
        return FACE_LAYER
    assert top in LAYER, f"module '{module}' has no layer: give it one in tests/test_layers.py and in the design"
    return LAYER[top]


def resolve(name: str) -> str | None:
    """Module of this package that an absolute dotted name stands for; None for names of other packages."""
    parts = name.split(".")
    if parts[0] != "subspan":
        return None
    for end in range(len(parts), 1, -1):
        module = ".".join(parts[1:end])
        for found in (module, f"{module}.__init__"):
            if found in MODULES:
                return found
    return "" if len(parts) <= 2 else None


def imports(source: str) -> set[str]:
    """Modules of this package imported anywhere in a source, functions included; "" is the package itself."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the layer"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        found |= {module for module in map(resolve, names) if module is not None}
    return found


def complaints(module: str, source: str) -> list[str]:
    own, wrong = layer_of(module), []
    for other in sorted(imports(source) - {""}):
        if layer_of(other) > own:
            wrong.append(f"{module} (layer {own}) imports {other} (layer {layer_of(other)})")
        methods = module.startswith("methods.") and other.startswith("methods.") and module != REGISTRY
        if methods and (other == REGISTRY or not other.split(".")[1].startswith("_")):
            wrong.append(f"method {module} imports method {other}")
        if other == "metrics" and own < LAYER["metrics"]:
            wrong.append(f"{module} imports the functions that take labels")
    return wrong


def test_modules_are_found():
    assert {"training", "methods.ncsc", "methods.__init__", "datasets.idx", "metrics", "_validation"} <= set(MODULES)
    assert imports(MODULES["methods.ncsc"].read_text()) >= {"base", "training", "methods._ncsc_classifiers", "heads"}


@pytest.mark.parametrize("module", MODULES)
def test_every_module_has_a_layer_and_imports_only_downwards(module):
    assert complaints(module, MODULES[module].read_text()) == []


def test_no_module_imports_itself_in_a_circle():
    """Also within a layer."""
    graph = {module: imports(path.read_text()) - {""} for module, path in MODULES.items()}
    assert list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize(
    ("module", "source", "words"),
    [
        ("affinity", "from subspan.training import Phase", "affinity .layer 1. imports training"),
        ("affinity", "from subspan import training", "imports training"),
        ("base", "import subspan.cli", "imports cli"),
        ("training", "def f():\n    from subspan.base import load", "imports base"),
        ("methods.ncsc", "from subspan.metrics import accuracy", "functions that take labels"),
        ("datasets.idx", "from subspan import metrics", "functions that take labels"),
        ("methods.ncsc", "from subspan.methods.other import Other", "method methods.ncsc imports"),
        ("methods.ncsc", "from subspan.methods import get_method", "imports method"),
    ],
)
def test_the_rules_can_fail(module, source, words, monkeypatch):
    monkeypatch.setitem(MODULES, "methods.other", ROOT / "methods" / "other.py")
    found = complaints(module, source)
    assert found, "not noticed"
    assert any(re.search(words, line) for line in found), found


def test_a_module_without_a_layer_fails():
    with pytest.raises(AssertionError, match="module 'novelty' has no layer"):
        complaints("novelty", "")


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("methods.ncsc", "from subspan.methods._ncsc_stages import Setting"),
        ("methods.__init__", "from subspan.methods.ncsc import NCSC"),
        ("merging", "from subspan.pairs import Pairs"),
        ("_cli_runs", "from subspan.metrics import evaluate"),
        ("base", "import subspan, numpy"),
    ],
)
def test_what_is_allowed(module, source):
    assert complaints(module, source) == []
