"""The oldest versions that work are the same in pyproject.toml, docs/install.md and the doctor."""

import re
import tomllib
from pathlib import Path

from fastimae import doctor

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NOT_FOR_USERS = ("all", "dev", "docs", "peers")


def declared():
    """Return {package: (version, extra)} of what users install."""
    extras = PROJECT["optional-dependencies"].items()
    needed = {"": PROJECT["dependencies"], **dict(extras)}
    return {
        name: (version, extra)
        for extra, lines in needed.items() if extra not in NOT_FOR_USERS
        for name, version in (re.match(r"([\w.-]+)>=([\d.]+)", line).groups() for line in lines)
    }  # fmt: skip


def test_the_table_has_what_is_declared():
    text = (ROOT / "docs/install.md").read_text()
    rows = re.findall(r"^\| ([\w-]+) \| ([\d.]+) \| ?(\w*) \|$", text, re.MULTILINE)
    assert {name: (version, extra) for name, version, extra in rows} == declared()


def test_the_doctor_asks_for_what_is_declared(monkeypatch):
    asked = {}

    def check_package(name, *, distribution=None, at_least, **others):
        asked[distribution or name] = ".".join(map(str, at_least))
        return doctor.Check(name=name, status="broken", found="")

    monkeypatch.setattr(doctor, "check_package", check_package)
    monkeypatch.setattr(doctor, "run_python", lambda code: ("", "not asked"))
    doctor.check_torch()
    doctor.check_pillow()
    assert asked == {name: declared()[name][0] for name in ("torch", "pillow")}


def test_extras_have_the_bounds_of_the_rest_or_higher():
    """pip takes the highest: a lower one would never be used."""
    users = {name: tuple(map(int, version.split("."))) for name, (version, _) in declared().items()}
    for line in PROJECT["optional-dependencies"]["dev"]:
        name, version = re.match(r"([\w.-]+)[>=]=([\d.]+)", line).groups()
        assert tuple(map(int, version.split("."))) >= users.get(name, ())
