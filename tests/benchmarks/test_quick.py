"""`make bench`: both benchmarks run on made-up pictures, and everything is in one folder."""

import json
import subprocess
from types import SimpleNamespace

from benchmarks import __main__ as quick
from benchmarks.train import __main__ as train


def train_here(words, **rest):
    """Run a command as `subprocess.run` does, but the benchmark of training in this process."""
    if words[2] == "benchmarks.train":
        return SimpleNamespace(returncode=train.main(words[3:]))
    return subprocess.run(words, **rest)


def test_it_measures_loaders_and_steps_in_one_folder(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(quick, "LOADERS", ("native", "pillow"))
    monkeypatch.setattr(quick, "subprocess", SimpleNamespace(run=train_here))
    out = tmp_path / "out"
    monkeypatch.chdir(quick.ROOT)
    assert quick.main(["--smoke", "--out", str(out)]) == 0
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
    names = {file.name for file in out.iterdir()}
    assert {"loaders.json", "loaders.md", "train.json", "train.png"} <= names
    variants = [row["variant"] for row in json.loads((out / "train.json").read_text())["results"]]
    assert variants == ["reference", "fastimae"]
    loading, training, last = capfd.readouterr().out.splitlines()[-3:]
    assert loading.startswith("Loading: ") and "images/s" in loading and "pillow" in loading
    assert training.startswith("Training: ") and last.endswith(str(out))


def test_the_summary_compares_with_the_fastest(tmp_path):
    rows = [{"backend": "pillow", "img_per_s": 50.0}, {"backend": "native", "img_per_s": 200.0}]
    (tmp_path / "loaders.json").write_text(json.dumps({"results": rows}))
    loading, training, _ = quick.summary(tmp_path)
    assert loading == "Loading: native 200 images/s, 4.0 x pillow (50)"
    assert training == "Training: not measured"


def test_a_given_beton_is_measured(tmp_path):
    options = quick.parser().parse_args(["--data", "F.beton", "--out", str(tmp_path)])
    command = quick.loading(options, options.data)
    assert command[1:3] == ("--data", options.data)
