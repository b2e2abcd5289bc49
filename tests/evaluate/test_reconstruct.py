"""The picture file: what is in it, and where."""

import matplotlib.image
import torch

from fastimae.evaluate.reconstruct import draw_grid, first_pairs, save_reconstruction
from fastimae.models import create_model
from fastimae.objectives import IMAE


def test_first_pairs_keep_their_partners(make_batch):
    batch = make_batch(6)
    pairs = first_pairs(batch, 4)
    assert len(pairs) == 8
    for row in range(4):
        assert torch.equal(pairs.images[row], batch.images[row])
        partner = pairs.partner[row]
        assert torch.equal(pairs.images[partner], batch.images[batch.partner[row]])
        assert pairs.key[partner] == batch.key[batch.partner[row]]
        assert pairs.partner[partner] == row
    assert torch.equal(pairs.step_key, batch.step_key)
    assert len(first_pairs(batch, 99)) == 12


def test_grid_shows_the_images_in_order(tmp_path):
    colors = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]], dtype=torch.uint8)
    images = colors[:, None, None].expand(-1, 8, 8, -1)
    draw_grid({"a": images[:2], "b": images[2:]}, tmp_path / "x.png", "a note")
    picture = matplotlib.image.imread(tmp_path / "x.png")[..., :3]
    assert [p.name for p in tmp_path.iterdir()] == ["x.png"]
    middles = {}
    for name, color in zip(("a0", "a1", "b0", "b1"), colors, strict=True):
        rows, columns = (abs(picture - color.numpy() / 255).max(-1) < 0.02).nonzero()
        assert len(rows) > 1000, name
        middles[name] = (rows.mean(), columns.mean())
    assert middles["a0"][0] < middles["a1"][0] and middles["b0"][0] < middles["b1"][0]
    assert middles["a0"][1] < middles["b0"][1] and middles["a1"][1] < middles["b1"][1]


def test_picture_says_what_norm_pix_leaks(tmp_path, make_batch, monkeypatch):
    notes = []
    monkeypatch.setattr(
        "fastimae.evaluate.reconstruct.draw_grid",
        lambda pictures, path, note: notes.append((list(pictures), note)),
    )
    for norm_pix in (False, True):
        student = create_model("mae_vit_tiny_patch8", img_size=32, heads=2, norm_pix_loss=norm_pix)
        save_reconstruction(IMAE(student), tmp_path / "x.png", make_batch(4))
    titles, plain = notes[0]
    assert titles == [
        "subordinate", "dominant", "mixture", "masked",
        "subordinate reconstructed", "dominant reconstructed",
    ]  # fmt: skip
    assert "norm_pix_loss" not in plain and "norm_pix_loss" in notes[1][1]
    assert "mask ratio 0.75" in plain and "masked" in plain
