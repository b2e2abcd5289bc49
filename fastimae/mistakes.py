"""Mistakes on a command line that tyro has rejected: what is wrong, and what to type instead.

Nothing here decides whether a command line is valid, so no valid one is ever refused.
"""

from __future__ import annotations

import itertools
import re
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fastimae.config import TrainConfig
from fastimae.declarations import Flag, declared
from fastimae.flags import flags_of, spelled
from fastimae.other_names import suggestion
from fastimae.values import MANY, arity, choices, expected, read_value, takes_paths
from fastimae.wording import did_you_mean, squeezed

MOST = 3
"""Mistakes that one message lists."""
_FLAG = re.compile(r"-(?!\.?\d|$)")
"""The beginning of a flag; a negative number and a single - are values."""
_KINDS = {
    (".beton", ".ffcv"): ("ffcv", "val"),
    (".yaml", ".yml"): ("config",),
    (".pth", ".pt", ".ckpt", ".safetensors"): ("checkpoint", "resume", "init"),
    (".tar",): ("dali",),
}
"""Suffixes of files -> flags that may take them."""
_OF_ALL = {"help": "--help", "help_all": "--help-all", "version": "--version"}
"""Flags of every command."""
_EMPTY = "there is a space too many, or a variable of the shell is not set"
_OF_FOLDERS = ("data_path", "run", "val")


class Piece(NamedTuple):
    """A flag as typed, with the words after it that may be its values; or a word on its own."""

    word: str
    flag: Flag | None
    values: list[str]

    @property
    def loose(self) -> bool:
        """Whether it is a word on its own, not a flag."""
        return not _FLAG.match(self.word)


def mistakes(
    argv: Sequence[str], options: type, values: Any = None, recipes: Collection[str] = ()
) -> list[str]:
    """Return what is wrong with a command line, `MOST` mistakes at most; [] if nothing is found.

    values: an instance of `options` with the defaults, None for the declared ones. recipes: names
    that --recipe takes.
    """
    return list(itertools.islice(_Line(options, values, recipes).mistakes(argv), MOST))


def empty_path(argv: Sequence[str], options: type) -> str:
    """Return the error about a path that is given as "", which would be the current folder.

    Unlike `mistakes`, for command lines that tyro accepts; "" if there is no such path.
    """
    pieces = _Line(options, None, ()).pieces(argv)
    empty = [p.word for p in pieces if p.flag and "" in p.values and takes_paths(p.flag.hint)]
    return f"the value of {empty[0]} is empty: {_EMPTY}" if empty else ""


