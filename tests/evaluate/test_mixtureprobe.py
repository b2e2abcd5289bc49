"""The class that a linear classifier reads from the latents of mixtures."""

import json

import numpy as np
import pytest
import torch
from tiny import save_run, tiny_model

pytest.importorskip("sklearn")

from fastimae.evaluate.candidates import load_candidates
from fastimae.evaluate.images import open_images
from fastimae.evaluate.mixing.mixtures import PairBatches, mixture_latents
from fastimae.evaluate.tasks import mixtureprobe
from fastimae.evaluate.tasks.mixtureprobe import Labelled, MixtureprobeOptions, accuracy
from fastimae.settings import ConfigError

CPU = torch.device("cpu")


def labelled(apart, count=150, seed=0):
    """Three classes whose centres are `apart`, with scales that differ by dimension."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=count)
    features = rng.standard_normal((count, 5)) + apart * np.eye(3, 5)[labels]
    return Labelled((features * [1, 10, 100, 1, 1]).astype(np.float32), labels)


def test_accuracy_of_classes_apart_and_of_noise():
    assert accuracy(labelled(9), labelled(9, seed=1)) == 100
    assert 15 < accuracy(labelled(0), labelled(0, seed=1)) < 55
    test_on = labelled(2, seed=1)
    right = accuracy(labelled(2), test_on) * 150 / 100
    assert right == pytest.approx(round(right)) and 90 < right < 150
    with pytest.raises(ConfigError, match="two classes"):
        accuracy(Labelled(np.ones((4, 2), np.float32), np.zeros(4, int)), labelled(1))


def test_features_come_with_the_class_of_the_image_they_are_for(tmp_path, image_folder):
    options = MixtureprobeOptions(
        checkpoint=save_run(tmp_path / "imae", tiny_model(heads=2, class_tokens=3)),
        others=(save_run(tmp_path / "mae", tiny_model()),),
        data_path=image_folder, mix_ratios=(0.2,), batch_size=8, num_workers=0,
    )  # fmt: skip
    candidates = load_candidates((options.checkpoint, *options.others), CPU)
    found = mixtureprobe.collect(options, candidates, open_images(image_folder), 20)
    images = list(
        PairBatches(
            open_images(image_folder), candidates[0].model, samples=20, batch_size=8, workers=0
        )
    )
    own = torch.cat([batch.labels for batch in images])
    partners = torch.cat([batch.labels[batch.partner] for batch in images])
    assert torch.equal(torch.from_numpy(found[0, 0.2, "subordinate"].labels), own)
    assert torch.equal(torch.from_numpy(found[0, 0.2, "dominant"].labels), partners)
    first = images[0]
    everything = first.mask(candidates[0].model, 0, 1)
    heads = mixture_latents(candidates[0].model, first, everything, 0.2)
    for number, branch in enumerate(("subordinate", "dominant")):
        wanted = heads[number, :, 3:].mean(1)
        got = torch.from_numpy(found[0, 0.2, branch].features[:8])
        assert torch.allclose(got, wanted, atol=1e-6)
    mae = [found[1, 0.2, branch].features for branch in ("subordinate", "dominant")]
    assert np.array_equal(*mae) and not np.array_equal(mae[0], found[0, 0.2, "dominant"].features)


def test_it_is_written_and_clearer_for_the_dominant_image(tmp_path, image_folder, capsys):
    options = MixtureprobeOptions(
        checkpoint=save_run(tmp_path, tiny_model(heads=2)), data_path=image_folder,
        val=image_folder, mix_ratios=(0.05, 0.2), batch_size=16, num_workers=0, device="cpu",
    )  # fmt: skip
    mixtureprobe.run(options)
    content = json.loads((tmp_path / "eval-mixtureprobe" / "results.json").read_text())
    table = content["numbers"]["table"]
    assert content["numbers"]["mean_acc1"] == pytest.approx(
        sum(row["subordinate"] for row in table) / 2
    )
    assert [row["mix_ratio"] for row in table] == [0.05, 0.2]
    assert table[0]["dominant"] >= table[0]["subordinate"]
    assert "| i-MAE, not distilled | 0.05 |" in capsys.readouterr().out
