"""Dates as they are said, and as they are written: "march the fifth nineteen eighty seven".

The year is mostly said last and written first, a month is one word and two digits, "twenty" may
belong to a day or to a year, and some words mean nothing: to write a date, a model has to align the
two. Here the words that each digit comes from are known, because the sentences are made here.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


def _words(text: str) -> list[str]:
    return text.split()


UNITS = _words("one two three four five six seven eight nine")
TEENS = _words("ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen")
TENS = _words("twenty thirty forty fifty sixty seventy eighty ninety")
ORDINALS = _words(
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth "
    "fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth"
)
MONTHS = _words(
    "january february march april may june july august september october november december"
)
WEEKDAYS = _words("monday tuesday wednesday thursday friday saturday sunday")
OTHER = _words("thirtieth hundred thousand oh and in of on the year")
VOCABULARY = ["", *UNITS, *TEENS, *TENS, *ORDINALS, *MONTHS, *WEEKDAYS, *OTHER]  # "": padding
SYMBOLS = "0123456789-"
WRITTEN = len("1987-03-05")
YEAR, MONTH, DAY = (0, 1, 2, 3), (5, 6), (8, 9)  # the places of their digits

FIRST, LAST = datetime.date(1900, 1, 1), datetime.date(2099, 12, 31)
Integers = NDArray[np.int64]


class Word(NamedTuple):
    """A word of a sentence, and the places of the written date that come from it."""

    text: str
    places: tuple[int, ...] = ()


class Dates(NamedTuple):
    """Sentences and what is to be written."""

    source: Integers  # (dates, longest sentence): words, as numbers; 0 beyond the end
    lengths: Integers  # (dates,): words of each sentence
    target: Integers  # (dates, 10): symbols, as numbers
    home: NDArray[np.bool_]  # (dates, 10, longest sentence): whether a symbol comes from a word

    def part(self, of: slice | Integers) -> Dates:
        """Some of them."""
        return Dates(self.source[of], self.lengths[of], self.target[of], self.home[of])


def make_dates(seed: int, known: int, unseen: int) -> tuple[Dates, Dates]:
    """Draw days, all different, and say each of them once: those to learn from, and the others."""
    rng = np.random.default_rng(seed)
    numbers = rng.permutation((LAST - FIRST).days + 1)[: known + unseen]
    days = [FIRST + datetime.timedelta(int(number)) for number in numbers]
    dates = encode(days, [say(day, rng) for day in days])
    return dates.part(slice(known)), dates.part(slice(known, None))


def encode(days: Sequence[datetime.date], sentences: Sequence[Sequence[Word]]) -> Dates:
    """Words and symbols as numbers, in arrays that are as long as the longest sentence."""
    lengths = np.array([len(sentence) for sentence in sentences])
    source = np.zeros((len(days), lengths.max()), np.int64)
    home = np.zeros((len(days), WRITTEN, lengths.max()), np.bool_)
    number = {word: n for n, word in enumerate(VOCABULARY)}
    for row, sentence in enumerate(sentences):
        for column, word in enumerate(sentence):
            source[row, column] = number[word.text]
            home[row, list(word.places), column] = True
    target = np.array([[SYMBOLS.index(symbol) for symbol in day.isoformat()] for day in days])
    return Dates(source, lengths, target, home)


def words_of(sentence: Integers) -> list[str]:
    """The words of one row of `Dates.source`."""
    return [VOCABULARY[number] for number in sentence if number]


def text_of(symbols: Integers) -> str:
    """The text of one row of `Dates.target`."""
    return "".join(SYMBOLS[number] for number in symbols)


def say(date: datetime.date, rng: np.random.Generator) -> list[Word]:
    """A date in words: one of four forms, with words that may be left out."""

    def maybe(text: str) -> list[Word]:
        return plain(text) if rng.random() < 0.5 else []

    day, month, year = _day(date.day), [Word(MONTHS[date.month - 1], MONTH)], _year(date.year, rng)
    form = rng.integers(4)
    if form == 0:
        return [*month, *maybe("the"), *day, *year]
    if form == 1:
        return [
            *maybe("on"), *plain("the"), *day, *plain("of"), *month, *maybe("in the year"), *year
        ]  # fmt: skip
    if form == 2:
        weekday = plain(WEEKDAYS[date.weekday()])
        return [*weekday, *maybe("the"), *day, *maybe("of"), *month, *year]
    return [*plain("in"), *maybe("the year"), *year, *plain("on the"), *day, *plain("of"), *month]


def plain(text: str) -> list[Word]:
    """Words that say no digit."""
    return [Word(word) for word in _words(text)]


def _day(day: int) -> list[Word]:
    if day <= len(ORDINALS):
        return [Word(ORDINALS[day - 1], DAY)]
    if day == 30:
        return [Word("thirtieth", DAY)]
    tens, units = divmod(day, 10)
    return [Word(TENS[tens - 2], DAY[:1]), Word(ORDINALS[units - 1], DAY[1:])]


def _year(year: int, rng: np.random.Generator) -> list[Word]:
    century, rest = divmod(year, 100)
    if century == 20 and (rest < 10 or rng.random() < 0.5):
        zeros = 1 if rest >= 10 else 2 if rest else 3  # "two thousand [and] seven"
        link = plain("and") if rest and rng.random() < 0.5 else []
        head = [Word(UNITS[1], YEAR[:1]), Word("thousand", YEAR[1 : 1 + zeros])]
        return [*head, *link, *_number(rest, YEAR[1 + zeros :])]
    if rest == 0:
        return [*_number(century, YEAR[:2]), Word("hundred", YEAR[2:])]
    if rest < 10:
        return [*_number(century, YEAR[:2]), Word("oh", YEAR[2:3]), *_number(rest, YEAR[3:])]
    return [*_number(century, YEAR[:2]), *_number(rest, YEAR[2:])]


def _number(number: int, places: tuple[int, ...]) -> list[Word]:
    """A number below 100 whose digits stand at these places; nothing for 0."""
    if number == 0:
        return []
    if number < 10:
        return [Word(UNITS[number - 1], places)]
    if number < 20:
        return [Word(TEENS[number - 10], places)]
    tens, units = divmod(number, 10)
    if units == 0:
        return [Word(TENS[tens - 2], places)]
    return [Word(TENS[tens - 2], places[:1]), Word(UNITS[units - 1], places[1:])]
