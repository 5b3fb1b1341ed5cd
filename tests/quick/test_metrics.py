"""Exact match and F1, on cases whose value is worked out by hand from SQuAD's definition."""

from __future__ import annotations

import pytest

from bert_qa.metrics import exact_match_and_f1, score_text
from bert_qa.params import Language
from bert_qa.spans import Answer
from bert_qa.squad import Example, Span


@pytest.mark.parametrize(
    ("prediction", "golds", "exact_match", "f1"),
    [
        ("London", ["London"], 100, 100),
        ("Paris", ["London"], 0, 0),
        # Articles, case, punctuation and spaces do not count.
        ("the  Eiffel tower.", ["Eiffel Tower"], 100, 100),
        ("An apple a day", ["apple day"], 100, 100),
        ("U.S.", ["US"], 100, 100),
        ("well-known", ["wellknown"], 100, 100),
        # ... but an article inside a word does: "theatre" is not "atre".
        ("theatre", ["atre"], 0, 0),
        # Two of three words, both of two: precision 2/3, recall 1, F1 0.8.
        ("in north London", ["north London"], 0, 80),
        # One of two, one of three: precision 1/2, recall 1/3, F1 0.4.
        ("south London", ["north of London"], 0, 40),
        # Repeated words count as often as both have them: 2 of 3 and 2 of 2.
        ("to be to", ["to to"], 0, 80),
        # Several golds: the best of them, for each metric on its own.
        ("north London", ["London", "north London", "England"], 100, 100),
        ("big north London", ["London", "north London"], 0, 80),
        # No answer: right where there is none, wrong where there is one, and the reverse.
        ("", [], 100, 100),
        ("London", [], 0, 0),
        ("", ["London"], 0, 0),
        # A prediction that normalizes to nothing is no answer; a gold that does is no gold.
        ("the", [], 100, 100),
        ("London", ["the", "London"], 100, 100),
        ("the", ["the", "London"], 0, 0),
        ("", ["..."], 100, 100),
    ],
)
def test_scores(prediction: str, golds: list[str], exact_match: float, f1: float) -> None:
    score = score_text(prediction, golds)
    assert score.exact_match == pytest.approx(exact_match)
    assert score.f1 == pytest.approx(f1)


@pytest.mark.parametrize(
    ("language", "prediction", "gold", "exact_match", "f1"),
    [
        # Worked out by hand from MLQA's evaluation.
        ("es", "la Torre Eiffel", "Torre Eiffel.", 100, 100),
        ("es", "¡Hola!", "hola", 100, 100),
        ("de", "der Eiffelturm", "Eiffelturm", 100, 100),
        ("vi", "của Hà Nội", "Hà Nội", 100, 100),
        ("hi", "the दिल्ली", "दिल्ली", 0, 200 / 3),
        ("ar", "القاهرة", "قاهرة", 100, 100),
        # Four ideographs against two of them: precision 1/2, recall 1; digits are one word.
        ("zh", "北京大学", "大学", 0, 200 / 3),
        ("zh", "2010年", "2010 年。", 100, 100),
        ("zh", "（北京）", "北京", 100, 100),
        ("en", "北京大学", "大学", 0, 0),
        # Kana, Thai and Hangul are counted by character, Latin by word; no articles.
        ("other", "富士山は", "富士山", 0, 600 / 7),
        ("other", "서울은", "서울", 0, 80),
        ("other", "ไทย", "ไทย", 100, 100),
        ("other", "the Tower", "Tower", 0, 200 / 3),
    ],
)
def test_scores_of_other_languages(
    language: Language, prediction: str, gold: str, exact_match: float, f1: float
) -> None:
    score = score_text(prediction, [gold], language)
    assert score.exact_match == pytest.approx(exact_match)
    assert score.f1 == pytest.approx(f1)


def test_a_data_set_s_score_is_the_mean() -> None:
    context = "north London"
    examples = [
        Example("1", "?", context, (Span("London", 6),)),
        Example("2", "?", context, (Span("north London", 0),)),
        Example("3", "?", context, ()),
    ]
    answers = [Answer("London", 1, 6, 12), Answer("London", 1, 6, 12), Answer("", 1, 0, 0)]
    score = exact_match_and_f1(examples, answers)
    # 100, then 1 of 1 and 1 of 2 (F1 2/3), then 100.
    assert score.exact_match == pytest.approx(200 / 3)
    assert score.f1 == pytest.approx((100 + 200 / 3 + 100) / 3)
