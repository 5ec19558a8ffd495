"""Tokenizers that turn boards into ids and back: plain `PreTrainedTokenizerFast`, so they load without this package."""

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from air_hf.puzzles import Puzzle


def build_tokenizer(puzzle: Puzzle) -> PreTrainedTokenizerFast:
    """A tokenizer of one symbol a cell, with the ids of the puzzle's rules; line breaks in boards are dropped.

    It has no unknown token: encoding a board with another symbol raises an error.
    """
    # A tokenizer finds its special tokens inside a text, so this one is none that a board can spell.
    pad_token = next(
        name for name in ("[PAD]", "<pad>", "[padding]", "\ufdd0pad") if not set(name) <= set(puzzle.symbols)
    )
    vocabulary = {pad_token: 0} | {symbol: i for i, symbol in enumerate(puzzle.symbols, start=1)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=None))
    aliases = [normalizers.Replace(alias, symbol) for alias, symbol in puzzle.aliases.items()]
    tokenizer.normalizer = normalizers.Sequence([normalizers.Replace(Regex(r"[\r\n]"), ""), *aliases])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad_token,
        model_input_names=["input_ids"],
        model_max_length=puzzle.num_cells,
        clean_up_tokenization_spaces=False,
    )
