"""Answers in any script: a gold answer, labelled and decoded, is what it was.

Tokenizers of the Hub's three forms are trained on the text itself, so that the test measures labels
and decoding and not the words that a vocabulary lacks.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from bert_qa.metrics import exact_match_and_f1
from bert_qa.spans import Answer
from bert_qa.squad import Example, Span, read_questions
from bert_qa.windows import Tokenizer, make_windows
from bert_qa.words import find_units
from tests.conftest import SHARED

SPECIAL = ["[CLS]", "[SEP]", "[PAD]", "[UNK]"]
SIZES: dict[str, Any] = {"max_length": 384, "doc_stride": 128, "max_question_length": 64}


def wordpiece() -> tokenizers.Tokenizer:
    """As BERT's multilingual one: accents are kept, ideographs are words."""
    made = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=False)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return made


def byte_level_bpe() -> tokenizers.Tokenizer:
    """As RoBERTa's: a token may be a part of a character."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return made


def sentencepiece() -> tokenizers.Tokenizer:
    """As XLM-R's: a sentence without spaces is one word, and tokens cross punctuation."""
    made = tokenizers.Tokenizer(models.Unigram())
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    return made


def metaspace() -> tokenizers.Tokenizer:
    """As DeBERTa-v3's, converted: a token holds the space before it."""
    made = sentencepiece()
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    return made


FORMS = {
    "WordPiece": (wordpiece, trainers.WordPieceTrainer),
    "byte-level BPE": (byte_level_bpe, trainers.BpeTrainer),
    "SentencePiece": (sentencepiece, trainers.UnigramTrainer),
    "Metaspace alone": (metaspace, trainers.UnigramTrainer),
}


