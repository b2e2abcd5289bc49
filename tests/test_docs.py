"""The code in docs/ runs, block after block, and does what the text says."""

import re
from pathlib import Path

import torch
from torch import nn

DOCS = Path(__file__).resolve().parent.parent / "docs"


class ForeignMAE(nn.Module):
    """What there is to replace, written down plainly: no encoder, and pred is a parameter."""

    def __init__(self, norm_pix_loss):
        super().__init__()
        self.norm_pix_loss = norm_pix_loss
        self.patch_embed = nn.Module()
        self.patch_embed.patch_size = (8, 8)
        self.pred = nn.Parameter(torch.randn(3, 12, 192))

    def patchify(self, imgs):
        tiles = imgs.unfold(2, 8, 8).unfold(3, 8, 8)  # [B, C, down, across, row, column]
        return tiles.permute(0, 2, 3, 4, 5, 1).flatten(1, 2).flatten(2)

    def random_masking(self, x, mask_ratio):
        order = torch.rand(x.shape[:2]).argsort(1)
        keep = int(x.shape[1] * (1 - mask_ratio))
        ids_restore = order.argsort(1)
        rows = order[:, :keep, None].expand(-1, -1, x.shape[2])
        return x.gather(1, rows), (ids_restore >= keep).float(), ids_restore

    def forward_loss(self, imgs, pred, mask):
        target = self.patchify(imgs)
        if self.norm_pix_loss:
            centred = target - target.mean(-1, keepdim=True)
            target = centred / (target.var(-1, keepdim=True) + 1e-6).sqrt()
        return (((pred - target) ** 2).mean(-1) * mask).sum() / mask.sum()


def blocks(name):
    return re.findall(r"```python\n(.*?)```", (DOCS / name).read_text(), re.DOTALL)


def test_kernels_one_by_one():
    names = {"ForeignMAE": type("ForeignMAE", (ForeignMAE,), {})}
    for block in blocks("kernels.md"):
        assert len(block.splitlines()) <= 10
        exec(block, names)
    assert names["patches"].shape == (8, 49, 768) and names["tokens"].shape == (8, 197, 512)
    assert names["loss"].item() > 0 and names["pred"].grad.abs().sum() > 0


def test_a_foreign_mae_with_our_methods():
    for norm_pix in (False, True):
        torch.manual_seed(0)
        plain = ForeignMAE(norm_pix)
        names = {"ForeignMAE": type("ForeignMAE", (ForeignMAE,), {})}
        exec(blocks("kernels.md")[-1], names)
        ours = names["ForeignMAE"](norm_pix)
        ours.load_state_dict(plain.state_dict())
        imgs, x = torch.randn(3, 3, 24, 32), torch.randn(3, 12, 5)
        assert torch.equal(ours.patchify(imgs), plain.patchify(imgs))
        kept, mask, ids_restore = ours.random_masking(x, 0.75)
        assert ids_restore.dtype == torch.int64 and mask.sum(1).tolist() == [9, 9, 9]
        everything = torch.cat([kept, torch.zeros(3, 9, 5)], 1)
        restored = everything.gather(1, ids_restore[..., None].expand(-1, -1, 5))
        assert torch.equal(restored, x * (1 - mask)[..., None])
        for given in (mask, mask.clone()):
            losses = [model.forward_loss(imgs, model.pred, given) for model in (plain, ours)]
            torch.testing.assert_close(*losses)
            pair = [
                torch.autograd.grad(loss, model.pred)[0]
                for loss, model in zip(losses, (plain, ours), strict=True)
            ]
            torch.testing.assert_close(*pair)
