"""The names that a function reads, from its bytecode."""

import pytest

from fastimae.foreign_models.bytecode import Unreadable, Use, uses


class Base:
    def method(self, x):
        return x


class Example(Base):
    def chains(self, x):
        return self.a.b[0] + self.c(x).d

    def calls_super(self, x):
        return super().method(x)

    def inner(self, x):
        return [part + self.a for part in x] + [(lambda: self.b)()]

    def from_globals(self, x):
        return pytest.approx(len(x))

    def loops(self, x):
        for block in self.blocks:
            x = block(x)
        return x

    def sets(self, x):
        self.a = x

    def adds(self, x):
        self.a += x

    def deletes(self, x):
        del self.a

    def sets_of_another(self, x):
        x.a = self.b

    def hands_on(self, x):
        return Base.method(self, x)

    def by_name(self, x):
        return getattr(self, "a")  # noqa: B009

    def renames(self, x):
        me = self
        return me.a

    def rebinds(self, x):
        self = x
        return self.a

    def imports(self, x):
        import math

        return math.sqrt(x)

    def sets_global(self, x):
        global LATER
        LATER = x

    def generates(self, x):
        yield self.a

    def nested(self, x):
        class Inner:
            a = x

        return Inner


def made(state):
    def method(self, x):
        return x * state["weight"]

    return method


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("chains", {("self", ("a", "b")), ("self", ("c",)), ("other", ("d",))}),
        ("calls_super", {("super", ("method",))}),
        ("from_globals", {("global", ("pytest", "approx")), ("global", ("len",))}),
        ("loops", {("self", ("blocks",))}),
    ],
)
def test_uses(name, expected):
    assert set(uses(vars(Example)[name], True)) == {Use(*one) for one in expected}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sets", "sets self.a"),
        ("adds", "self"),
        ("deletes", "sets self.a"),
        ("sets_of_another", "sets the attribute a"),
        ("hands_on", "passes self on"),
        ("by_name", "passes self on"),
        ("renames", "passes self on"),
        ("rebinds", "passes self on"),
        ("imports", "imports math"),
        ("sets_global", "sets the global LATER"),
        ("generates", "is a generator"),
        ("nested", "defines a class"),
    ],
)
def test_what_cannot_be_followed_is_refused(name, words):
    with pytest.raises(Unreadable, match=words):
        uses(vars(Example)[name], True)


def test_closures_and_functions_inside():
    with pytest.raises(Unreadable, match="closure over state"):
        uses(made({"weight": 0}), True)
    try:  # Pythons from 3.13 on may refuse it, which is safe
        found = set(uses(Example.inner, True))
    except Unreadable:
        return
    assert {Use("self", ("a",)), Use("self", ("b",))} <= found
