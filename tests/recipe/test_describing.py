"""The JSON schema and the reference page, and that every key is read by someone."""

import pathlib

from llmkit.recipe import keys
from llmkit.recipe.describing import write_page, write_schema
from llmkit.recipe.reading import json_schema

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs" / "reference"


def test_the_schema_is_what_the_document_holds():
    assert (DOCS / "recipe.schema.json").read_text(encoding="utf-8") == write_schema()


def test_the_page_is_what_the_document_holds():
    assert (DOCS / "recipe.md").read_text(encoding="utf-8") == write_page()


def test_every_key_has_a_description_that_ends():
    schema = json_schema()
    parts = [schema, *schema["$defs"].values()]
    described = [(name, key.get("description", "")) for part in parts for name, key in part["properties"].items()]
    assert len(described) > 60
    assert {name for name, text in described if not text.endswith(".")} <= set(keys.list_sections())
    assert all(keys.list_keys((section,)) for section in keys.list_sections())


def test_the_page_names_every_key():
    page = write_page()
    for path in [(), *((section,) for section in keys.list_sections()), ("data", "clean"), ("data", "mix", 0)]:
        assert all(f"| `{key}` |" in page for key in keys.list_keys(path))
