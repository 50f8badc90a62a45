"""The sections of a recipe: one class a section, one field a key, its description the one text that explains it.

A section that feeds one call of a library uses that library's words. What is left None is settled when the run is
built (from the model, the device or the data) and stands in the run's recipe.yaml.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

Count = Annotated[int, Field(strict=True, ge=1, le=10**12)]
CountOrZero = Annotated[int, Field(strict=True, ge=0, le=10**12)]
Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]
Flag = Annotated[bool, Field(strict=True)]
Text = Annotated[str, Field(strict=True, min_length=1)]
Options = dict[str, Any]
Schedule = Literal[
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
    "cosine_with_min_lr",
    "cosine_warmup_with_min_lr",
    "warmup_stable_decay",
]
Metric = Literal["loss", "perplexity", "bits_per_byte", "accuracy", "f1_macro", "exact_match", "f1", "bleu", "chrf"]
Objective = Literal["causal-lm", "masked-lm", "seq2seq", "classification", "question-answering"]


class Section(BaseModel):
    """The rules of every section: frozen, and no key that is not listed."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelSpec(Section):
    """The model: the weights of a checkpoint, or a config to begin from scratch."""

    name: Text | None = Field(default=None, description="Checkpoint to start from; or else config.")
    config: Options | None = Field(
        default=None,
        description="Config of a new model: model_type, then the keys of its transformers config. vocab_size and the "
        "special ids come from the tokenizer.",
    )
    revision: Text | None = Field(default=None, description="Branch, tag or commit, where name is a hub id.")
    tokenizer: Text | None = Field(
        default=None, description="Where the tokenizer lies, if not with the checkpoint or with token shards."
    )
    dtype: Literal["float32", "float64"] = Field(
        default="float32", description="Type of the trained weights; float64 is for tests."
    )
    attn_implementation: Text | None = Field(
        default=None, description="Attention of transformers: eager, sdpa, ...; unset: the model's default."
    )
    labels: list[Text] | None = Field(
        default=None, description="Names of the classes, in their order; unset: those of the checkpoint."
    )
    problem_type: Literal["single_label_classification", "multi_label_classification", "regression"] | None = Field(
        default=None, description="What labels are; unset: one of the classes."
    )
    kwargs: Options = Field(default={}, description="Further arguments of from_pretrained, with name alone.")


class CleanSpec(Section):
    """Rules that clean each document before it is tokenized."""

    markdown: Flag = Field(default=False, description="Take Markdown's marks away and keep its text.")
    code: Flag = Field(
        default=False, description="Drop blocks of code, fenced or indented; a word of it within a sentence stays."
    )
    urls: Flag = Field(default=False, description="Drop URLs.")
    unwrap: Flag = Field(default=False, description="Join the lines of a document that is wrapped at a fixed width.")
    min_han_share: Share | None = Field(
        default=None, description="Drop paragraphs with a smaller share of Han characters among their letters."
    )
    min_paragraph_chars: Count | None = Field(
        default=None, description="Drop paragraphs with fewer characters, such as headings and what introduces code."
    )


class SourceSpec(Section):
    """One source of documents."""

    path: Text | None = Field(
        default=None,
        description="Hub id, or a file, glob or folder: txt, jsonl, csv, tsv, parquet, arrow, json, each also as .gz; "
        "or a folder of token shards.",
    )
    name: Text | None = Field(default=None, description="Configuration of a hub data set.")
    train_split: Text = Field(default="train", description="Split of a hub data set to train on.")
    text_column: Text = Field(
        default="text", description="Column that holds the text; a dot steps into a nested column."
    )
    label_column: Text = Field(
        default="label", description="Column that holds the label: a name, a number from 0, a list of either, a value."
    )
    source_column: Text = Field(default="source", description="Column that holds the text to translate.")
    target_column: Text = Field(default="target", description="Column that holds its translation.")
    question_column: Text = Field(default="question", description="Column that holds the question.")
    context_column: Text = Field(default="context", description="Column that holds the text to answer from.")
    answers_column: Text = Field(
        default="answers", description="Column that holds the answers: texts, with answer_start where they stand."
    )
    prompt_column: Text | None = Field(
        default=None, description="Column that holds a prompt, a text or a list of messages; it is no target."
    )
    completion_column: Text | None = Field(
        default=None, description="Column that holds what a prompt is answered by; its tokens alone are targets."
    )
    template: Text | None = Field(
        default=None,
        description="The prompt, with {COLUMN} for the text of a column, in the place of prompt_column.",
    )
    source_path: Text | None = Field(
        default=None, description="Text to translate, a line each, with target_path, in the place of path."
    )
    target_path: Text | None = Field(default=None, description="Its translation, a line for each line.")
    column_names: list[Text] | None = Field(default=None, description="Columns of a csv or tsv file without a header.")
    sample_by: Literal["line", "paragraph", "document"] = Field(
        default="document", description="What is one document in a txt file: a line, a paragraph or the whole file."
    )
    encoding: Text = Field(default="utf-8", description="Encoding of text files.")
    clean: CleanSpec = Field(default=CleanSpec(), description="Rules that clean each document.")
    kwargs: Options = Field(default={}, description="Further arguments of datasets.load_dataset, for a hub data set.")
    eval_documents: Count | None = Field(
        default=None, description="Documents held out at the end of the source; no token of them is trained on."
    )
    origin: Text | None = Field(default=None, description="Where the texts come from; the model card says it.")
    license: Text | None = Field(default=None, description="Their licence; the model card says it.")


