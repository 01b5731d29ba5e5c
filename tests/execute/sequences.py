"""Tiny random models with a label a sequence, and with two sequences; the spec is the one that their class chooses."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from tests.execute.families import FAMILIES, VOCAB

_BERT = FAMILIES["BertForMaskedLM"]
_BART = dict(
    vocab_size=VOCAB, d_model=64, encoder_layers=1, decoder_layers=1, encoder_attention_heads=8,
    decoder_attention_heads=8, encoder_ffn_dim=96, decoder_ffn_dim=96, max_position_embeddings=128, dropout=0.0,
    attention_dropout=0.0, activation_dropout=0.0, init_std=0.06, use_cache=False, pad_token_id=0, bos_token_id=1,
    eos_token_id=2, decoder_start_token_id=1, forced_eos_token_id=2,
)  # fmt: skip
CLASSIFIERS = {
    "LlamaForSequenceClassification": dict(FAMILIES["LlamaForCausalLM"], pad_token_id=0, num_labels=3),
    "FalconForSequenceClassification": dict(FAMILIES["FalconForCausalLM"], pad_token_id=0, num_labels=3),
    "BloomForSequenceClassification": dict(FAMILIES["BloomForCausalLM"], pad_token_id=0, num_labels=3),
    "BertForSequenceClassification": dict(_BERT, num_labels=3),
    "GPT2ForSequenceClassification": dict(
        FAMILIES["GPT2LMHeadModel"], pad_token_id=0, bos_token_id=1, eos_token_id=2, num_labels=3
    ),
}
ENCODER_DECODERS = {
    "T5ForConditionalGeneration": dict(
        vocab_size=VOCAB, d_model=64, d_kv=8, d_ff=96, num_layers=2, num_heads=8, dropout_rate=0.0, use_cache=False,
        decoder_start_token_id=0,
    ),
    "BartForConditionalGeneration": _BART,
}  # fmt: skip


def build(name: str, **changed) -> nn.Module:
    """No parameter is zero, so that each has a gradient worth comparing."""
    import transformers

    cls = getattr(transformers, name)
    model = cls(cls.config_class(**{**(CLASSIFIERS | ENCODER_DECODERS)[name], **changed}))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return model


def regression() -> nn.Module:
    """One number a row."""
    return build("BertForSequenceClassification", num_labels=1)


def several():
    """Any number of classes a row; in the last row padding is on the left."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, VOCAB, (3, 11), generator=generator)
    keep = torch.ones(3, 11, dtype=torch.long)
    keep[1, 7:] = keep[2, :5] = 0
    labels = torch.randint(0, 2, (3, 3), generator=generator).float()
    model = build("LlamaForSequenceClassification", problem_type="multi_label_classification")
    return model, {"input_ids": ids * keep, "attention_mask": keep, "labels": labels}


def both_given():
    """The decoder's ids and its mask are the caller's, and longer than the encoder's."""
    generator = torch.Generator().manual_seed(1)
    ids, decoded, labels = (torch.randint(1, VOCAB, (2, n), generator=generator) for n in (8, 13, 13))
    keep, kept = torch.ones(2, 8, dtype=torch.long), torch.ones(2, 13, dtype=torch.long)
    keep[1, 5:] = kept[0, 11:] = 0
    labels = torch.where(kept.bool(), labels, -100)
    return build("T5ForConditionalGeneration"), {
        "input_ids": ids, "attention_mask": keep, "labels": labels, "decoder_input_ids": decoded,
        "decoder_attention_mask": kept,
    }  # fmt: skip


def few():
    """A target of two tokens, as of a label in words: of three ranks one has no query in the decoder."""
    generator = torch.Generator().manual_seed(1)
    ids, labels = (torch.randint(1, VOCAB, (2, n), generator=generator) for n in (8, 2))
    return build("T5ForConditionalGeneration"), {"input_ids": ids, "labels": labels}


def __getattr__(name: str):
    """`tests.execute.sequences:T5ForConditionalGeneration` is a factory, as `--model` takes one."""
    if name in CLASSIFIERS or name in ENCODER_DECODERS:
        return partial(build, name)
    raise AttributeError(name)
