"""Features equal timm's, in any batches, and are computed only once."""

import dataclasses
import threading

import pytest
import torch
from toy_images import save_colours, save_mae

from fastimae.engine.distributed import World
from fastimae.evaluate.center_batches import CenterBatches
from fastimae.evaluate.features import extract, features, latents, load_encoder
from fastimae.evaluate.images import open_images
from fastimae.evaluate.labels import feature_cache
from fastimae.evaluate.labels.feature_cache import FeatureStore, encoder_digest
from fastimae.loaders.errors import DataError
from fastimae.models import create_model

CPU = torch.device("cpu")
ALONE = World(0, 1, CPU)


@pytest.fixture
def colours(tmp_path):
    return open_images(save_colours(tmp_path / "images", 4))


def store(folder, model, **changes):
    settings = {"pool": "cls", "precision": "fp32", "batch_size": 5, "workers": 0}
    settings |= {"world": ALONE, "scratch": folder.parent, **changes}
    return FeatureStore(model=model, folder=folder, **settings)


def noise(count=3, size=(32, 32), channels=3):
    return torch.randint(0, 256, (count, *size, channels), dtype=torch.uint8)


@pytest.mark.parametrize("size", [(32, 32), (16, 40)])
def test_features_are_those_of_timms_vision_transformer(size):
    pytest.importorskip("timm")
    from fastimae.evaluate.finetuning.classifier import build_classifier

    model = create_model("mae_vit_nano_patch8", img_size=size).eval()
    twin = build_classifier(model, 7, global_pool=False).eval()
    images = noise(size=size)
    mean, std = (torch.tensor(values)[:, None, None] for values in (model.mean, model.std))
    with torch.no_grad():
        tokens = twin.forward_features((images.permute(0, 3, 1, 2) / 255 - mean) / std)
    assert tokens.std() > 0.5
    close = {"atol": 2e-5, "rtol": 1e-4}
    torch.testing.assert_close(latents(model, images, "fp32"), tokens, **close)
    torch.testing.assert_close(features(model, images, "cls", "fp32"), tokens[:, 0], **close)
    torch.testing.assert_close(
        features(model, images, "avg", "fp32"), tokens[:, 1:].mean(1), **close
    )


def test_gray_features_follow_the_pixels():
    model = create_model("mae_vit_nano_patch8", img_size=32, in_chans=1).eval()
    a, b = features(model, noise(2, channels=1), "avg")
    assert (a - b).abs().max() > 0.01


def test_bf16_features_are_close_and_are_kept_apart(colours, tmp_path):
    model = create_model("mae_vit_nano_patch8", img_size=32).eval()
    exact, low = (store(tmp_path, model, precision=p).features(colours) for p in ("fp32", "bf16"))
    difference = (exact.rows - low.rows).abs()
    assert 0 < difference.mean() < 0.02 < exact.rows.std() and low.rows.dtype == torch.float32


def test_both_heads_share_the_encoder():
    plain = create_model("mae_vit_nano_patch8", img_size=32).eval()
    double = create_model("mae_vit_nano_patch8", img_size=32, heads=2).eval()
    shared = {k: v for k, v in plain.state_dict().items() if not k.startswith("decoder_embed")}
    double.load_state_dict(shared, strict=False)
    images = noise()
    assert torch.equal(features(plain, images, "cls"), features(double, images, "cls"))
    assert encoder_digest(plain) == encoder_digest(double)


def test_extract_keeps_the_order(colours):
    model = create_model("mae_vit_nano_patch8", img_size=32).eval()
    batches = CenterBatches(colours, (32, 32), batch_size=5, workers=2)
    rows, labels = extract(model, batches, CPU, "avg", precision="fp32")
    assert rows.dtype == torch.float32 and labels.tolist() == colours.labels.tolist()
    ((every, _),) = CenterBatches(colours, (32, 32), batch_size=99, workers=0)
    torch.testing.assert_close(rows, features(model, every, "avg", "fp32"))