class MixSpec(SourceSpec):
    """One source of a mixture."""

    weight: Positive | None = Field(
        default=None,
        description="Share of the rows, relative to the other weights; unset for all: as many as each holds.",
    )


class MaskingSpec(Section):
    """What masked-lm hides: of the tokens chosen 80 % become the mask, 10 % a random token, 10 % stay."""

    probability: Annotated[float, Field(strict=True, gt=0, lt=1, allow_inf_nan=False)] = Field(
        default=0.15, description="Share of the tokens that are chosen."
    )
    whole_word: Flag = Field(default=False, description="Choose all tokens of a word together.")


class DenoisingSpec(Section):
    """Spans of a text that seq2seq learns to restore, each replaced by a sentinel: T5's objective."""

    density: Annotated[float, Field(strict=True, gt=0, lt=1, allow_inf_nan=False)] = Field(
        default=0.15, description="Share of the tokens that are replaced."
    )
    mean_span: Annotated[float, Field(strict=True, ge=1, allow_inf_nan=False)] = Field(
        default=3.0, description="Tokens of a span on average."
    )


class DataSpec(SourceSpec):
    """The data: sources, and how documents become rows of tokens."""

    mix: list[MixSpec] | None = Field(default=None, min_length=1, description="Sources to mix, in the place of path.")
    eval_split: Text | None = Field(default=None, description="Split of a hub data set to evaluate on.")
    eval_rows: Count | None = Field(
        default=None, description="Rows held out at the end of the data (sequences, where rows are packed)."
    )
    eval_path: Text | None = Field(default=None, description="File, glob or folder to evaluate on.")
    eval_source_path: Text | None = Field(
        default=None, description="Text to translate in evaluations, a line each, with eval_target_path."
    )
    eval_target_path: Text | None = Field(default=None, description="Its translation, a line for each line.")
    src_lang: Text | None = Field(default=None, description="Language of the sources of seq2seq: en, zh, eng_Latn.")
    tgt_lang: Text | None = Field(default=None, description="Language of the targets of seq2seq.")
    max_length: Count | None = Field(
        default=None,
        description="Tokens in a row; unset: the model's context, for question-answering at most 384.",
    )
    max_target_length: Count | None = Field(
        default=None, description="Tokens of a target of seq2seq; unset: as max_length."
    )
    stride: CountOrZero | None = Field(
        default=None,
        description="Tokens of the context that neighbouring windows of question-answering share; unset: 128, at most "
        "half of the room.",
    )
    on_long: Literal["error", "cut", "split", "drop"] | None = Field(
        default=None,
        description="What becomes of a document or an example longer than max_length; unset: split for causal-lm, else "
        "error.",
    )
    masking: MaskingSpec = Field(default=MaskingSpec(), description="What masked-lm hides.")
    denoising: DenoisingSpec | None = Field(
        default=None, description="Train seq2seq on texts with gaps, in the place of pairs; {} takes T5's settings."
    )
    on_bad: Literal["error", "skip"] = Field(default="error", description="What becomes of a row that holds no text.")
    pack: Flag | None = Field(
        default=None, description="Put several documents of causal-lm in a row, isolated; unset: true for plain texts."
    )
    end_of_text: Flag = Field(default=True, description="End each document with the end-of-text token.")
    streaming: Flag = Field(default=False, description="Read and tokenize while training, without a token store.")
    num_workers: CountOrZero = Field(default=0, description="Processes that read rows ahead.")


class OptimSpec(Section):
    """The optimizer, a class of torch.optim."""

    name: Text = Field(default="AdamW", description="Class in torch.optim.")
    lr: Positive = Field(default=3e-4, description="Peak learning rate.")
    weight_decay: NotNegative = Field(default=0.1, description="Decay of weight matrices; biases and norms have none.")
    betas: tuple[Share, Share] | None = Field(
        default=None, description="Decay rates of the moments, for optimizers that have them; unset: 0.9 and 0.95."
    )
    kwargs: Options = Field(default={}, description="Further arguments of the class.")


class ScheduleSpec(Section):
    """The learning rate over the steps, by transformers.get_scheduler."""

    name: Schedule = Field(default="cosine", description="Schedule of transformers.get_scheduler.")
    num_warmup_steps: CountOrZero = Field(default=0, description="Steps in which the learning rate rises from 0.")
    kwargs: Options = Field(default={}, description="scheduler_specific_kwargs of get_scheduler.")


