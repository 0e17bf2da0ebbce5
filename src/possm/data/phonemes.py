"""The phonemes of American English (ARPAbet, as in the CMU Pronouncing Dictionary, without stress)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from possm.errors import RecordingError

_SYMBOLS = """
AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K
L M N NG OW OY P R S SH T TH UH UW V W Y Z ZH
"""
_VOWEL_SYMBOLS = "AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW"

PHONEMES = tuple(_SYMBOLS.split())
"""All 39, in the order of Willett et al. 2023."""

SILENCE = "SIL"
"""Stands after every word."""

VOWELS = frozenset(_VOWEL_SYMBOLS.split())


def join_phonemes(phonemes: Iterable[str]) -> str:
    """A sequence as a column of trials holds it: "HH AY SIL"."""
    return " ".join(phonemes)


def split_phonemes(text: str, *, about: object = None) -> tuple[str, ...]:
    """The sequence that `join_phonemes` wrote.

    Raises:
        RecordingError: A symbol is not one of `PHONEMES` or `SILENCE`.
    """
    phonemes = tuple(text.split())
    unknown = sorted(set(phonemes) - {*PHONEMES, SILENCE})
    if unknown:
        raise RecordingError(
            "unknown phonemes",
            about=about,
            got=", ".join(unknown[:5]),
            wanted=f"ARPAbet without stress ({PHONEMES[0]} ... {PHONEMES[-1]}) and {SILENCE}",
        )
    return phonemes


def of_words(words: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """The phonemes of words, with a silence after each: the transcript of a sentence."""
    return tuple(symbol for word in words for symbol in (*word, SILENCE))


_SPOKEN = """
the DH AH|a AH|and AH N D|of AH V|to T UW|in IH N|is IH Z|you Y UW|that DH AE T|it IH T|he HH IY
was W AH Z|for F AO R|on AA N|are AA R|with W IH DH|as AE Z|I AY|his HH IH Z|they DH EY|be B IY|at AE T
one W AH N|have HH AE V|this DH IH S|from F R AH M|or AO R|had HH AE D|by B AY|hot HH AA T|but B AH T
some S AH M|what W AH T|there DH EH R|we W IY|can K AE N|out AW T|other AH DH ER|were W ER|all AO L
your Y AO R|when W EH N|up AH P|use Y UW Z|word W ER D|how HH AW|said S EH D|an AE N|each IY CH
she SH IY|which W IH CH|do D UW|their DH EH R|time T AY M|if IH F|will W IH L|way W EY|about AH B AW T
many M EH N IY|then DH EH N|them DH EH M|would W UH D|write R AY T|like L AY K|so S OW|these DH IY Z
her HH ER|long L AO NG|make M EY K|thing TH IH NG|see S IY|him HH IH M|two T UW|has HH AE Z|look L UH K
more M AO R|day D EY|could K UH D|go G OW|come K AH M|did D IH D|my M AY|sound S AW N D|no N OW
most M OW S T|number N AH M B ER|who HH UW|over OW V ER|know N OW|water W AO T ER|than DH AE N
call K AO L|first F ER S T|people P IY P AH L|may M EY|down D AW N|side S AY D|been B IH N|now N AW
find F AY N D|any EH N IY|new N UW|work W ER K|part P AA R T|take T EY K|get G EH T|place P L EY S
made M EY D|live L IH V|where W EH R|after AE F T ER|back B AE K|little L IH T AH L|only OW N L IY
round R AW N D|man M AE N|year Y IH R|came K EY M|show SH OW|every EH V ER IY|good G UH D|me M IY
give G IH V|our AW ER|under AH N D ER|name N EY M|very V EH R IY|through TH R UW|just JH AH S T
form F AO R M|great G R EY T|think TH IH NG K|say S EY|help HH EH L P|low L OW|line L AY N|turn T ER N
cause K AA Z|much M AH CH|mean M IY N|before B IH F AO R|move M UW V|right R AY T|boy B OY|old OW L D
too T UW|same S EY M|tell T EH L|does D AH Z|set S EH T|three TH R IY|want W AA N T|air EH R|well W EH L
also AO L S OW|play P L EY|small S M AO L|end EH N D|put P UH T|home HH OW M|read R IY D|hand HH AE N D
port P AO R T|large L AA R JH|add AE D|land L AE N D|here HH IY R|must M AH S T|big B IH G|high HH AY
such S AH CH|follow F AA L OW|act AE K T|why W AY|ask AE S K|change CH EY N JH|went W EH N T
light L AY T|kind K AY N D|off AO F|need N IY D|house HH AW S|picture P IH K CH ER|try T R AY
again AH G EH N|animal AE N AH M AH L|point P OY N T|mother M AH DH ER|world W ER L D|near N IH R
self S EH L F|earth ER TH|father F AA DH ER|vision V IH ZH AH N|measure M EH ZH ER|pleasure P L EH ZH ER
voice V OY S|noise N OY Z|join JH OY N|usual Y UW ZH AH W AH L|book B UH K|should SH UH D|judge JH AH JH
church CH ER CH|young Y AH NG|king K IH NG|fish F IH SH|five F AY V|shoes SH UW Z|zoo Z UW|both B OW TH
bath B AE TH
"""

COMMON_WORDS: dict[str, tuple[str, ...]] = {
    entry.split()[0]: tuple(entry.split()[1:]) for entry in _SPOKEN.replace("\n", "|").split("|") if entry
}
"""Two hundred common words with their phonemes, together all 39: what simulated sentences are made of."""
