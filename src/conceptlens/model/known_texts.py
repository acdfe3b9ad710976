"""Which texts a sentence encoder knows: by the pieces it reads them in, and by the nearest of its known texts."""

from __future__ import annotations

from collections.abc import Sequence

# Chosen on half of the vocabulary and of nonsense words (benchmarks/known_words.py, docs/trust.md).
LEAST_COSINE = 0.36
COSINE_OF_NO_LETTERS = 1.34
COSINE_PER_LETTER = 0.335
UNKNOWN_PIECE = "[UNK]"


def needed_cosine(pieces: Sequence[str]) -> float:
    """Return how near a text must be to one that is known, by the pieces that a WordPiece tokenizer reads it in.

    A word of common use is one piece, a rare one a few long pieces, and nonsense or another alphabet many short ones,
    whose vector says little: `max(.36, 1.34 - .335 n)`, with the letters per piece `n` of the word in the shortest
    pieces; .36 where no word is in pieces.

    Args:
        pieces: Such as `["tab", "##by", "cat"]`; all but the first of a word begin with "##".

    Returns:
        A cosine; infinite where nothing is read: there is no letter or digit, or a piece that the tokenizer lacks.
    """
    if UNKNOWN_PIECE in pieces or not any(letter.isalnum() for piece in pieces for letter in piece):
        return float("inf")
    words: list[list[str]] = []
    for piece in pieces:
        if piece.startswith("##") and words:
            words[-1].append(piece.removeprefix("##"))
        else:
            words.append([piece])
    letters = [sum(map(len, word)) / len(word) for word in words if len(word) > 1]
    return max(LEAST_COSINE, COSINE_OF_NO_LETTERS - COSINE_PER_LETTER * min(letters, default=float("inf")))