class TrainSpec(Section):
    """How long and in which batches."""

    max_steps: Count | None = Field(default=None, description="Optimizer steps; or else num_epochs.")
    num_epochs: Count | None = Field(default=None, description="Passes over the data; or else max_steps.")
    global_batch_size: Count = Field(default=32, description="Sequences in a step, all processes together.")
    micro_batch_size: Count | Literal["auto"] | None = Field(
        default=None,
        description="Sequences in one forward pass of one process; auto: the most that fit; unset: no accumulation.",
    )
    mixed_precision: Literal["no", "bf16"] | None = Field(
        default=None, description="Type of the forward pass; unset: bf16 where the device computes it natively."
    )
    max_grad_norm: Annotated[float, Field(strict=True, gt=0, allow_inf_nan=True)] = Field(
        default=1.0, description="Norm to which gradients are clipped; .inf clips nothing."
    )
    gradient_checkpointing: Flag = Field(default=False, description="Compute activations again in the backward pass.")
    compile: Flag = Field(default=False, description="Compile the model with torch.compile.")
    threads: Annotated[int, Field(strict=True, ge=1, le=1024)] | None = Field(
        default=None, description="Threads of a CPU run; unset: what torch takes. A part of the result to the last bit."
    )


class EvalSpec(Section):
    """What is measured during training."""

    every_steps: Count | None = Field(default=None, description="Steps between evaluations; unset: only at the end.")
    num_batches: Count | None = Field(
        default=None, description="Batches of an evaluation, of global_batch_size rows each; unset: all."
    )
    metrics: list[Metric] | None = Field(
        default=None, min_length=1, description="What an evaluation computes; unset: what goes with the objective."
    )
    best_metric: Metric = Field(default="loss", description="Metric that chooses best/ and stops early.")
    patience: Count | None = Field(
        default=None, description="Evaluations without a better one after which training stops."
    )
    generate: list[Text] = Field(
        default=[], description="Prompts that are continued at each evaluation, or texts that are translated."
    )


class SaveSpec(Section):
    """The checkpoints."""

    dtype: Literal["float32", "bfloat16"] | None = Field(
        default=None, description="Type of the weights in final/; unset: as trained."
    )
    generation_config: Options = Field(
        default={}, description="Keys of GenerationConfig, stored in final/ for those who generate with it."
    )

    every_steps: Count = Field(default=500, description="Steps between checkpoints.")
    keep: Count = Field(default=2, description="Checkpoints that are kept.")


class LogSpec(Section):
    """What is written down while training."""

    every_steps: Count = Field(default=10, description="Steps between logged steps.")
    to: list[Literal["jsonl", "tensorboard", "wandb", "mlflow", "swanlab"]] = Field(
        default=["jsonl"],
        min_length=1,
        description="Where: metrics.jsonl, which is always written, and trackers of accelerate.",
    )


class Recipe(Section):
    """A run: what is trained, on what, and how."""

    version: Literal[1] = Field(description="Version of this form.")
    extends: Text | None = Field(default=None, description="Recipe to build upon: a path from this file, or a name.")
    objective: Objective = Field(description="Family of the loss.")
    seed: Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)] = Field(
        default=0, description="Decides initial weights, order and dropout."
    )
    output_dir: Text | None = Field(default=None, description="Folder of the run; unset: runs/NAME.")
    about: Text | None = Field(
        default=None, description="What the model is for and what it cannot do; the model card begins with it."
    )
    model: ModelSpec = Field(description="The model.")
    data: DataSpec = Field(default=DataSpec(), description="The data.")
    adapter: Options | None = Field(
        default=None, description="Config of peft: peft_type, then its own keys; unset: all weights are trained."
    )
    quantization: Options | None = Field(
        default=None, description="Keys of BitsAndBytesConfig: the base in few bits, under an adapter."
    )
    optim: OptimSpec = Field(default=OptimSpec(), description="The optimizer.")
    schedule: ScheduleSpec = Field(default=ScheduleSpec(), description="The learning rate.")
    train: TrainSpec = Field(description="The training.")
    eval: EvalSpec = Field(default=EvalSpec(), description="The evaluation.")
    save: SaveSpec = Field(default=SaveSpec(), description="The checkpoints.")
    log: LogSpec = Field(default=LogSpec(), description="The log.")

    _file: str = PrivateAttr("recipe")
    _name: str = PrivateAttr("recipe")
    _origins: Mapping[str, str] = PrivateAttr({})

    def __eq__(self, other: object) -> bool:
        """Compare the values alone, not where they came from."""
        return isinstance(other, Recipe) and self.__dict__ == other.__dict__

    @property
    def file(self) -> str:
        """The file, or the recipe's name, as the user wrote it."""
        return self._file

    @property
    def name(self) -> str:
        """The file's name without its ending, which names the run's folder."""
        return self._name

    @property
    def origins(self) -> Mapping[str, str]:
        """For each key that was given, as `optim.lr`: `FILE:LINE` or `command line`; all other values are defaults."""
        return self._origins
