"""Laws given a language: which token sequences may be written, and what a model's law becomes when it must write one.

``exact`` is the model's law given that the text lies in the language; ``mask`` drops tokens that lead out of it and
renormalises at each step, which is another law; ``lookahead:k`` lies between.
"""

from reader_theory.grammar.automaton import Automaton
from reader_theory.grammar.dyck import Dyck
from reader_theory.grammar.future import (
    GREEDY,
    LOGARITHMIC,
    Arithmetic,
    Moves,
    future_validity,
    string_law,
)
from reader_theory.grammar.language import Language, NotALanguageError
from reader_theory.grammar.prefixes import Prefixes, TooManyPrefixesError, prefixes_of
from reader_theory.grammar.trie import Trie
from reader_theory.grammar.validity import Validity

__all__ = [
    "GREEDY",
    "LOGARITHMIC",
    "Arithmetic",
    "Automaton",
    "Dyck",
    "Language",
    "Moves",
    "NotALanguageError",
    "Prefixes",
    "TooManyPrefixesError",
    "Trie",
    "Validity",
    "future_validity",
    "prefixes_of",
    "string_law",
]