class _Line:
    """The flags of a command, to compare a command line with."""

    def __init__(self, options: type, values: Any, recipes: Collection[str]) -> None:
        self.flags = {flag.name: flag for flag in declared(options, values)}
        self.meaning = flags_of(options)
        self.recipes = recipes
        self.positional = [flag for flag in self.flags.values() if flag.positional]
        self.written = _OF_ALL | {
            name: flag.spelled() if flag.positional else f"--{name}"
            for name, flag in self.flags.items()
        }

    def mistakes(self, argv: Sequence[str]) -> Iterator[str]:
        """Yield the mistakes, in the order of the words; what is missing only if there are none."""
        pieces = list(self.pieces(argv))
        room = sum(arity(flag.hint) for flag in self.positional)
        found, loose = False, 0
        for before, piece in itertools.pairwise([None, *pieces]):
            loose += piece.loose
            if piece.loose and _is_switched(before, piece.word):
                problem = _no_switch(before, piece.word)
            elif piece.loose:
                problem = self.stray(piece.word, before) if loose == room + 1 else ""
                if room >= MANY and loose > 1 and not before.loose:
                    problem = f"{piece.word} is apart from the others: give them in a row"
            else:
                problem = self.wrong_value(piece) if piece.flag else self.unknown(piece.word)
            if problem:
                found = True
                yield problem
        if room < MANY and "--" in argv:
            yield "flags after -- are not read: drop the --"
        elif not found:
            yield from self.missing(pieces, loose)

    def pieces(self, argv: Sequence[str]) -> Iterator[Piece]:
        """Yield the pieces of a command line, up to a --."""
        words = deque(itertools.takewhile(lambda word: word != "--", argv))
        while words:
            word, equals, value = words.popleft().partition("=")
            if not _FLAG.match(word):
                yield Piece(word + equals + value, None, [])
                continue
            flag = self.flags.get(self.meaning.get(spelled(word), ""))
            flag = None if flag and flag.positional else flag
            given, most = [value] if equals else [], arity(flag.hint) if flag else MANY
            while not value and words and len(given) < most and not _FLAG.match(words[0]):
                given.append(words.popleft())
            yield Piece(word, flag, given)

    def unknown(self, word: str) -> str:
        """Return the error about an unknown flag, with what to use instead."""
        name = spelled(word).lstrip("-")
        switch = self.flags.get(name.removeprefix("no_"))
        if switch and name.startswith("no_"):
            return f"{word}: --{switch.name} is no switch, it takes {expected(switch.hint)}"
        positional = {flag.name for flag in self.positional}
        hint = suggestion(name, self.written, positional, near=False)
        if not hint and spelled(word) in flags_of(TrainConfig):
            hint = "it belongs to fastimae-train"
        hint = hint or suggestion(name, self.written, positional)
        return f"there is no flag {word}" + (f": {hint}" if hint else "")

    def wrong_value(self, piece: Piece) -> str:
        """Return the error about a flag's values, "" if they fit."""
        hint = piece.flag.hint
        if not arity(hint):
            return _no_switch(piece, piece.values[0]) if piece.values else ""
        if not piece.values:
            what = piece.flag.text.rstrip(".") if _is_text(hint) else f"it takes {expected(hint)}"
            return f"{piece.word} needs a value: {what}"
        if not piece.values[0]:
            return f"the value of {piece.word} is empty: {_EMPTY}"
        try:
            read_value(hint, piece.values)
        except ValueError:
            given = " ".join(piece.values)
            near = did_you_mean(given, choices(hint))
            return f"{piece.word} takes {expected(hint)}, not {given}{near}"
        return ""

    def stray(self, word: str, before: Piece | None) -> str:
        """Return the error about a word that is neither a flag nor the value of one.

        before: the piece in front of it.
        """
        if not word:
            return f"one of the words is empty: {_EMPTY}"
        flag = before.flag if before else None
        together = " ".join([*before.values, word]) if before else word
        if flag and before.values and Path(together).exists():
            return f"put quotes around a path with spaces: {before.word} '{together}'"
        if better := self.with_flag(word):
            return f"{word} {better}"
        if flag and arity(flag.hint):
            quoted = f": put quotes around {together} if that is one" if _is_text(flag.hint) else ""
            return f"{before.word} takes {expected(flag.hint)}, not {together}{quoted}"
        return f"unexpected {word}: put its flag in front of it, or drop it"

    def with_flag(self, word: str) -> str:
        """Return what a stray word may be, and how to write it; "" if that is unclear."""
        name, equals, value = word.partition("=")
        for known in self.flags:
            if squeezed(re.sub(r"^\W+", "", name)) == known.replace("_", ""):
                return f"is no flag: did you mean --{known}{equals}{value}?"
        fitting = ["recipe"] if word in self.recipes else self.takers(word)
        use = [f"--{name} {word}" for name in fitting if name in self.flags]
        return f"is given without a flag: use {' or '.join(use)}" if use else ""

    def takers(self, word: str) -> Sequence[str]:
        """Return the names of flags that such a word may be meant for."""
        path = Path(word)
        if path.is_dir():
            return _OF_FOLDERS
        for suffixes, names in _KINDS.items():
            if path.suffix.lower() in suffixes:
                return names
        if re.match(r"(t?mae_)?vit_\w+$", word):
            return ["model"]
        fitting = [name for name, flag in self.flags.items() if word in flag.choices]
        return fitting if len(fitting) == 1 else ()

    def missing(self, pieces: Sequence[Piece], loose: int) -> Iterator[str]:
        """Yield an error about the flags and words that are required and not given."""
        given = {piece.flag.name for piece in pieces if piece.flag}
        given |= {flag.name for flag in self.positional[:loose]}
        lacking = [f for f in self.flags.values() if f.required and f.name not in given]
        *others, last = [flag.spelled(aliases=False) for flag in lacking] or [""]
        if others:
            yield f"{', '.join(others)} and {last} are missing"
        elif lacking:
            yield f"{last} is missing: {lacking[0].text.rstrip('.')}"


def _is_text(hint: Any) -> bool:
    """Return whether a flag takes a single text or path, which may hold spaces."""
    return expected(hint) in (expected(Path), expected(str))


def _is_switched(before: Piece | None, word: str) -> bool:
    """Return whether a word is meant as the value of the switch in front of it."""
    switch = before is not None and before.flag is not None and not arity(before.flag.hint)
    return switch and word.lower() in ("true", "false", "yes", "no", "on", "off", "0", "1")


def _no_switch(piece: Piece, value: str) -> str:
    """Return the error about a value after a switch."""
    off = value.lower() in ("false", "no", "off", "0")
    what = f"use --no_{piece.flag.name} to switch it off" if off else f"drop {value}"
    return f"{piece.word} is a switch and takes no value: {what}"
