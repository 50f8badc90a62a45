"""A run as an embedded checkpoint: its final files, and a card whose results are what `llmkit evaluate -o DIR` found.

llmkit evaluate runs/translate-en-zh --on translation --data tatoeba/en-zh/test.jsonl -o found
python -m benchmarks embed runs/translate-en-zh llmkit/builtin/translate-en-zh found --note "..."
"""

import argparse
import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from llmkit import runfolder

NEEDED = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "llmkit.json"]
NEEDED += ["model.safetensors"]
NEEDED_OF_ADAPTER = ["adapter_config.json", "adapter_model.safetensors", "llmkit.json"]  # the base has the tokenizer


def describe(found: list[dict[str, Any]], note: str) -> str:
    """Write the section of the card that says what was measured."""
    lines = ["## Results", "", "By `llmkit evaluate`, on rows that were not trained on.", ""]
    lines += ["| data | rows | metric | value | 95 % interval |", "|---|---|---|---|---|"]
    for one in found:
        for name, value in one["metrics"].items():
            low, high = one["intervals"][name]
            data = "/".join(Path(one["data"]).parts[-2:])
            lines.append(f"| {data} | {one['n']:,} | {name} | {value:.4f} | {low:.4f} to {high:.4f} |")
    signatures = {f"`{text}`" for one in found for text in one["signatures"].values()}
    lines += ["", "Signatures of sacrebleu: " + ", ".join(sorted(signatures)) + "."] if signatures else []
    return "\n".join([*lines, *(["", note] if note else [])])


def settle_adapter(place: Path) -> None:
    """Name the base by its own name, not by the run's copy of it, and store the tensors in bfloat16."""
    base = json.loads((place / "llmkit.json").read_text(encoding="utf-8"))["base"]
    path = place / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | {"base_model_name_or_path": base}
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    weights = place / "adapter_model.safetensors"
    tensors = {name: tensor.bfloat16().contiguous() for name, tensor in load_file(weights).items()}
    save_file(tensors, weights, metadata={"format": "pt"})


def main(argv: list[str]) -> None:
    """Write the folder of an embedded checkpoint."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks embed")
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("results", type=Path, nargs="*", help="folders of `llmkit evaluate -o`; none: not measured yet")
    parser.add_argument("--about", default="", help="what stands under the title, where the recipe has no about")
    parser.add_argument("--note", default="", help="what stands under the results, such as a baseline")
    args = parser.parse_args(argv)
    found = [json.loads((folder / "evaluation.json").read_text(encoding="utf-8")) for folder in args.results]
    final = args.run / "final"
    is_adapter = (final / "adapter_config.json").is_file()

    def fill(place: Path) -> None:
        for name in NEEDED_OF_ADAPTER if is_adapter else NEEDED:
            if (final / name).is_file():
                (place / name).write_bytes((final / name).read_bytes())
        if is_adapter:
            settle_adapter(place)
        card = (final / "README.md").read_text(encoding="utf-8")
        title = f"# {args.folder.name}\n" + (f"\n{args.about}\n" if args.about else "")
        card = card.replace(f"# {args.run.name}\n", title).replace(
            f"name: {args.run.name}\n", f"name: {args.folder.name}\n"
        )
        (place / "README.md").write_text(f"{card.rstrip()}\n\n{describe(found, args.note)}\n", encoding="utf-8")

    runfolder.publish(args.folder, fill)
    print(f"{sum(path.stat().st_size for path in args.folder.iterdir()):,} bytes")
