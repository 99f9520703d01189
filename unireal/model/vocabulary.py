"""Gives the tokenizer of a small model new words, before it is trained on texts that have them.

    python -m unireal.model.vocabulary --model unireal-tiny --words rotate happy sad --output models/more-words
    python train.py tiny --model models/more-words

The small T5's tokenizer spells a word that its first training did not have, letter by letter, and then little of it is
read: while "happy" and "sad" were spelled, `unireal-tiny` drew the mean of both faces (docs/training-log.md). Texts
without new words are read as before.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase, T5EncoderModel

from unireal.arguments import Parser, failed, seed
from unireal.model.folder import check_new_folder, find_model


@torch.no_grad()
def add_words(
    tokenizer: PreTrainedTokenizerBase, model: T5EncoderModel, words: Sequence[str], seed: int = 0
) -> list[str]:
    """Makes each word one token, in small letters and with a capital, and grows the model's embedding by their rows.

    Both forms of a word have the same row: that of the one that is there already, else a random one as large as the
    others. Returns the new tokens. Raises ValueError for what is no word of letters and digits.
    """
    for word in words:
        if not word.isalnum():
            raise ValueError(f"a word has letters and digits alone, got {word!r}; leave out what stands beside it")
    weight = model.get_input_embeddings().weight
    generator = torch.Generator().manual_seed(seed)
    rows: dict[str, torch.Tensor] = {}
    for word in words:
        forms = {form: tokenizer.tokenize(form) for form in (word, word.lower(), word.capitalize())}
        known = [tokens[0] for tokens in forms.values() if len(tokens) == 1]
        row = weight.std().item() * torch.randn(weight.shape[1], generator=generator)
        row = weight[tokenizer.convert_tokens_to_ids(known[0])].clone() if known else row
        rows |= {form: row for form, tokens in forms.items() if len(tokens) > 1}
    tokenizer.add_tokens([AddedToken(form, single_word=True, lstrip=True, normalized=False) for form in rows])
    if len(tokenizer) > len(weight):  # T5-XXL has rows to spare
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    for form, row in rows.items():
        model.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids(form)] = row
    return list(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 done, 2 bad input."""
    parser = Parser(prog="python -m unireal.model.vocabulary", description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, metavar="M", help="shipped model or folder of a pipeline")
    parser.add_argument("--words", required=True, nargs="+", metavar="WORD", help="that shall be one token each")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="new folder of the pipeline")
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="of the new rows (default: 0)")
    options = parser.parse_args(arguments)
    try:
        new = extend(options.model, options.words, options.output, options.seed)
    except (ValueError, OSError) as error:
        return failed(error)
    print(f"model saved to {options.output}, with {len(new)} more tokens: {' '.join(new)}")
    return 0


def extend(model: str, words: Sequence[str], output: Path, seed: int = 0) -> list[str]:
    """Writes a copy of a model whose tokenizer knows more words; returns the new tokens.

    Raises ValueError if it knows them all, for what is no model, or for an output that exists.
    """
    from unireal.loading import stored_types  # above this layer: only the folder's format is needed
    from unireal.pipeline import UniRealPipeline

    check_new_folder(output)
    folder = find_model(model)
    pipeline = UniRealPipeline.from_pretrained(folder, dtype=stored_types(folder))
    new = add_words(pipeline.tokenizer, pipeline.text_encoder, words, seed)
    if not new:
        raise ValueError(f"every one of {', '.join(words)} is one token of {model!r} already; nothing has to be added")
    unfinished = output.with_name(f".{output.name}.unfinished")
    pipeline.save_pretrained(unfinished)
    unfinished.replace(output)
    return new


if __name__ == "__main__":
    sys.exit(main())
