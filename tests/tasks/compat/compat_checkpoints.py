"""Tiny checkpoints that transformers 4 and 5 build alike: every weight is a function of its parameter's name.

Only what both versions have is used here. The tokenizers are made of a few words and characters, so nothing is stored.
"""

import hashlib
import json
import pathlib
import re

ENGLISH = (
    "The old lighthouse at Cape Morrow was built in 1847 by Anna Petersen, a Danish engineer, after three ships were "
    "lost in one winter. Its lamp burned whale oil until 1902, when the town paid for gas. "
)
CHINESE = "杭州位于中国东南部，是浙江省的省会。西湖在城市的西边，面积约6.39平方公里，每年有很多游客来这里散步和划船。"
EMOJI = "On day 3 🎉 the team 👩‍👩‍👧 met at the café ☕ and ate naïve crêpes 🥞🥞; rain ☔️ came at 5 pm. "
ACRONYMS = "NASA's SN-12 flew; the U.S.A.F. said: 'unhappily so'. "
WORDS = [
    "the",
    "lighthouse",
    "was",
    "built",
    "in",
    "of",
    "and",
    "when",
    "who",
    "did",
    "one",
    "at",
    "by",
    "city",
    "lamp",
]
WORDS += ["team", "un", "happ", "ly", "ing", "rain", "day"]
SOURCES = [
    "The lighthouse was built in 1847.",
    "Who did the rain team meet at 5 pm?",
    "杭州是浙江省的省会。",
    "the " * 30 + "lamp",
]
ENDS = 1.0  # added to the logit of end-of-text, so that some texts end before the limit
LANGUAGES = ["en_XX", "de_DE", "fr_XX", "zh_CN"]


def characters():
    return sorted(set(ENGLISH + CHINESE + EMOJI + ACRONYMS + "".join(SOURCES)) - set(" \n") | set("▁?？"))


def fill(model, scale, embedding=None):
    """Set every parameter to numbers drawn from a seed made of its name; norms stay near 1.

    A tied embedding that is small against the layers keeps a model from repeating its last token for ever.
    """
    import torch

    for name, parameter in model.named_parameters():
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
        drawn = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            parameter.copy_((1 if re.search(r"(?i)(norm|\.ln_\w+)\.weight$", name) else 0) + 0.05 * drawn)
            if parameter.ndim > 1:
                parameter.copy_((embedding if embedding and "shared" in name else scale) * drawn)
    if hasattr(model, "final_logits_bias"):
        model.final_logits_bias[0, model.config.eos_token_id] = ENDS
    return model.eval()


def save(model, tokenizer, folder):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def wordpiece():
    """A tokenizer like BERT's."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    lower = sorted({c.lower() for c in characters() if len(c.lower()) == 1})
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *lower, *(f"##{c}" for c in lower), *WORDS]
    vocab = {token: i for i, token in enumerate(dict.fromkeys([*tokens, *(f"##{word}" for word in WORDS)]))}
    made = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece(prefix="##")
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        unk_token="[UNK]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        mask_token="[MASK]",
        model_max_length=512,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def byte_level(kind):
    """A tokenizer like GPT-2's, or like RoBERTa's with its marks around question and context."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("i", "n"), ("in", "g"), ("a", "s"), ("Ġ", "w"), ("Ġw", "as")]
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"] if kind == "roberta" else ["<|endoftext|>"]
    tokens = [*specials, *sorted(pre_tokenizers.ByteLevel.alphabet()), *(a + b for a, b in merges)]
    made = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(token, special=True) for token in specials])
    if kind == "roberta":
        made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True)
        marks = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "pad_token": "<pad>"}
        marks |= {"unk_token": "<unk>", "mask_token": "<mask>"}
    else:
        made.post_processor = processors.ByteLevel(trim_offsets=False)
        marks = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    names = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=made, model_input_names=names, **marks)


