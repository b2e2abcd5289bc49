"""Whenever tyro parses, it derives a parser from a class; in tests, once for equal defaults.

That is most of the 70 ms that a command takes to parse, and tests parse thousands of lines.
"""

from tyro._parsers import ParserSpecification

derive = ParserSpecification.from_callable_or_type
kept = {}


def derive_once(f, **settings):
    key = f, str((f, settings))  # types may be equal and list their choices in another order
    if settings["intern_prefix"] or " at 0x" in key[1]:  # part of another, or no full description
        return derive(f, **settings)
    if key not in kept:
        kept[key] = derive(f, **settings)
    return kept[key]


def install():
    """Make tyro use it in this process."""
    ParserSpecification.from_callable_or_type = staticmethod(derive_once)