def trained(form: str, texts: Sequence[str], size: int) -> Tokenizer:
    make, trainer = FORMS[form]
    backend = make()
    options = {"unk_token": "[UNK]"} if trainer is trainers.UnigramTrainer else {}
    if form == "byte-level BPE":
        options["initial_alphabet"] = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        texts, trainer(vocab_size=size, special_tokens=SPECIAL, show_progress=False, **options)
    )
    ids = [(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ids
    )
    return Tokenizer(backend, 512, backend.token_to_id("[PAD]"), True)


def by_character(form: str, context: str) -> Tokenizer:
    """A tokenizer of a token a character or less: every answer's ends can be told."""
    # WordPiece has each character twice, at the start of a word and inside.
    return trained(form, [context], 1) if form == "WordPiece" else trained(form, [*context], 400)


def decoded(
    examples: Sequence[Example], tokenizer: Tokenizer, *, align_to_words: bool = True
) -> list[Answer]:
    """The answers that a model would give which says exactly what its labels say."""
    answers: dict[int, Answer] = {}
    windows = make_windows(examples, tokenizer, **SIZES, align_to_words=align_to_words)
    for window in windows:
        context = examples[window.example].context
        first, last = window.locate(examples[window.example].answers[0])
        if last and window.example not in answers:
            start, end = int(window.starts[first]), int(window.ends[last])
            answers[window.example] = Answer(context[start:end], 1.0, start, end)
    return [answers[i] for i in range(len(examples))]


def asked(context: str, *golds: str) -> list[Example]:
    return [Example(gold, "?", context, (Span(gold, context.index(gold)),)) for gold in golds]


SCRIPTS = {
    "Chinese": asked(
        "北京是中华人民共和国的首都,2010年人口为1961万人。", "北京", "2010年", "1961万"
    ),
    "Japanese": asked("富士山は日本一高い山で、標高は3776メートルです。", "富士山", "3776メートル"),
    "Thai": asked("กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย", "กรุงเทพมหานคร", "ประเทศไทย"),
    "Khmer": asked("ភ្នំពេញជារាជធានីនៃប្រទេសកម្ពុជា", "ភ្នំពេញ", "ប្រទេសកម្ពុជា"),
    "Korean": asked(
        "서울은 대한민국의 수도이며 1394년부터 수도였다.", "서울", "대한민국", "1394년"
    ),
    "Arabic": asked("القاهرة هي عاصمة مصر، ويسكنها 10 ملايين.", "القاهرة", "مصر", "10 ملايين"),
    "Hindi": asked("दिल्ली भारत की राजधानी है, जो यमुना के तट पर है।", "दिल्ली", "यमुना", "भारत"),
    "Russian": asked("Москва (город) — столица России, 12,6 млн.", "Москва", "России", "12,6 млн"),
    "Greek": asked("Η Αθήνα είναι η πρωτεύουσα της Ελλάδας· 3,7 εκ.", "Αθήνα", "Ελλάδας"),
    "English": asked("Paris (France) has 2.1 million; “Lutetia”.", "Paris", "France", "Lutetia"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_gold_answer_is_decoded_to_the_letter(script: str, form: str) -> None:
    examples = SCRIPTS[script]
    tokenizer = by_character(form, examples[0].context)
    found = [answer.text for answer in decoded(examples, tokenizer)]
    assert found == [example.answers[0].text for example in examples]


@pytest.mark.parametrize("align_to_words", [True, False])
@pytest.mark.parametrize(
    "gold", ["“Ada", "London.”", "“Ada was in London.”", " was", "was ", "Ada"]
)
def test_a_gold_at_the_edge_of_a_context_is_inside(gold: str, align_to_words: bool) -> None:
    """With its punctuation and white space, though tokens that hold them are trimmed of them."""
    context = "“Ada was in London.”"
    made = sentencepiece()
    words = [(f"▁{word}", -1.0) for word in context.split()]
    made.model = models.Unigram([(token, 0.0) for token in SPECIAL] + words, unk_id=3)
    ids = [(token, made.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ids
    )
    tokenizer = Tokenizer(made, 512, 2, True)
    (example,) = asked(context, gold)
    (window,) = make_windows([example], tokenizer, **SIZES, align_to_words=align_to_words)
    first, last = window.locate(example.answers[0])
    words_of = [made.id_to_token(token).strip("▁") for token in window.input_ids[first : last + 1]]
    assert " ".join(words_of).strip("“.”") == gold.strip(" “.”")


@pytest.mark.parametrize("form", FORMS)
def test_words_are_whole_where_writing_separates_them(form: str) -> None:
    context = "Unbelievableness, in Llanfairpwllgwyngyll."
    tokenizer = by_character(form, context)
    window = make_windows([Example("", "?", context)], tokenizer, **SIZES)[0]
    ends = {context[s:e] for s, e in zip(window.starts, window.ends, strict=True) if s >= 0}
    whole = {"Unbelievableness", ",", "in", "Llanfairpwllgwyngyll", "."}
    # A Unigram of single characters may still join what stands between words.
    assert {text.strip(string.punctuation + " ") for text in ends} - {""} == whole - {",", "."}
    alone = make_windows([Example("", "?", context)], tokenizer, **SIZES, align_to_words=False)[0]
    parts = {context[s:e] for s, e in zip(alone.starts, alone.ends, strict=True) if s >= 0}
    assert "Llanfairpwllgwyngyll" not in parts


@pytest.mark.parametrize("form", FORMS)
def test_no_answer_begins_or_ends_with_white_space(form: str) -> None:
    context = "  北京 \u3000 is\tthe  capital\u00a0of  中国 \n"
    tokenizer = trained(form, [context, *context], 60)
    for align in (True, False):
        window = make_windows(
            [Example("", "?", context)], tokenizer, **SIZES, align_to_words=align
        )[0]
        inside = window.starts >= 0
        for start in window.starts[inside]:
            for end in window.ends[inside]:
                text = context[start:end]
                assert text == text.strip()


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("don't stop", ["don", "'", "t", "stop"]),
        ("€50 at 20°C", ["€50", "at", "20°C"]),
        ("iPhone手機2010年", ["iPhone", "手", "機", "2010", "年"]),
        ("e\u0301te\u0301 ni\u0303o", ["e\u0301te\u0301", "ni\u0303o"]),
        ("می\u200cخواهم", ["می\u200cخواهم"]),  # a non-joiner inside a word
        ("\u200bso\u200b \u200b", ["so"]),
        ("กำลัง", ["กำ", "ลั", "ง"]),  # a vowel and a tone mark stay with their letter
        ("ラーメン々", ["ラ", "ー", "メ", "ン", "々"]),
        ("", []),
        (" \t\r\n\u3000", []),
    ],
)
def test_units(text: str, units: list[str]) -> None:
    found = find_units(text)
    assert [text[s:e] for s, e in zip(found.starts, found.ends, strict=True)] == units
    alone = find_units(text, words=False)
    assert "".join(text[s:e] for s, e in zip(alone.starts, alone.ends, strict=True)) == "".join(
        character for character in text if not character.isspace() and character != "\u200b"
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("name", "wanted"),
    [("xquad/xquad.zh.json", 97.5), ("xquad/xquad.es.json", 99.0), ("squad/dev.json", 99.0)],
)
def test_labels_can_be_decoded(form: str, name: str, wanted: float) -> None:
    """docs/results.md has the table: `pytest -s -k labels_can_be_decoded`."""
    file: Path = SHARED / name
    if not file.is_file():
        pytest.skip(f"no {name} beside this checkout")
    examples = read_questions(file)
    texts = sorted({example.context for example in examples})
    # Larger vocabularies learn so little text by heart: XLM-R has about 1.5 characters a token of
    # Chinese, as here; with 8,000 tokens there would be two.
    tokenizer = trained(form, texts, 3000)
    row = f"{name}, {form}:"
    for align_to_words in (False, True):
        answers = decoded(examples, tokenizer, align_to_words=align_to_words)
        score = exact_match_and_f1(examples, answers).exact_match
        same = sum(a.text == e.answers[0].text for a, e in zip(answers, examples, strict=True))
        by = "words" if align_to_words else "tokens"
        row += f" by {by} {score:.1f} (the same text {100 * same / len(examples):.1f})"
    print(row)
    assert score >= wanted
