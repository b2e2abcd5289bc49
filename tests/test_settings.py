"""Settings: ranges beside declarations, rules in one wording, and no default written twice."""

import ast
import dataclasses
import importlib
import re
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Literal

import pytest

from fastimae import settings
from fastimae.settings import (
    ConfigError,
    Count,
    Free,
    Idle,
    PositiveFloat,
    PositiveInt,
    Range,
    Settings,
    Share,
    check_idle,
    free_settings,
    without_idle,
)

ROOT = Path(__file__).resolve().parent.parent
FILES = [path for folder in ("fastimae", "loaders") for path in (ROOT / folder).rglob("*.py")]

OTHER_MEANING = {
    "world_size": "of a loader: how many processes share an epoch, not what the launcher must say",
    "precision": "of a teacher: auto is that of the step",
}
"""Arguments and fields that share a setting's name and default only by chance."""


@dataclasses.dataclass(kw_only=True)
class Basic(Settings):
    """A part's settings."""

    count: PositiveInt = 3
    sides: tuple[PositiveInt, ...] = (224,)
    share: Share | None = None
    kind: Literal["a", "b"] = "a"
    even: Annotated[int, Range(lambda value: value % 2 == 0, "must be even, not {}")] = 0

    def idle(self):
        yield from super().idle()
        yield Idle(self.kind == "b", ("share", "even"), "with --kind b")


@dataclasses.dataclass(kw_only=True)
class More(Basic):
    """The settings of a part that has those, too."""

    rate: PositiveFloat = 0.1
    workers: Count = 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"count": 0}, "--count must be positive, not 0"),
        ({"sides": (8, 0)}, "--sides must be positive, not 0"),
        ({"sides": ()}, "--sides needs a value"),
        ({"share": 1.5}, r"--share must be in 0\.\.1, not 1\.5"),
        ({"kind": "c"}, "--kind c is not one of a, b"),
        ({"even": 3}, "--even must be even, not 3"),
        ({"rate": 0.0}, r"--rate must be positive, not 0\.0"),
        ({"workers": -1}, "--workers must not be negative: -1"),
    ],
    ids=str,
)
def test_a_value_out_of_its_range_is_named(given, said):
    with pytest.raises(ConfigError, match=f"^{said}$"):
        More(**given).check()


def test_what_lies_in_its_range_is_not():
    More().check()
    More(count=1, sides=(1, 9), share=0.0, kind="b", even=2, rate=1e-9, workers=5).check()


def test_a_part_says_its_errors_in_its_own_kind():
    class Mine(ConfigError):
        pass

    class Part(Basic):
        error = Mine

    with pytest.raises(Mine, match="--count"):
        Part(count=0).check()


def test_settings_without_effect_are_a_mistake_and_defaults_are_not():
    check_idle(More(kind="b"))
    check_idle(More(share=0.5))
    with pytest.raises(
        ConfigError, match=r"^--share has no effect with --kind b: drop one of them$"
    ):
        check_idle(More(kind="b", share=0.5))


def test_all_that_have_no_effect_are_named_at_once():
    @dataclasses.dataclass(kw_only=True)
    class Several(More):
        rate: float = 0.3
        size: int = 1

        def idle(self):
            yield Idle(True, ("share", "rate", "size"), "with --kind b")

    with pytest.raises(ConfigError) as caught:
        check_idle(Several(share=0.5, size=2), places={"size": "x.yaml"})
    said = "--share and --size (x.yaml) have no effect with --kind b: drop them"
    assert str(caught.value) == said


def test_what_a_recipe_sets_without_effect_is_dropped_and_nothing_else():
    given = More(kind="b", share=0.5, rate=0.25)
    assert without_idle(given, {"share", "rate"}) == More(kind="b", rate=0.25)
    assert without_idle(given, {"rate"}) == given
    assert without_idle(More(share=0.5), {"share"}) == More(share=0.5)


def test_a_default_that_is_made_anew_is_one():
    @dataclasses.dataclass(kw_only=True)
    class Listed(Settings):
        sides: list[int] = dataclasses.field(default_factory=lambda: [1])

        def idle(self):
            yield Idle(True, ("sides",), "ever")

    check_idle(Listed())
    with pytest.raises(ConfigError, match="--sides has no effect ever"):
        check_idle(Listed(sides=[2]))


