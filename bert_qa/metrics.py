"""Exact match and F1 of answers against gold answers, in percent: SQuAD's, and MLQA's beside it.

Both compare normalized texts: lower case, no punctuation, no articles, single spaces; F1 counts the
words that two texts share, and the best over the golds is taken (Rajpurkar et al., 2016, section
6.1). As in SQuAD 2.0's script, the right answer to a question without gold answers is "no answer",
and golds that normalize to nothing do not count.

`en` counts as SQuAD's script does; the other languages as MLQA's, which knows articles of some
(Lewis et al., 2020; github.com/facebookresearch/MLQA); `other` has no articles, and counts words,
or characters where `bert_qa.words` finds none. Knows nothing of models.
"""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import regex

from bert_qa.params import Language
from bert_qa.spans import Answer
from bert_qa.squad import Example
from bert_qa.words import find_units

_ARTICLES: dict[str, regex.Pattern[str]] = {
    "en": regex.compile(r"\b(?:a|an|the)\b"),
    "ar": regex.compile("\u0627\u0644"),  # alef and lam, wherever they stand, as MLQA has it
    "de": regex.compile(r"\b(?:ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b"),
    "es": regex.compile(r"\b(?:un|una|unos|unas|el|la|los|las)\b"),
    "vi": regex.compile(r"\b(?:của|là|cái|chiếc|những)\b"),
}
_ASCII = str.maketrans("", "", string.punctuation)
_PUNCTUATION = regex.compile(rf"[\p{{P}}{regex.escape(string.punctuation)}]")
_IDEOGRAPHS = regex.compile(r"([\u4e00-\u9fa5])")
"""Those that MLQA counts one by one."""


@dataclass(frozen=True)
class Score:
    """Exact match and F1, 0 to 100."""

    exact_match: float
    f1: float


def score_text(prediction: str, golds: Sequence[str], language: Language = "en") -> Score:
    """Score one answer.

    Args:
        prediction: the answer's text, "" for no answer.
        golds: the gold answers; empty for an unanswerable question.
    """
    found = normalize(prediction, language)
    wanted = [words for gold in golds if (words := normalize(gold, language))] or [[]]
    return Score(
        100.0 * any(found == words for words in wanted),
        100.0 * max(_f1(found, words) for words in wanted),
    )


def normalize(text: str, language: Language = "en") -> list[str]:
    """The words of a text that count, in their order."""
    lower = text.lower()
    plain = lower.translate(_ASCII) if language == "en" else _PUNCTUATION.sub("", lower)
    if language in _ARTICLES:
        plain = _ARTICLES[language].sub(" ", plain)
    if language == "zh":
        plain = _IDEOGRAPHS.sub(r" \1 ", plain)
    if language == "other":
        units = find_units(plain)
        return [plain[s:e] for s, e in zip(units.starts, units.ends, strict=True)]
    return plain.split()


def _f1(found: list[str], wanted: list[str]) -> float:
    if not found or not wanted:
        return float(found == wanted)
    same = (Counter(found) & Counter(wanted)).total()
    return 2 * same / (len(found) + len(wanted))


def score_each(
    examples: Sequence[Example], answers: Sequence[Answer], language: Language = "en"
) -> list[Score]:
    """Score the answers of examples, one by one."""
    return [
        score_text(answer.text, [gold.text for gold in example.answers], language)
        for example, answer in zip(examples, answers, strict=True)
    ]


def mean(scores: Sequence[Score]) -> Score:
    """The mean of scores: what SQuAD calls the exact match and F1 of a data set."""
    return Score(
        sum(score.exact_match for score in scores) / len(scores),
        sum(score.f1 for score in scores) / len(scores),
    )


def exact_match_and_f1(
    examples: Sequence[Example], answers: Sequence[Answer], language: Language = "en"
) -> Score:
    """Exact match and F1 of a data set."""
    return mean(score_each(examples, answers, language))
