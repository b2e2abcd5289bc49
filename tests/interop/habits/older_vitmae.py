"""A MAE with the parts and names of ViTMAE in transformers 4: query, key, value, intermediate.

Its layers return tuples, attention is in two modules, and the second residual sum is in `output`.
"""

from __future__ import annotations

import types

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.habits.base import Size
from fastimae.models.vit import sincos_positions


class OlderSelfAttention(nn.Module):
    """Softmax attention of three projections, which returns its context in a tuple."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_attention_heads, self.attention_head_size = heads, width // heads
        self.dropout_prob, self.config = 0.0, types.SimpleNamespace(_attn_implementation="eager")
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(
        self,
        hidden_states: Tensor,
        head_mask: Tensor | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, ...]:
        shape = (*hidden_states.shape[:-1], self.num_attention_heads, self.attention_head_size)
        parts = (layer(hidden_states) for layer in (self.query, self.key, self.value))
        query, key, value = (part.view(shape).transpose(1, 2) for part in parts)
        scores = (query @ key.transpose(-1, -2)) * self.attention_head_size**-0.5
        weights = F.dropout(scores.softmax(-1), self.dropout_prob, self.training)
        weights = weights if head_mask is None else weights * head_mask
        context = (weights @ value).transpose(1, 2).flatten(2)
        return (context, weights) if output_attentions else (context,)


class OlderSelfOutput(nn.Module):
    """The projection behind attention."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense, self.dropout = nn.Linear(width, width), nn.Dropout(0.0)

    def forward(self, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        return self.dropout(self.dense(hidden_states))


class OlderAttention(nn.Module):
    """Both."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention, self.output = OlderSelfAttention(width, heads), OlderSelfOutput(width)

    def forward(
        self,
        hidden_states: Tensor,
        head_mask: Tensor | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, ...]:
        found = self.attention(hidden_states, head_mask, output_attentions)
        return self.output(found[0], hidden_states), *found[1:]


class OlderIntermediate(nn.Module):
    """The first half of an MLP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense, self.intermediate_act_fn = nn.Linear(width, 4 * width), nn.GELU()

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.intermediate_act_fn(self.dense(hidden_states))


class OlderOutput(nn.Module):
    """The second half, with the residual sum."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense, self.dropout = nn.Linear(4 * width, width), nn.Dropout(0.0)

    def forward(self, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        return self.dropout(self.dense(hidden_states)) + input_tensor


class OlderLayer(nn.Module):
    """A block, whose result is the first item of a tuple."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = OlderAttention(width, heads)
        self.intermediate, self.output = OlderIntermediate(width), OlderOutput(width)
        self.layernorm_before = nn.LayerNorm(width, eps=1e-12)
        self.layernorm_after = nn.LayerNorm(width, eps=1e-12)

    def forward(
        self,
        hidden_states: Tensor,
        head_mask: Tensor | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, ...]:
        normed = self.layernorm_before(hidden_states)
        found = self.attention(normed, head_mask, output_attentions=output_attentions)
        hidden_states = found[0] + hidden_states
        inner = self.intermediate(self.layernorm_after(hidden_states))
        return self.output(inner, hidden_states), *found[1:]


class OlderPatches(nn.Module):
    """The embedding of all patches."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.num_patches, self.num_channels = size.patches, 3
        self.image_size = (size.img_size, size.img_size)
        self.projection = nn.Conv2d(3, size.width, size.patch_size, size.patch_size)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.projection(pixel_values).flatten(2).transpose(1, 2)


class OlderEmbeddings(nn.Module):
    """Patches, positions, masks, class token; masks are drawn from `noise`, or torch.rand."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        grid = (size.img_size // size.patch_size,) * 2
        self.config = types.SimpleNamespace(mask_ratio=0.75)
        self.cls_token = nn.Parameter(torch.randn(1, 1, size.width))
        self.patch_embeddings = OlderPatches(size)
        positions = sincos_positions(size.width, grid)
        self.position_embeddings = nn.Parameter(positions, requires_grad=False)

    def random_masking(
        self, sequence: Tensor, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        batch, length, width = sequence.shape
        keep = int(length * (1 - self.config.mask_ratio))
        if noise is None:
            noise = torch.rand(batch, length, device=sequence.device)
        ids_shuffle = torch.argsort(noise, dim=1)
        ids_restore = torch.argsort(ids_shuffle, dim=1)
        rows = ids_shuffle[:, :keep, None].repeat(1, 1, width)
        mask = torch.ones([batch, length], device=sequence.device)
        mask[:, :keep] = 0
        return sequence.gather(1, rows), mask.gather(1, ids_restore), ids_restore

    def forward(
        self,
        pixel_values: Tensor,
        noise: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        x = self.patch_embeddings(pixel_values) + self.position_embeddings[:, 1:, :]
        x, mask, ids_restore = self.random_masking(x, noise)
        first = self.cls_token + self.position_embeddings[:, :1, :]
        return torch.cat((first.expand(len(x), -1, -1), x), dim=1), mask, ids_restore


class ViTMAEDecoderOutput(dict):
    """What the decoder returns, under the library's name."""

    logits = property(lambda self: self["logits"])


class OlderDecoder(nn.Module):
    """Mask tokens, positions, layers, predictions."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        grid = (size.img_size // size.patch_size,) * 2
        width = size.decoder_width
        self.decoder_embed = nn.Linear(size.width, width)
        self.mask_token = nn.Parameter(torch.randn(1, 1, width))
        positions = sincos_positions(width, grid)
        self.decoder_pos_embed = nn.Parameter(positions, requires_grad=False)
        self.decoder_layers = nn.ModuleList(
            OlderLayer(width, size.decoder_heads) for _ in range(size.decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(width, eps=1e-12)
        self.decoder_pred = nn.Linear(width, 3 * size.patch_size**2)

    def forward(
        self, hidden_states: Tensor, ids_restore: Tensor, output_attentions: bool = False
    ) -> ViTMAEDecoderOutput:
        x = self.decoder_embed(hidden_states)
        missing = ids_restore.shape[1] + 1 - x.shape[1]
        rows = torch.cat([x[:, 1:, :], self.mask_token.repeat(len(x), missing, 1)], dim=1)
        rows = rows.gather(1, ids_restore.unsqueeze(-1).repeat(1, 1, x.shape[2]))
        x = torch.cat([x[:, :1, :], rows], dim=1) + self.decoder_pos_embed
        for layer in self.decoder_layers:
            x = layer(x)[0]
        return ViTMAEDecoderOutput(logits=self.decoder_pred(self.decoder_norm(x))[:, 1:, :])


class OlderViTMAE(nn.Module):
    """The whole model; its loss is in `forward_loss`."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.config = types.SimpleNamespace(norm_pix_loss=False, patch_size=size.patch_size)
        self.embeddings = OlderEmbeddings(size)
        self.layer = nn.ModuleList(OlderLayer(size.width, size.heads) for _ in range(size.depth))
        self.layernorm = nn.LayerNorm(size.width, eps=1e-12)
        self.decoder = OlderDecoder(size)

    def patchify(self, pixel_values: Tensor) -> Tensor:
        side = self.config.patch_size
        tiles = pixel_values.unfold(2, side, side).unfold(3, side, side)
        return tiles.permute(0, 2, 3, 4, 5, 1).flatten(1, 2).flatten(2)

    def forward_loss(self, pixel_values: Tensor, pred: Tensor, mask: Tensor) -> Tensor:
        target = self.patchify(pixel_values)
        if self.config.norm_pix_loss:
            mean, var = target.mean(dim=-1, keepdim=True), target.var(dim=-1, keepdim=True)
            target = (target - mean) / (var + 1.0e-6) ** 0.5
        return (((pred - target) ** 2).mean(dim=-1) * mask).sum() / mask.sum()

    def forward(self, pixel_values: Tensor, noise: Tensor | None = None) -> types.SimpleNamespace:
        x, mask, ids_restore = self.embeddings(pixel_values, noise)
        for layer in self.layer:
            x = layer(x)[0]
        logits = self.decoder(self.layernorm(x), ids_restore).logits
        loss = self.forward_loss(pixel_values, logits, mask)
        return types.SimpleNamespace(loss=loss, logits=logits, mask=mask)