def test_features_are_computed_once_for_what_they_depend_on(colours, tmp_path, monkeypatch):
    calls = []
    real = feature_cache.extract
    monkeypatch.setattr(
        feature_cache, "extract", lambda *args, **_: calls.append(args[-1]) or real(*args)
    )
    model = create_model("mae_vit_nano_patch8", img_size=32).eval()
    first = store(tmp_path, model).features(colours)
    again = store(tmp_path, model, batch_size=7).features(colours)
    assert calls == ["cls"] and torch.equal(first.rows, again.rows)
    assert torch.equal(again.labels, torch.from_numpy(colours.labels))
    store(tmp_path, model, pool="avg").features(colours)
    assert calls == ["cls", "avg"]
    with torch.no_grad():
        model.blocks[2].mlp.fc1.bias[0] += 1e-3
    changed = store(tmp_path, model).features(colours)
    assert len(calls) == 3 and not torch.equal(changed.rows, first.rows)
    with torch.no_grad():
        model.decoder_pred.bias[0] += 1  # no feature depends on it
    store(tmp_path, model).features(colours)
    assert len(calls) == 3


def test_a_damaged_file_is_made_anew(colours, tmp_path):
    model = create_model("mae_vit_nano_patch8", img_size=32).eval()
    first = store(tmp_path / "kept", model).features(colours)
    (file,) = (tmp_path / "kept").iterdir()
    file.write_bytes(file.read_bytes()[:-100])
    again = store(tmp_path / "kept", model).features(colours)
    assert torch.equal(first.rows, again.rows)
    assert torch.equal(feature_cache.read_features(file).rows, first.rows)


def test_no_readable_image_is_one_clear_error(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "x.png").write_bytes(b"no image")
    model = create_model("mae_vit_nano_patch8", img_size=32).eval()
    with pytest.raises(DataError, match="none of its 1 images can be read"):
        store(tmp_path, model).features(open_images(tmp_path / "images"))


@dataclasses.dataclass(frozen=True)
class ThreadWorld(World):
    """Two ranks that are threads of one process."""

    barrier: threading.Barrier = None
    flags: list = None

    def any(self, flag):
        self.flags[self.rank] = flag
        self.barrier.wait(20)
        result = any(self.flags)
        self.barrier.wait(20)
        return result


def test_ranks_share_the_work_and_get_all_features(colours, tmp_path):
    model = create_model("mae_vit_nano_patch8", img_size=32).eval()
    barrier, flags, got = threading.Barrier(2), [False, False], {}

    def one(rank):
        world = ThreadWorld(rank, 2, CPU, barrier=barrier, flags=flags)
        got[rank] = store(tmp_path / "two", model, world=world).features(colours)

    ranks = [threading.Thread(target=one, args=(rank,)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    alone = store(tmp_path / "one", model).features(colours)
    for rank in range(2):
        torch.testing.assert_close(got[rank].rows, alone.rows)
        assert torch.equal(got[rank].labels, alone.labels)
    assert [path.suffix for path in (tmp_path / "two").iterdir()] == [".safetensors"]


def test_fresh_weights_keep_the_architecture(tmp_path):
    net = save_mae(tmp_path / "mae.pth", embed_dim=64, num_heads=4, depth=2)
    loaded = load_encoder(tmp_path / "mae.pth", CPU)
    assert torch.equal(loaded.blocks[1].attn.qkv.weight, net.blocks[1].attn.qkv.weight)
    fresh = [load_encoder(tmp_path / "mae.pth", CPU, random_init=True, seed=s) for s in (1, 1, 2)]
    weights = [model.blocks[1].attn.qkv.weight for model in fresh]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], net.blocks[1].attn.qkv.weight)
    assert weights[0].shape == net.blocks[1].attn.qkv.weight.shape
    assert not any(p.requires_grad for p in fresh[0].parameters()) and not fresh[0].training


def test_probes_at_the_same_time_share_a_folder(colours, tmp_path, monkeypatch):
    """A probe does not wait for another that is writing the same features."""
    model = create_model("mae_vit_nano_patch8", img_size=32).eval()
    real, others = feature_cache.save_file, []

    def meanwhile(tensors, path, about):
        monkeypatch.setattr(feature_cache, "save_file", real)
        real(tensors, path, about)
        others.append(store(tmp_path / "shared", model).features(colours))

    monkeypatch.setattr(feature_cache, "save_file", meanwhile)
    first = store(tmp_path / "shared", model).features(colours)
    (other,) = others
    kept = store(tmp_path / "shared", model).features(colours)
    for found in (other, kept):
        assert torch.equal(found.rows, first.rows) and torch.equal(found.labels, first.labels)
    assert [path.suffix for path in (tmp_path / "shared").iterdir()] == [".safetensors"]
