"""Tiny checkpoints for translation, one of each kind, with random weights; made by the tests that need them."""

import io
import json

TEXTS = [
    "Good morning. How are you today? I am fine, thank you; the sea was grey, and nobody answered!",
    "In 1984 there were 12 dogs, 3.14 apples and a little girl named Lily who loved to play outside.",
    "今天天气很好，我们去公园散步吧。他说：“你好，世界！”人工智能的未来是什么？没有人知道……",
]
CHARACTERS = sorted(
    {c for c in "".join(TEXTS) if not c.isspace()} | set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJ0123456789")
)
SHAPE = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 128,
}


def sentencepiece_model():
    """A sentencepiece model of single characters."""
    import sentencepiece

    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*TEXTS, " ".join(CHARACTERS)]),
        model_writer=made,
        model_type="char",
        vocab_size=10_000,
        hard_vocab_limit=False,
        character_coverage=1.0,
        minloglevel=2,
    )
    return made.getvalue()


def pieces(model):
    """The pieces of a sentencepiece model, without its special ones."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    return [processor.id_to_piece(i) for i in range(3, processor.get_piece_size())]


def marian_tokenizer(folder, targets=(), **settings):
    """A Marian tokenizer; `targets` are its >>codes<<."""
    from transformers import MarianTokenizer

    model = sentencepiece_model()
    for name in ("source.spm", "target.spm"):
        (folder / name).write_bytes(model)
    vocab = ["</s>", "<unk>", *(f">>{code}<<" for code in targets), *pieces(model), "<pad>"]
    path = folder / "vocab.json"
    path.write_text(json.dumps({token: i for i, token in enumerate(vocab)}), encoding="utf-8")
    return MarianTokenizer(str(folder / "source.spm"), str(folder / "target.spm"), str(path), **settings)


def m2m100_tokenizer(folder):
    """An M2M100 tokenizer, whose 100 languages follow its vocabulary."""
    from transformers import M2M100Tokenizer

    model = sentencepiece_model()
    (folder / "sentencepiece.bpe.model").write_bytes(model)
    vocab = ["<s>", "<pad>", "</s>", "<unk>", *pieces(model)]
    path = folder / "vocab.json"
    path.write_text(json.dumps({token: i for i, token in enumerate(vocab)}), encoding="utf-8")
    return M2M100Tokenizer(str(path), str(folder / "sentencepiece.bpe.model"))


def nllb_tokenizer(folder, **settings):
    """An NLLB tokenizer of characters, with its 202 languages."""
    from transformers import NllbTokenizer

    vocab = ["<s>", "<pad>", "</s>", "<unk>", "▁", *CHARACTERS]
    return NllbTokenizer(vocab={token: i for i, token in enumerate(vocab)}, merges=[], **settings)


def scored(*special):
    """A Unigram vocabulary of characters."""
    return [*((token, 0.0) for token in special), *((token, -3.0) for token in ["▁", *CHARACTERS])]


def mbart_tokenizer(folder):
    """An mBART tokenizer of characters, with its 25 languages."""
    from transformers import MBartTokenizer
    from transformers.models.mbart.tokenization_mbart import FAIRSEQ_LANGUAGE_CODES

    codes = [(code, 0.0) for code in [*FAIRSEQ_LANGUAGE_CODES, "<mask>"]]
    return MBartTokenizer(vocab=scored("<s>", "<pad>", "</s>", "<unk>") + codes)


def mbart50_tokenizer(folder):
    """An mBART-50 tokenizer of characters, with its 52 languages."""
    from transformers import MBart50Tokenizer

    return MBart50Tokenizer(vocab=scored("<unk>", "<s>", "</s>"))


def t5_tokenizer(folder):
    """A T5 tokenizer of characters."""
    from transformers import T5Tokenizer

    return T5Tokenizer(vocab=scored("<pad>", "</s>", "<unk>"), extra_ids=0)


def bart_tokenizer(folder):
    """A byte-level tokenizer, which knows of no languages."""
    from conftest import byte_level_tokenizer

    tokenizer = byte_level_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


# kind -> (its tokenizer, its config, the config's own settings)
KINDS = {
    "marian": (marian_tokenizer, "MarianConfig", {"eos_token_id": 0, "forced_eos_token_id": 0}),
    "m2m100": (m2m100_tokenizer, "M2M100Config", {"vocab_size": len(CHARACTERS) + 120}),
    "nllb": (nllb_tokenizer, "M2M100Config", {}),
    "mbart": (mbart_tokenizer, "MBartConfig", {"forced_eos_token_id": 2}),
    "mbart50": (mbart50_tokenizer, "MBartConfig", {"forced_eos_token_id": 2}),
    "t5": (t5_tokenizer, "T5Config", {}),
    "bart": (bart_tokenizer, "BartConfig", {"bos_token_id": 0, "eos_token_id": 0, "forced_eos_token_id": None}),
}


def save(kind, folder, *, stated=None, seed=3, config=None, **settings):
    """Save a tiny checkpoint of a kind.

    Args:
        kind: One of KINDS.
        folder: Where it is saved.
        stated: What its generation_config states.
        seed: Of its weights.
        config: Settings of its config.
        **settings: Of its tokenizer.
    """
    import torch
    import transformers

    make, name, own = KINDS[kind]
    tokenizer = make(folder, **settings)
    shape = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2} if kind == "t5" else dict(SHAPE)
    pad = tokenizer.pad_token_id
    shape |= {"vocab_size": len(tokenizer), "pad_token_id": pad, "decoder_start_token_id": pad, **own}
    if kind in ("m2m100", "nllb", "mbart", "mbart50"):
        shape |= {"eos_token_id": 2, "bos_token_id": 0, "decoder_start_token_id": 2}
    made = getattr(transformers, name)(**{**shape, **(config or {})})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModelForSeq2SeqLM.from_config(made)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0, 0.6)
            model.get_input_embeddings().weight.normal_(
                0, 0.1
            )  # small beside the rest, so that no token repeats itself
            special = [i for i, token in tokenizer.added_tokens_decoder.items() if token.special]
            model.get_input_embeddings().weight[special] *= 0.5  # so that characters come more often than they
    model.generation_config.update(**(stated or {}))
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder
