"""fastimae-doctor reports packages correctly: present, absent, foreign or broken."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from fastimae import doctor, machine
from fastimae.doctor import Check, check_package
from fastimae.loaders import native_library


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Return a function that puts a fake distribution on sys.path: `install(name, version, {file:
    text})`."""
    monkeypatch.syspath_prepend(tmp_path)

    def add(name: str, version: str, files: dict[str, str]) -> None:
        info = tmp_path / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        for path, text in files.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)

    return add


def hide(monkeypatch, name: str) -> None:
    """Return a function that makes `name` look not installed."""
    find_spec = doctor.importlib.util.find_spec
    monkeypatch.setattr(
        doctor.importlib.util, "find_spec", lambda part: None if part == name else find_spec(part)
    )


def test_the_apex_of_pypi_is_called_what_it_is(install):
    install("apex", "0.9.10", {"apex/__init__.py": "", "apex/models.py": "", "apex/views.py": ""})
    check = doctor.check_apex()
    assert check.status == "other" and not check.fails
    assert "0.9.10 is not NVIDIA's" in check.found
    assert check.fix == "pip uninstall apex"


def test_the_apex_of_nvidia_is_recognised(install):
    install("apex", "0.1", {"apex/__init__.py": "", "apex/optimizers/__init__.py": ""})
    check = doctor.check_apex()
    assert (check.status, check.found) == ("ok", "0.1")


def test_no_apex_warns_of_the_trap(monkeypatch):
    hide(monkeypatch, "apex")
    check = doctor.check_apex()
    assert check.status == "missing"
    assert "another project" in check.fix


def test_missing_ffcv_names_the_debian_packages_to_install(monkeypatch):
    hide(monkeypatch, "ffcv")
    monkeypatch.setattr(doctor, "missing_build_packages", lambda: ["g++", "libopencv-dev"])
    check = doctor.check_ffcv()
    assert (check.status, check.required) == ("missing", False)
    assert check.fix == "sudo apt-get install g++ libopencv-dev && pip install ffcv"


def test_ffcv_is_judged_by_its_metadata_not_by_its_own_wrong_version(install):
    install("ffcv", "1.0.2", {"ffcv/__init__.py": '__version__ = "0.0.3rc1"'})
    check = doctor.check_ffcv()
    assert (check.status, check.found) == ("ok", "1.0.2")


def test_build_packages_are_missing_where_the_tools_are_not_found(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    missing = machine.missing_build_packages()
    assert {"g++", "pkg-config", "libturbojpeg0-dev", "libopencv-dev"} <= set(missing)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise ImportError('libGL.so.1: cannot open')", "ImportError: libGL.so.1: cannot open"),
        ("import os; os.kill(os.getpid(), 11)", "kills Python (signal 11)"),
        ("import not_there_at_all", "No module named 'not_there_at_all'"),
    ],
)
def test_a_package_that_does_not_import_is_broken_with_its_reason(install, source, reason):
    install("frail", "3.1", {"frail/__init__.py": source})
    check = check_package("frail", cost="much")
    assert check.status == "broken"
    assert check.found.startswith("3.1: ") and reason in check.found


@pytest.mark.parametrize(
    ("source", "status", "reason"),
    [
        ("import time; time.sleep(60)", "slow", "still importing after 1 s"),
        ("import os; os.kill(os.getpid(), 9)", "low", "as if memory ran out"),
    ],
)
def test_a_machine_short_of_time_or_memory_breaks_no_package(
    install, monkeypatch, capsys, source, status, reason
):
    monkeypatch.setattr(machine, "IMPORT_SECONDS", 1 if status == "slow" else 60)
    install("tired", "3.1", {"tired/__init__.py": source})
    check = check_package("tired", cost="much", required=True)
    assert (check.status, check.fails) == (status, False)
    assert check.found.startswith("3.1: ") and reason in check.found
    monkeypatch.setattr(doctor, "CHECKS", (lambda: check,))
    assert doctor.doctor() == 0 and "run fastimae-doctor again" in capsys.readouterr().out
    monkeypatch.setattr(doctor, "NATIVE_FACTS", source)
    assert doctor.check_native().status == status


