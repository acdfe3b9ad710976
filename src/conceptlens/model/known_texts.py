"""Which texts a sentence encoder knows: by the pieces it reads them in, and by the nearest of its known texts."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

# Chosen on half of the vocabulary and of nonsense words (benchmarks/known_words.py, docs/trust.md).
LEAST_COSINE = 0.355
COSINE_OF_NO_LETTERS = 1.454
COSINE_PER_LETTER = 0.361
UNKNOWN_PIECE = "[UNK]"


def needed_cosine(pieces: Sequence[str]) -> float:
    """Return how near a text must be to one that is known, by the pieces that a WordPiece tokenizer reads it in.

    A word of common use is one piece, a rare one a few long pieces, and nonsense many short ones, whose vector says
    little: `max(.355, 1.454 - .361 n)`, with `n` of `letters_per_piece`.

    Args:
        pieces: Such as `["tab", "##by", "cat"]`; all but the first of a word begin with "##".

    Returns:
        A cosine; infinite where nothing can be read: there is neither letter nor digit, a letter of another alphabet
        than the Latin one, or a sign that the tokenizer lacks.
    """
    signs = [sign for piece in pieces for sign in piece if sign.isalnum()]
    foreign = any(sign.isalpha() and not unicodedata.name(sign, "").startswith("LATIN") for sign in signs)
    if not signs or foreign or UNKNOWN_PIECE in pieces:
        return float("inf")
    return max(LEAST_COSINE, COSINE_OF_NO_LETTERS - COSINE_PER_LETTER * letters_per_piece(pieces))


def letters_per_piece(pieces: Sequence[str]) -> float:
    """Return the mean letters per piece of the word in the shortest pieces; infinite where every word is one piece.

    Args:
        pieces: All but the first of a word begin with "##".
    """
    words: list[list[str]] = []
    for piece in pieces:
        if piece.startswith("##") and words:
            words[-1].append(piece.removeprefix("##"))
        else:
            words.append([piece])
    return min((sum(map(len, word)) / len(word) for word in words if len(word) > 1), default=float("inf"))
