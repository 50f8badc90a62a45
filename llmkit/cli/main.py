"""The command `llmkit`: its commands, and one form for every error."""

import os
import signal
import sys
import traceback
from types import FrameType
from typing import Annotated

import typer

from llmkit.cli import (
    answer,
    chat,
    data,
    doctor,
    evaluate,
    export,
    finetune,
    generate,
    pretrain,
    recipes,
    render,
    report,
    sentiment,
    translate,
    world,
)
from llmkit.errors import LlmkitError

app = typer.Typer(
    name="llmkit",
    help="Pretrain, fine-tune and use GPT-2-class language models.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("generate")(generate.generate)
app.command("answer")(answer.answer)
app.command("qa", hidden=True)(answer.answer)
app.command("chat")(chat.chat)
app.command("translate")(translate.translate)
app.command("sentiment")(sentiment.sentiment)
app.command("classify")(sentiment.sentiment)
app.command("pretrain")(pretrain.pretrain)
app.command("finetune")(finetune.finetune)
app.command("report")(report.report)
app.command("evaluate")(evaluate.evaluate)
app.add_typer(recipes.app, name="recipes")
app.add_typer(data.app, name="data")
app.add_typer(export.app, name="export")
app.add_typer(world.app, name="world")
app.command("doctor")(doctor.doctor)


def _show_version(wanted: bool) -> None:
    if wanted:
        from llmkit import __version__

        render.write(f"llmkit {__version__}\n")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Pretrain, fine-tune and use GPT-2-class language models."""


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code; an error is one sentence on stderr."""
    render.listen()
    debug = "--debug" in arguments
    try:
        code = app(arguments or ["--help"], prog_name="llmkit", standalone_mode=False)
        render.NOTES.show()
        sys.stdout.flush()
        return int(code or 0)
    except LlmkitError as err:
        return _fail(err, str(err), err.hint, err.exit_code, debug, err.details)
    except render.ReaderGone:
        return 0
    except (KeyboardInterrupt, typer.Abort):
        render.say("note", "interrupted")
        return 130
    except OSError as err:
        where = f": {err.filename}" if err.filename else ""
        return _fail(err, f"{err.strerror or err}{where}", None, 1, debug)
    except Exception as err:
        if isinstance(err, _usage_errors()):
            return _fail(err, _usage_sentence(err), _usage_hint(err), 2, debug)
        return _fail(err, f"unexpected {type(err).__name__}: {err}", "--debug shows where it comes from", 1, debug)


def _fail(
    err: BaseException, message: str, hint: str | None, code: int, debug: bool, details: tuple[str, ...] = ()
) -> int:
    if debug:
        traceback.print_exception(err)
    render.NOTES.show()
    render.show_error(message, hint, details)
    from llmkit.training.launching import leave

    leave(message)
    return code


def _usage_errors() -> tuple[type[BaseException], ...]:
    # typer 0.29 carries its own copy of click and exports BadParameter, a usage error like all others that it raises.
    return tuple(base for base in typer.BadParameter.__mro__ if base.__name__ in ("UsageError", "ClickException"))


def _usage_sentence(err: BaseException) -> str:
    sentence = str(getattr(err, "format_message", lambda: str(err))()).strip().rstrip(".")
    sentence = sentence.split("\n")[0]
    return sentence[:1].lower() + sentence[1:]


def _usage_hint(err: BaseException) -> str | None:
    context = getattr(err, "ctx", None)
    return f"{context.command_path} --help" if context is not None else None


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def main() -> None:
    """Run the command line of this process and exit."""
    signal.signal(signal.SIGTERM, _terminate)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # UTF-8 whatever the locale says, so that Chinese text never fails
            stream.reconfigure(encoding="utf-8", errors="replace")
    code = run(sys.argv[1:])
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # one of several processes: on its way out of the interpreter torch 2.13 was seen to abort, with gloo's threads
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