def test_parts_are_gathered_by_name():
    @dataclasses.dataclass(kw_only=True)
    class Other(Settings):
        rate: float = 0.3
        workers: int = 2
        unknown: int = 1

    gathered = More.gather(Basic(count=7), Other())
    assert gathered == More(count=7, rate=0.3, workers=2)


def test_a_function_is_given_what_it_names():
    def takes(first, *, rate=0.5, kind="b", other=9):
        return first, rate, kind, other

    assert takes(1, **More(rate=0.3).taken_by(takes)) == (1, 0.3, "a", 9)


def of_settings() -> set[tuple]:
    """Return (name, default) of all settings of all parts."""
    for path in FILES:
        place = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
        if re.search(r"^class \w*(Settings|Options|Config|Arguments)\b", path.read_text(), re.M):
            importlib.import_module(place if place.startswith("fastimae") else f"fastimae.{place}")
    found, todo = set(), [Settings]
    while todo:
        todo += (cls := todo.pop()).__subclasses__()
        if cls.__module__.startswith("fastimae"):
            found |= {(field.name, comparable(field.default)) for field in dataclasses.fields(cls)}
    return found


def comparable(value):
    """Return a value to compare: equal as int and float, but a bool is no number."""
    if isinstance(value, tuple):
        return tuple(map(comparable, value))
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number else str(value)


def defaults(tree):
    """Return (name, default, class or function) for each default in a file, including `.get("name",
    default)` of settings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            fields = [s for s in node.body if isinstance(s, ast.AnnAssign) and s.value]
            yield from ((ast.unparse(field.target), field.value, node.name) for field in fields)
        elif isinstance(node, ast.FunctionDef):
            given = node.args
            last = [*given.posonlyargs, *given.args][::-1]
            pairs = [*zip(last, given.defaults[::-1], strict=False),
                     *zip(given.kwonlyargs, given.kw_defaults, strict=True)]  # fmt: skip
            yield from ((argument.arg, value, node.name) for argument, value in pairs if value)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("settings.get", "args.get"):
            name, *default = node.args
            yield from ((ast.unparse(name).strip("'"), value, "get") for value in default)


def written_out(node):
    """Return the value of a literal default such as 40, 8 << 20 or (3 / 4, 4 / 3). Raises
    ValueError for one that refers to another."""
    if any(isinstance(part, ast.Name | ast.Call) for part in ast.walk(node)):
        raise ValueError
    return eval(compile(ast.Expression(node), "default", "eval"))


def says_nothing(value) -> bool:
    """Return whether a default means "not given"."""
    return value is None or value is False or value in ("", ())


def of_ours(text, settings):
    """Return (name, default, owner) for a file's defaults that equal a setting's."""
    for name, node, owner in defaults(ast.parse(text)):
        try:
            value = written_out(node)
        except ValueError:
            continue
        key = name, comparable(value)
        if key in settings and name not in OTHER_MEANING and not says_nothing(value):
            yield *key, owner


@pytest.mark.parametrize(
    "text",
    [
        "def f(*, warmup_epochs=40.0): ...",
        "def f(hflip=True): ...",
        "class A:\n    crop_ratio: tuple = (3 / 4, 4 / 3)",
        "class A:\n    page_size: int = 8 << 20",
        "def f(temperature: float = 0.07): ...",
        "ratio = settings.get('mask_ratio', 0.75)",
    ],
)
def test_a_default_is_seen_however_it_is_written(text):
    assert list(of_ours(text, of_settings()))


def test_no_default_of_a_setting_is_written_a_second_time():
    """A default is in one file; others that have the setting refer to it."""
    written, settings = defaultdict(list), of_settings()
    for path in FILES:
        for name, value, owner in of_ours(path.read_text(), settings):
            written[name, value].append(f"{path.relative_to(ROOT)}: {owner}")
    assert len(written) > 50
    assert {key: places for key, places in written.items() if len(places) > 1} == {}


def test_types_are_read_once_and_later_classes_are_found(monkeypatch):
    """Reading the types of all settings takes 20 ms, and far longer where tests have added some."""
    free_settings()
    read = []
    real = settings.get_type_hints
    monkeypatch.setattr(
        settings, "get_type_hints", lambda cls, **how: read.append(cls) or real(cls, **how)
    )

    @dataclasses.dataclass(kw_only=True)
    class Later(Settings):
        new_and_free: Free[int] = 1
        new: int = 1

    found = free_settings()
    assert read == [Later] and "new_and_free" in found and "new" not in found
