"""The options that several commands share, each written once."""

from pathlib import Path
from typing import Annotated

import typer

MODEL_HELP = "Checkpoint: a folder, a run, a .gguf file, builtin/NAME, package:NAME or a hub id."

Text = Annotated[
    str | None, typer.Argument(show_default=False, help="The input; else it is piped, or -f names a file.")
]
Model = Annotated[str | None, typer.Option("-m", "--model", show_default=False, help=MODEL_HELP)]
Adapter = Annotated[str | None, typer.Option("-a", "--adapter", help="A peft adapter to lay over the checkpoint.")]
File = Annotated[
    str | None, typer.Option("-f", "--file", help="One input a line (.jsonl, .csv, .tsv: a row); - is stdin.")
]
Output = Annotated[
    Path | None,
    typer.Option("-o", "--output", help="Write there; .jsonl, .csv and .tsv keep every column and add ours."),
]
Column = Annotated[str, typer.Option("--column", help="The column of a .jsonl, .csv or .tsv that holds the input.")]
MaxNewTokens = Annotated[int | None, typer.Option("-n", "--max-new-tokens", help="At most so many tokens.")]
Temperature = Annotated[float | None, typer.Option("-t", "--temperature", help="0 is greedy; above 0 draws.")]
TopP = Annotated[
    float | None, typer.Option("--top-p", help="Draw from the most probable tokens of this total probability.")
]
TopK = Annotated[int | None, typer.Option("--top-k", help="Draw from so many most probable tokens.")]
NumBeams = Annotated[int | None, typer.Option("--num-beams", help="Above 1 searches with beams.")]
Stop = Annotated[
    list[str] | None, typer.Option("--stop", help="A string that ends the text and is cut off; repeatable.")
]
Seed = Annotated[int | None, typer.Option("--seed", help="The same seed gives the same text.")]
Truncate = Annotated[
    str | None, typer.Option("--truncate", help="left drops the beginning of a prompt that does not fit.")
]
Recipe = Annotated[str, typer.Argument(metavar="RECIPE", help="A path, or a name that `recipes list` prints.")]
Keys = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Keys of the recipe, such as optim.lr=1e-4.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")]
Dtype = Annotated[str, typer.Option("--dtype", help="auto, float32, bfloat16 or float16.")]
Tokenizer = Annotated[
    str | None, typer.Option("--tokenizer", help="Where the tokenizer lies, if not with the checkpoint.")
]
Offline = Annotated[bool, typer.Option("--offline", help="Take a hub id from the local cache only.")]
BatchSize = Annotated[int, typer.Option("--batch-size", help="At most so many rows at a time.")]
Encoding = Annotated[str, typer.Option("--encoding", help="The encoding of what is read; -o keeps it.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No notes and no progress.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")]
