"""Matches names against many shell patterns at once, in time that grows only with the lengths of name and patterns.

Nothing is compiled for a pattern as a whole: a regular expression of 10,000 globs took 5 s to compile.
"""

import re
from collections.abc import Iterator, Sequence
from fnmatch import translate

from streamd.core.errors import InvalidSelectionError

MAX_PATTERNS = 1_000
"""Entries with wildcards in one set."""

MAX_PATTERN_CHARACTERS = 8_192
"""Characters of all patterns together: the time of a match grows with them, to 0.2 ms for a name of 256 characters."""

MAX_CHARACTER_CLASSES = 50
"""Different `[...]` in one set: each is a regular expression, which takes 0.6 ms to compile."""

MAX_REMEMBERED_CHARACTERS = 128
"""Characters whose atoms are remembered; a set of the largest size takes 1 kB for each."""

MAX_CHEAP_PATTERNS = 16

_WILDCARD = re.compile(r"[*?\[]")
_ANY = "?"


def has_wildcard(glob: str) -> bool:
    """Whether a glob can match anything but its own text."""
    return _WILDCARD.search(glob) is not None


class GlobSet:
    """A set of patterns with the meaning of `fnmatch.fnmatchcase`: `*`, `?`, `[seq]`, `[!seq]`.

    Patterns of the forms `text*` and `*text` are compared as text. All others together are one automaton, whose states
    are the bits of an integer. A pattern of `m` atoms (a character, `?` or a class) has `m + 1` states: state `k` is
    active if the name up to here matches its first `k` atoms. A character of the name moves each state on to the next
    one if it matches the atom between them. A state with a `*` behind its atoms also stays.

    Raises `InvalidSelectionError` for more patterns than can be matched quickly.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        patterns = list(dict.fromkeys(patterns))
        _check_size(patterns)
        self._prefixes = tuple(each[:-1] for each in patterns if _is_prefix(each))
        self._suffixes = tuple(each[1:] for each in patterns if _is_suffix(each))
        self._literals: dict[str, int] = {}  # the states after this character
        self._any = 0  # the states after `?`
        self._classes: dict[str, int] = {}  # the states after this class
        self._start = self._stay = self._final = 0
        self._remembered: dict[str, int] = {}
        self._add_patterns([each for each in patterns if not (_is_prefix(each) or _is_suffix(each))])
        self._compiled = [(re.compile(translate(text)), states) for text, states in self._classes.items()]
        self.is_costly = bool(self._final) or len(patterns) > MAX_CHEAP_PATTERNS
        """Whether a match takes longer than the comparison with a few texts."""

    def _add_patterns(self, patterns: Sequence[str]) -> None:
        state = 0
        for pattern in patterns:
            self._start |= 1 << state
            for atom in split_atoms(pattern):
                if atom == "*":
                    self._stay |= 1 << state
                    continue
                state += 1
                if atom == _ANY:
                    self._any |= 1 << state
                elif len(atom) > 1:
                    self._classes[atom] = self._classes.get(atom, 0) | 1 << state
                else:
                    self._literals[atom] = self._literals.get(atom, 0) | 1 << state
            self._final |= 1 << state
            state += 1
        if len(self._classes) > MAX_CHARACTER_CLASSES:
            raise InvalidSelectionError(
                f"servers has {len(self._classes)} different [...], expected at most {MAX_CHARACTER_CLASSES}"
            )

    def matches(self, name: str) -> bool:
        """Whether one of the patterns matches the whole name."""
        if name.startswith(self._prefixes) or name.endswith(self._suffixes):
            return True
        states, stay, remembered = self._start, self._stay, self._remembered
        for character in name:
            if not states:
                return False
            reached = remembered.get(character)
            if reached is None:
                reached = self._find_states_after(character)
            states = (states << 1) & reached | states & stay
        return states & self._final != 0

    def _find_states_after(self, character: str) -> int:
        """Return the states whose last atom matches a character."""
        states = self._any | self._literals.get(character, 0)
        for pattern, after in self._compiled:
            if pattern.match(character):
                states |= after
        if len(self._remembered) < MAX_REMEMBERED_CHARACTERS:
            self._remembered[character] = states
        return states


def split_atoms(pattern: str) -> Iterator[str]:
    """Yield the parts of a pattern: `*`, `?`, a class `[...]`, or one character.

    A `[` that no `]` closes is a character. A `]` right behind the opening `[` or `[!` does not close it.
    """
    place = 0
    while place < len(pattern):
        end = place + 1
        if pattern[place] == "[":
            first = place + 2 if pattern[place + 1 : place + 2] == "!" else place + 1
            closing = pattern.find("]", first + 1)
            # A class has a character between its brackets, so an atom of one character is never a class.
            end = closing + 1 if closing > 0 else end
        yield pattern[place:end]
        place = end


def _is_prefix(pattern: str) -> bool:
    return pattern.endswith("*") and not has_wildcard(pattern[:-1])


def _is_suffix(pattern: str) -> bool:
    return pattern.startswith("*") and not has_wildcard(pattern[1:])


def _check_size(patterns: Sequence[str]) -> None:
    if len(patterns) > MAX_PATTERNS:
        raise InvalidSelectionError(
            f"servers has {len(patterns)} globs with wildcards, expected at most {MAX_PATTERNS}; names are not limited"
        )
    characters = sum(map(len, patterns))
    if characters > MAX_PATTERN_CHARACTERS:
        raise InvalidSelectionError(
            f"servers has globs with wildcards of {characters} characters, expected at most {MAX_PATTERN_CHARACTERS}"
        )
