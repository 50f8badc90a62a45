"""Every key of a recipe is read by someone: what nobody reads would be accepted and do nothing."""

import ast
import functools
import pathlib

import pytest

from llmkit.recipe import keys

PACKAGE = pathlib.Path(__file__).resolve().parents[2] / "llmkit"
# Read by the reader itself.
OWN = {"version", "extends"}


@functools.cache
def list_read():
    """Attribute names that llmkit reads anywhere outside of recipe/."""
    files = [path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] != "recipe"]
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in files]
    return {
        (ast.unparse(node.value).rpartition(".")[2], node.attr)
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }


# The words by which the code calls a section: a variable, a parameter or the attribute of the recipe.
CALLED = {
    (): {"recipe", "settled", "given", "kept"},
    ("model",): {"model", "spec"},
    ("data",): {"data", "spec", "source", "part"},
    ("data", "mix", 0): {"part", "spec", "source"},
    ("data", "clean"): {"clean", "spec"},
    ("data", "masking"): {"masking"},
    ("data", "denoising"): {"denoising"},
    ("optim",): {"optim", "spec"},
    ("schedule",): {"schedule", "spec"},
    ("train",): {"train"},
    ("eval",): {"eval", "evaluation"},
    ("save",): {"save"},
    ("log",): {"log"},
}


@pytest.mark.parametrize("path", CALLED, ids=str)
def test_every_key_is_read(path):
    read = list_read()
    unread = [key for key in keys.list_keys(path) if not any((name, key) in read for name in CALLED[path])]
    assert set(unread) - OWN == set()


def test_every_section_is_looked_at():
    assert {path[0] for path in CALLED if path} == set(keys.list_sections())