def test_packages_are_imported_one_at_a_time(monkeypatch, capsys):
    """Several at once need more memory than small machines have, and longer on a loaded one."""
    running, most = [], []

    def run_python(code):
        running.append(code)
        most.append(len(running))
        time.sleep(0.01)
        running.remove(code)
        return machine.Ran('{"cuda": null, "gpus": [], "bf16": false}')

    monkeypatch.setattr(doctor, "run_python", run_python)
    doctor.doctor()
    assert len(most) > 3 and set(most) == {1}


def test_a_package_too_old_is_broken(install):
    install("relic", "2.9.1", {"relic/__init__.py": ""})
    assert check_package("relic", cost="", at_least=(2, 10)).status == "broken"
    assert check_package("relic", cost="", at_least=(2, 9)).status == "ok"


@pytest.mark.parametrize(
    ("number", "expected"), [("2.10.1+cu130", (2, 10)), ("13", (13, 0)), ("2.15.0rc1", (2, 15))]
)
def test_release(number, expected):
    assert machine.release(number) == expected


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"amx_bf16", "avx512_bf16"}, "yes, by AMX"),
        ({"avx512_bf16"}, "yes, by AVX-512"),
        ({"avx2"}, "no, so"),
    ],
)
def test_the_bf16_of_a_cpu(flags, expected):
    assert machine.cpu_bf16(frozenset(flags)).startswith(expected)


@pytest.mark.parametrize(
    ("status", "required", "code"),
    [
        *(("ok", True, 0), ("missing", False, 0), ("slow", True, 0), ("low", True, 0)),
        *(("other", False, 0), ("broken", False, 1), ("broken", True, 1), ("missing", True, 1)),
    ],
)
def test_only_what_is_broken_or_required_fails_the_command(
    monkeypatch, capsys, status, required, code
):
    check = Check(
        name="part", status=status, found="-", cost="speed", fix="buy it", required=required
    )
    monkeypatch.setattr(doctor, "CHECKS", (lambda: check,))
    assert doctor.doctor() == code
    shown = capsys.readouterr().out
    assert shown.startswith(f"{status:8} part")
    assert ("fix:   buy it" in shown) == (status != "ok")


@pytest.mark.parametrize(("mebibytes", "status"), [(64, "low"), (8192, "ok")])
def test_small_shared_memory_is_reported(monkeypatch, tmp_path, mebibytes, status):
    usage = SimpleNamespace(total=mebibytes * 2**20)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage)
    assert doctor.check_shared_memory(tmp_path).status == status


def test_every_name_of_setup_py_that_is_not_installed_is_listed(monkeypatch):
    monkeypatch.setattr(
        doctor.importlib.metadata,
        "requires",
        lambda _: ["torch>=2.10", "no-such-thing>=1", 'other; extra == "dev"'],
    )
    check = doctor.check_requirements()
    assert (check.status, check.fix) == ("missing", "pip install no-such-thing")


def test_the_environment_that_runs_the_tests_has_what_is_required():
    checks = [doctor.check_python(), doctor.check_torch(), doctor.check_pillow()]
    assert [check.status for check in checks] == ["ok"] * 3
    assert "build; " in checks[1].found


def test_native_engine_missing_or_described(monkeypatch):
    monkeypatch.setattr(
        doctor, "run_python", lambda code: machine.Ran("", "the native engine was not built")
    )
    check = doctor.check_native()
    assert (check.status, check.found) == ("missing", "the native engine was not built")
    assert "libjpeg-dev" in check.fix and "Pillow" in check.cost
    monkeypatch.undo()
    monkeypatch.setattr(doctor, "NATIVE_FACTS", "import os; os.kill(os.getpid(), 11)")
    assert doctor.check_native().fails
    monkeypatch.undo()
    library = native_library.load()
    check = doctor.check_native()
    assert check.status == ("ok" if library else "missing")
    assert check.found == (library.description() if library else native_library.why_missing())
