"""A real study, whose first training is killed in its middle: the same command finishes it."""

import json
import threading
import time

import psutil
import pytest
import yaml
from toy_images import save_splits

pytest.importorskip("sklearn")
pytest.importorskip("timm")

from fastimae.evaluate.command import options_of
from fastimae.evaluate.tasks import study
from fastimae.settings import ConfigError

EPOCHS = 12
FILE = f"""\
train:
  {{model: mae_vit_nano_patch16, input_size: 32, batch_size: 8, warmup_epochs: 0,
   epochs: {EPOCHS}, vis_freq: 0, save_freq: 1, checkpoint_hist: 1}}
models:
  mae: {{objective: mae}}
evaluations:
  knn: {{k: [1]}}
"""


def kill_the_training(checkpoint):
    """Kill this process's child as soon as it has saved an epoch."""

    def wait_and_kill():
        deadline = time.monotonic() + 120
        while not checkpoint.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        for child in psutil.Process().children():
            child.kill()

    threading.Thread(target=wait_and_kill, daemon=True).start()


def test_a_study_goes_on_after_a_kill(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_splits(tmp_path / "images", 8)
    (tmp_path / "few.yaml").write_text(FILE)
    words = ["few.yaml", "--data_path", "images", "--device", "cpu", "--num_workers", "0"]
    log = tmp_path / "study/mae/log.txt"
    kill_the_training(log.with_name("checkpoint-last.pth"))
    with pytest.raises(ConfigError, match="mae failed with exit status -9"):
        study.run(options_of("study", words))
    before = log.read_text()
    assert 1 <= len(before.splitlines()) < EPOCHS
    assert not (tmp_path / "study/mae/eval-knn").exists()
    study.run(options_of("study", words))
    lines = log.read_text()
    assert [json.loads(line)["epoch"] for line in lines.splitlines()] == list(range(EPOCHS))
    assert lines.splitlines()[0] == before.splitlines()[0]  # it did not begin again
    starts = yaml.safe_load((log.parent / "run.yaml").read_text())["starts"]
    assert [start.get("outcome") for start in starts] == [None, "finished"]
    number = json.loads((log.parent / "eval-knn/results.json").read_text())["numbers"]["acc1"]
    (row,) = json.loads((tmp_path / "study/results.json").read_text())["numbers"]["table"]
    assert row == {"model": "mae", "knn": number}
