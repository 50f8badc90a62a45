"""The reference page of recipes, written from the schema."""

import json
from typing import Any

from llmkit.recipe import keys
from llmkit.recipe.writing import write_value

HEAD = """# Recipes

A recipe is a YAML 1.2 file that says what a run is. `llmkit recipes list` prints those that come with llmkit, `show`
one with all its values and where each came from, `copy` makes one yours, `check` finds all that is wrong in one at
once, and `schema` prints the [JSON schema](recipe.schema.json), by which an editor completes and checks keys.

```
llmkit recipes copy shakespeare-small my.yaml
llmkit recipes check my.yaml data.path=corpus.txt
```

- `key=value` after a recipe sets a key for one call: `optim.lr=1e-4`, `data.mix.0.path=a.txt` (items count from 0). The
  value is YAML. `key=null` takes a key back, as if it had not been given anywhere.
- `extends` builds upon another recipe: mappings merge, a list replaces a list. A model.config of another model_type
  replaces the parent's. Relative paths are taken from the working folder, `extends` alone from the recipe's.
- A layer gives at most one of model.name and model.config; of data.path, data.mix and data.source_path; of
  data.eval_split, eval_rows, eval_path, eval_documents and eval_source_path; of data.prompt_column and data.template;
  of train.max_steps and train.num_epochs. A later layer's choice drops the earlier one. With another model.name go
  revision and kwargs, with another data.path name, train_split, eval_split, kwargs, origin and license, with another
  optim.name or schedule.name their kwargs.
- No tags, anchors, aliases or duplicate keys; at most 64 kB.

This page and the JSON schema are written by `llmkit recipes schema --markdown` and `llmkit recipes schema`.
"""


def write_page() -> str:
    """Write the reference page: one table a section."""
    sections: list[tuple[str, keys.Path, str]] = [("The recipe", (), keys.json_schema().get("description", ""))]
    for section in keys.list_sections():
        sections.append((section, (section,), keys.find((section,)).get("description", "")))
        if section == "data":
            for inner in ("clean", "masking", "denoising"):
                told = keys.find(("data", inner)).get("description", "")
                sections.append((f"data.{inner}", ("data", inner), told))
            sections.append(("data.mix", ("data", "mix", 0), "A list of sources, each with these keys."))
    parts = [HEAD]
    for title, path, text in sections:
        lines = [f"## {title}", "", text, "", "| Key | Value | Unset | |", "|---|---|---|---|"]
        parts.append("\n".join([*lines, *(_write_row(path, key) for key in keys.list_keys(path))]) + "\n")
    return "\n".join(parts)


def write_schema() -> str:
    """Write the JSON schema."""
    return json.dumps(keys.json_schema(), ensure_ascii=False, indent=2) + "\n"


def _write_row(path: keys.Path, key: str) -> str:
    part = keys.find(path)
    own = part["properties"][key]
    inner = keys.find((*path, key))
    form = _describe(inner)
    default = own.get("default")
    unset = "" if default is None or isinstance(default, dict) else f"`{write_value(default)}`"
    if key in part.get("required", ()):
        unset = "required"
    description = own.get("description", "") if path or not inner.get("properties") else "The section below."
    return f"| `{key}` | {form} | {unset} | {description} |".replace("|  |", "| |")


def _describe(part: dict[str, Any]) -> str:
    if "prefixItems" in part:
        return f"two numbers{keys.describe(part['prefixItems'][0]).removeprefix('a number')}"
    if part.get("type") == "array":
        inner = keys.find_items(part)
        return "a list of mappings" if inner.get("properties") else f"a list of {keys.describe(inner)}"
    return keys.describe(part)
