"""The units of a text that an answer holds whole: words, or characters of scripts without spaces.

Letters, digits and symbols between white space and punctuation are a word, as to BERT's tokenizer.
Chinese and Japanese, Thai and its neighbours do not separate words, and Korean joins particles to
them: there every character is a unit, with its marks (a grapheme cluster of Unicode's annex 29).
Knows nothing of tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import regex
from numpy.typing import NDArray

_NO_SPACES = (
    r"\p{sc=Han}\p{scx=Hira}\p{scx=Kana}\p{scx=Bopo}\p{sc=Hang}\p{sc=Yi}\p{sc=Tibt}"
    r"\p{lb=SA}"  # Thai, Lao, Khmer, Burmese and others: a dictionary is needed to find words
)
_INVISIBLE = r"\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\p{Cf}"
"""Control characters but white space, and format characters: inside a word a part of it, nothing by
themselves."""

_PUNCTUATION = r"\p{P}$+<=>^`|~"
"""As BERT's tokenizer has it: all of ASCII that is no letter and no digit, and Unicode's."""

_CLOSING = r"\p{Ps}\p{Pe}\p{Pi}\p{Pf}\p{Pd}\p{Terminal_Punctuation}\"'"
"""Of that, what separates: brackets, quotation marks, dashes, commas and stops."""

_LETTER = rf"[^\s{_INVISIBLE}{_PUNCTUATION}{_NO_SPACES}]"
_CHARACTER = rf"(?![\s{_INVISIBLE}])\X"
_WORDS = regex.compile(
    rf"{_LETTER}+(?:[{_INVISIBLE}]+{_LETTER}+)*|([{_CLOSING}])|[{_PUNCTUATION}]\p{{M}}*|{_CHARACTER}"
)
_CHARACTERS = regex.compile(_CHARACTER)


@dataclass(frozen=True)
class Units:
    """The units of a text, in their order.

    Attributes:
        starts: int64, first character of each.
        ends: int64, one past its last character.
        separates: bool, whether it is a bracket, a quotation mark, a dash, a comma or a stop.
    """

    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    separates: NDArray[np.bool_]


def find_units(text: str, *, words: bool = True) -> Units:
    """Find the units of a text.

    Args:
        words: whether letters of a word stay together; without, every character is a unit, and
            none separates.

    Returns:
        White space and, outside words, invisible characters are in no unit.
    """
    found = (_WORDS if words else _CHARACTERS).finditer(text)
    spans = [(*match.span(), match.lastindex is not None) for match in found]
    table = np.array(spans, dtype=np.int64).reshape(-1, 3)
    return Units(table[:, 0], table[:, 1], table[:, 2] == 1)
