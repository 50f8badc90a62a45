"""The house rules: layers, sizes, lazy imports and names."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / "llmkit"
HEAVY = {"torch", "transformers", "datasets", "peft", "accelerate"}

# Each group is an order: a module may import its own unit and what stands left of it in its group; a lower layer is
# open to all.
GROUPS: dict[str, tuple[int, tuple[str, ...]]] = {
    "L0 checkpoints": (0, ("errors", "defaults", "recipe", "runfolder", "claiming", "locating", "checking")),
    "L0 encodings": (0, ("errors", "encodings")),
    "L0 windows": (0, ("errors", "windows")),
    "L0 sentences": (0, ("errors", "sentences")),
    "L0 batching": (0, ("errors", "batching")),
    "L1 models": (1, ("runtime", "heads", "adapters", "loading", "encoding", "decoding")),
    "L1 hidden_states": (1, ("runtime", "heads", "hidden_states")),
    "L1 scoring": (1, ("runtime", "heads", "scoring")),
    "L1 metrics": (1, ("metrics",)),
    "L1 pages": (1, ("pages",)),
    "L1 reference": (1, ("reference",)),
    "L2 tasks": (2, ("tasks",)),
    "L2 data": (2, ("data",)),
    "L3 training": (3, ("evaluation", "training", "worlds")),
    "L3 inspection": (3, ("inspection", "evaluation", "training", "worlds")),
    "L3 conversion": (3, ("conversion", "evaluation", "training", "worlds")),
    "L3 serving": (3, ("serving", "evaluation", "training", "worlds")),
    "L4 cli": (4, ("cli",)),
}
UNITS = {unit for _, units in GROUPS.values() for unit in units}
LAYER = {unit: layer for layer, units in GROUPS.values() for unit in units}
OUTSIDE = {"__init__", "__main__", "builtin", "_recipes"}


def unit_of(path: pathlib.Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def allowed(unit: str, target: str) -> bool:
    if unit == target or LAYER[target] < LAYER[unit]:
        return True
    orders = [units for _, units in GROUPS.values() if unit in units and target in units]
    return any(units.index(target) < units.index(unit) for units in orders)


def imports(tree: ast.AST) -> list[tuple[int, str, bool]]:
    """Every import as (line, dotted name, whether it stands at module level)."""
    inner = {id(n) for d in ast.walk(tree) if isinstance(d, ast.FunctionDef | ast.Lambda) for n in ast.walk(d)}
    guarded = {
        id(n)
        for d in ast.walk(tree)
        if isinstance(d, ast.If) and ast.unparse(d.test).endswith("TYPE_CHECKING")
        for n in ast.walk(d)
    }
    found = []
    for node in ast.walk(tree):
        top = id(node) not in inner and id(node) not in guarded
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name, top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            module = node.module or ""
            if module == "llmkit":
                found += [(node.lineno, f"llmkit.{alias.name}", top) for alias in node.names]
            else:
                found.append((node.lineno, module, top))
    return found


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_file_keeps_the_layer_rule(path):
    unit, tree = unit_of(path), ast.parse(path.read_text(encoding="utf-8"))
    broken = []
    for line, name, top in imports(tree):
        parts = name.split(".")
        heavy_allowed = unit in LAYER and LAYER[unit] in (1, 2, 3)
        if parts[0] in HEAVY and top and not heavy_allowed:
            broken.append(f"{path.name}:{line} imports {name} at module level")
        if parts[0] == "torch" and unit in LAYER and LAYER[unit] == 0:
            broken.append(f"{path.name}:{line} imports torch in L0")
        if parts[0] != "llmkit" or unit in OUTSIDE or len(parts) < 2 or parts[1] in OUTSIDE:
            continue
        if parts[1] in UNITS and not allowed(unit, parts[1]):
            broken.append(f"{path.name}:{line} ({unit}) imports {name}")
        if unit == "cli" and parts[1] != "cli" and LAYER.get(parts[1], 0) > 0 and top:
            broken.append(f"{path.name}:{line} imports {name} outside a function")
    assert broken == []


def test_every_module_has_a_place_in_a_layer():
    assert FILES
    assert {unit_of(path) for path in FILES} - UNITS - OUTSIDE == set()


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_file_fits_on_its_screens(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 400
    functions = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert [f.name for f in functions if (f.end_lineno or 0) - f.lineno >= 60] == []


def test_public_names_are_not_modules():
    import llmkit

    modules = {p.stem for p in PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file()}
    assert set(llmkit.__all__) & modules == set()
