"""A real byte-level BPE tokenizer, small enough for tiny models: any text encodes, nothing is unknown."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from .architectures import BEGIN_OF_TEXT_ID, END_OF_TEXT_ID

END_OF_TEXT = "<|endoftext|>"
BEGIN_OF_TEXT = "<|startoftext|>"
# Ġ is how byte-level tokenizers write a space.
_MERGES = ["Ġ t", "h e", "Ġt he", "Ġ a", "i n", "e r", "o n", "r e", "a t", "Ġ o", "n d", "e n", "in g", "Ġa nd", "e s"]


def write_tokenizer(folder: Path, vocabulary_size: int, *, adds_bos: bool = False) -> None:
    """Writes `tokenizer.json` and its configuration into `folder`; every id is below `vocabulary_size`.

    With `adds_bos` an encoding starts with `<|startoftext|>`, unless special tokens are declined.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = {END_OF_TEXT: END_OF_TEXT_ID, BEGIN_OF_TEXT: BEGIN_OF_TEXT_ID}
    if vocabulary_size < len(tokens) + len(alphabet):
        raise ValueError(f"vocabulary size {vocabulary_size}: at least {len(tokens) + len(alphabet)} needed")
    merges = [(left, right) for left, right in (merge.split() for merge in _MERGES)]
    merges = merges[: vocabulary_size - len(tokens) - len(alphabet)]
    for token in [*alphabet, *(left + right for left, right in merges)]:
        tokens[token] = len(tokens)

    tokenizer = Tokenizer(models.BPE(vocab=tokens, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = (
        processors.TemplateProcessing(single=f"{BEGIN_OF_TEXT} $A", special_tokens=[(BEGIN_OF_TEXT, BEGIN_OF_TEXT_ID)])
        if adds_bos
        else processors.ByteLevel(trim_offsets=False)
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END_OF_TEXT, bos_token=BEGIN_OF_TEXT, clean_up_tokenization_spaces=False
    ).save_pretrained(folder)