def pieces(specials, languages=()):
    """A Unigram tokenizer like those of sentencepiece, as a tokenizers.Tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    words = [f"▁{word}" for word in WORDS]
    vocab = [(token, 0.0) for token in specials]
    vocab += [(token, -4.0 - i / 64) for i, token in enumerate(words)]
    vocab += [(c, -8.0 - i / 64) for i, c in enumerate(characters())]
    vocab += [(token, 0.0) for token in languages]
    made = Tokenizer(models.Unigram(vocab, unk_id=specials.index("<unk>")))
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    made.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    made.add_special_tokens([*specials, *languages])
    end = specials.index("</s>")
    single = "$A </s> en_XX" if languages else "$A </s>"
    marks = [("</s>", end)] + ([("en_XX", made.token_to_id("en_XX"))] if languages else [])
    made.post_processor = processors.TemplateProcessing(single=single, special_tokens=marks)
    return made


def seq2seq_tokenizer(specials, max_length=512):
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=pieces(specials),
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
    )


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
BOTH = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
}


def bert(folder):
    from transformers import BertConfig, BertForQuestionAnswering

    tokenizer = wordpiece()
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=512, **SMALL)
    return save(fill(BertForQuestionAnswering(config), 0.35), tokenizer, folder)


def roberta(folder):
    from transformers import RobertaConfig, RobertaForQuestionAnswering

    tokenizer = byte_level("roberta")
    ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    config = RobertaConfig(vocab_size=len(tokenizer), max_position_embeddings=514, type_vocab_size=1, **ids, **SMALL)
    return save(fill(RobertaForQuestionAnswering(config), 0.35), tokenizer, folder)


def gpt2(folder):
    from transformers import GPT2Config, GPT2ForQuestionAnswering

    tokenizer = byte_level("gpt2")
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 512}
    config = GPT2Config(vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=0, **shape)
    return save(fill(GPT2ForQuestionAnswering(config), 0.35), tokenizer, folder)


def marian(folder):
    from transformers import MarianConfig, MarianMTModel

    tokenizer = seq2seq_tokenizer(["</s>", "<unk>", "<pad>"])
    ids = {"pad_token_id": 2, "eos_token_id": 0, "decoder_start_token_id": 2, "forced_eos_token_id": 0}
    config = MarianConfig(vocab_size=len(tokenizer), max_position_embeddings=300, **ids, **BOTH)
    model = fill(MarianMTModel(config), 1.0, 0.1)
    model.generation_config.max_length, model.generation_config.num_beams = 24, 2
    model.generation_config.bad_words_ids, model.generation_config.no_repeat_ngram_size = [[2]], 2
    return save(model, tokenizer, folder)


def bart(folder):
    from transformers import BartConfig, BartForConditionalGeneration

    tokenizer = seq2seq_tokenizer(["<s>", "<pad>", "</s>", "<unk>"], 20)
    config = BartConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=300,
        task_specific_params={"summarization": {"min_length": 4, "no_repeat_ngram_size": 3, "length_penalty": 2.0}},
        **BOTH,
    )
    return save(fill(BartForConditionalGeneration(config), 2.0, 0.1), tokenizer, folder)


def t5(folder):
    from transformers import T5Config, T5ForConditionalGeneration

    tokenizer = seq2seq_tokenizer(["<pad>", "</s>", "<unk>"])
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=1,
        num_heads=2,
        decoder_start_token_id=0,
        task_specific_params={
            "summarization": {"num_beams": 3, "prefix": "lamp: "},
            "translation_en_to_de": {"num_beams": 2, "max_length": 50, "prefix": "the city of de: "},
        },
    )
    return save(fill(T5ForConditionalGeneration(config), 2.0, 0.3), tokenizer, folder)


def mbart(folder):
    """An mBART, whose tokenizer writes the languages around a text."""
    from transformers import MBartConfig, MBartForConditionalGeneration

    made = pieces(["<s>", "<pad>", "</s>", "<unk>", "<mask>"], LANGUAGES)
    config = MBartConfig(vocab_size=made.get_vocab_size(), max_position_embeddings=300, **BOTH)
    model = fill(MBartForConditionalGeneration(config), 1.0, 0.2)
    model.generation_config.max_length, model.generation_config.no_repeat_ngram_size = 30, 2
    model.save_pretrained(folder)
    marks = {"bos_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "cls_token": "<s>", "unk_token": "<unk>"}
    marks |= {"pad_token": "<pad>", "mask_token": "<mask>", "src_lang": "en_XX", "tgt_lang": "de_DE"}
    codes = {"additional_special_tokens": LANGUAGES}
    return write_tokenizer(folder, made, tokenizer_class="MBartTokenizer", model_max_length=256, **marks, **codes)


def bert_left(folder):
    """The same with a tokenizer that pads on the left, so that transformers 4 puts the context first."""
    bert(folder)
    return change(folder, "tokenizer_config.json", padding_side="left")


def bert_unnamed(folder):
    """The same as transformers 4 saved a tokenizer of no named class that was not told what its model takes."""
    bert(folder)
    return change(folder, "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast", model_input_names=None)


def marian_old(folder):
    """The same as old versions saved it: the settings of generation stand in config.json, others lack."""
    marian(folder)
    (pathlib.Path(folder) / "generation_config.json").unlink()
    return change(folder, "config.json", max_length=18, num_beams=2, bad_words_ids=[[2]], no_repeat_ngram_size=2)


def albert(folder):
    """An ALBERT, whose tokenizer gives segments in transformers 4 and none in 5."""
    from tokenizers import normalizers, pre_tokenizers, processors
    from transformers import AlbertConfig, AlbertForQuestionAnswering

    made = pieces(["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]", "</s>"])
    quotes = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    letters = [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]
    made.normalizer = normalizers.Sequence(quotes + letters)
    space = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), space])
    marks = [("[CLS]", 2), ("[SEP]", 3)]
    pair = "[CLS] $A [SEP] $B:1 [SEP]:1"
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair=pair, special_tokens=marks)
    config = AlbertConfig(vocab_size=made.get_vocab_size(), embedding_size=16, max_position_embeddings=512, **SMALL)
    fill(AlbertForQuestionAnswering(config), 0.35).save_pretrained(folder)
    words = {"bos_token": "[CLS]", "eos_token": "[SEP]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    words |= {"unk_token": "<unk>", "pad_token": "<pad>", "mask_token": "[MASK]"}
    return write_tokenizer(folder, made, tokenizer_class="AlbertTokenizer", model_max_length=512, **words)


def gpt2_named(folder):
    """The GPT-2 with a tokenizer of its own class."""
    gpt2(folder)
    return change(folder, "tokenizer_config.json", tokenizer_class="GPT2Tokenizer", model_input_names=None)


def roberta_named(folder):
    """The RoBERTa with a tokenizer of its own class."""
    roberta(folder)
    return change(folder, "tokenizer_config.json", tokenizer_class="RobertaTokenizer", model_input_names=None)


def bert_named(folder):
    """The BERT with a tokenizer of its own class."""
    bert(folder)
    return change(folder, "tokenizer_config.json", tokenizer_class="BertTokenizer", model_input_names=None)


def write_tokenizer(folder, made, **described):
    """Write a tokenizer as files, so that each version reads it with its own class."""
    made.save(str(pathlib.Path(folder) / "tokenizer.json"))
    (pathlib.Path(folder) / "tokenizer_config.json").write_text(json.dumps(described), encoding="utf-8")
    return folder


def change(folder, name, **values):
    """Change keys of a JSON file; None takes one away."""
    path = pathlib.Path(folder) / name
    content = {**json.loads(path.read_text(encoding="utf-8")), **values}
    kept = {key: value for key, value in content.items() if value is not None or key not in values}
    path.write_text(json.dumps(kept), encoding="utf-8")
    return folder


MAKERS = {
    "bert": bert,
    "bert left": bert_left,
    "bert unnamed": bert_unnamed,
    "bert named": bert_named,
    "albert": albert,
    "roberta": roberta,
    "roberta named": roberta_named,
    "gpt2": gpt2,
    "gpt2 named": gpt2_named,
    "marian": marian,
    "marian old": marian_old,
    "bart": bart,
    "t5": t5,
    "mbart": mbart,
}
