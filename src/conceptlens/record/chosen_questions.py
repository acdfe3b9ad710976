"""Which questions of an explanation to keep, as a person names them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from conceptlens.io.errors import InputError, InputTypeError
from conceptlens.record.outputs import plain_index


def chosen_rows(questions: Iterable[Any], images: int, count: int) -> list[list[int]]:
    """Return the questions to keep as plain indices, a row for each image.

    Args:
        questions: Integers of any kind for all images, or as many for each image.
        images: How many images there are.
        count: How many questions there are.

    Raises:
        InputError: There is no such question, or the rows are not one for each image and of one length.
        InputTypeError: An index is no integer.
    """
    given = list(questions)
    each = [
        list(one)
        for one in given
        if isinstance(one, Iterable) and plain_index(one) is None and not isinstance(one, str)
    ]
    rows = each if given and len(each) == len(given) else [given] * images
    if len(rows) != images or len({len(row) for row in rows}) > 1:
        lengths = ", ".join(str(len(row)) for row in rows)
        raise InputError(
            f"rows of {lengths} questions were given for {images} images; give one row, or one of equal length for each"
        )
    indices = [[plain_index(one) for one in row] for row in rows]
    for row, plain in zip(rows, indices, strict=True):
        for one, index in zip(row, plain, strict=True):
            if index is None:
                raise InputTypeError(f"a question is {one!r}; expected the index of a question, 0 to {count - 1}")
            if not -count <= index < count:
                raise InputError(f"no question {index} in this explanation; it holds questions 0 to {count - 1}")
    return [[index for index in row if index is not None] for row in indices]
