"""MAE and i-MAE written a second time, slowly, in float64, as a reference for the fast code.

It loops over images, patches and heads; numbers come from a state dict by name. Nothing of
`fastimae` is imported.

B images, [H, W, C] each; L patches of side P, K of them visible, N tokens; width D (encoder) or E.
"""

import math

import torch

EPS_NORM, EPS_PIX = 1e-6, 1e-6


def float64(state):
    """Return the trainable float64 copy of a state dict."""
    return {name: value.detach().double().requires_grad_() for name, value in state.items()}


def patches_of(image, patch):
    """Split [H, W, C] into flat patches, row by row; pixels ordered row, column, channel."""
    height, width, _ = image.shape
    return [
        image[top : top + patch, left : left + patch].flatten()
        for top in range(0, height, patch)
        for left in range(0, width, patch)
    ]


def normalised(image, mean, std):
    """Normalise uint8 [H, W, C] to float64, channel by channel."""
    channels = [(image[..., c].double() / 255 - mean[c]) / std[c] for c in range(image.shape[-1])]
    return torch.stack(channels, dim=-1)


def linear(x, state, name):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def layer_norm(x, state, name):
    centred = x - x.mean(-1, keepdim=True)
    scale = torch.sqrt((centred**2).mean(-1, keepdim=True) + EPS_NORM)
    return centred / scale * state[f"{name}.weight"] + state[f"{name}.bias"]


def gelu(x):
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def attend(query, key, value, heads):
    """Attend with each head, [M, D], [N, D], [N, D] -> [M, D]."""
    d = query.shape[1] // heads
    outputs = []
    for h in range(heads):
        q, k, v = (each[:, h * d :][:, :d] for each in (query, key, value))
        scores = q @ k.T / math.sqrt(d)
        weights = torch.exp(scores - scores.max(1, keepdim=True).values)
        outputs.append(weights / weights.sum(1, keepdim=True) @ v)
    return torch.cat(outputs, 1)


def block(x, state, name, heads, memory=None, paths=(1, 1)):
    """Apply a transformer block, [N, D] -> [N, D]; with a memory [K, D], attend to that instead.

    paths: factors of what attention and MLP add.
    """
    width = x.shape[1]
    normed = layer_norm(x, state, f"{name}.norm1")
    if memory is None:
        query, *others = linear(normed, state, f"{name}.attn.qkv").split(width, 1)
    else:
        query = linear(normed, state, f"{name}.attn.q")
        others = linear(memory, state, f"{name}.attn.kv").split(width, 1)
    x = x + paths[0] * linear(attend(query, *others, heads), state, f"{name}.attn.proj")
    hidden = gelu(linear(layer_norm(x, state, f"{name}.norm2"), state, f"{name}.mlp.fc1"))
    return x + paths[1] * linear(hidden, state, f"{name}.mlp.fc2")


def count(state, prefix):
    return len({name.split(".")[1] for name in state if name.startswith(prefix)})


def encode(patches, visible, state, heads, weights=(), paths=None):
    """Encode the patches of a (normalised) image at its visible ids -> [n + K, D].

    n class tokens come first. weights: of the input and of each block's output, whose sum is the
    latent. paths: two factors for each block, see `block`.
    """
    kernel = state["patch_embed.proj.weight"]  # [D, C, P, P]
    side, channels = kernel.shape[-1], kernel.shape[1]
    n = state["cls_token"].shape[1]
    tokens = [state["cls_token"][0, c] + state["pos_embed"][0, c] for c in range(n)]
    for i in visible:
        pixels = patches[i].view(side, side, channels).permute(2, 0, 1)
        token = (kernel * pixels).sum((1, 2, 3)) + state["patch_embed.proj.bias"]
        tokens.append(token + state["pos_embed"][0, n + i])
    x = torch.stack(tokens)
    maps = [x]
    for number in range(count(state, "blocks.")):
        factors = paths[number] if paths else (1, 1)
        maps.append(block(maps[-1], state, f"blocks.{number}", heads, paths=factors))
    if not weights:
        return layer_norm(maps[-1], state, "norm")
    mixed = sum(weight * each for weight, each in zip(weights, maps, strict=True))
    return layer_norm(mixed, state, "norm")


def decode(latent, visible, patches, state, heads):
    """Decode a head's output [n + K, E] into predictions of all patches, [L, P*P*C]."""
    if "decoder_blocks.0.attn.kv.weight" in state:
        return decode_across([latent] * count(state, "decoder_blocks."), state, heads)
    n = len(latent) - len(visible)
    rows = list(latent[:n])
    for i in range(patches):
        rows.append(latent[n + visible.index(i)] if i in visible else state["mask_token"][0, 0])
    x = torch.stack(rows) + state["decoder_pos_embed"][0]
    for number in range(count(state, "decoder_blocks.")):
        x = block(x, state, f"decoder_blocks.{number}", heads)
    return linear(layer_norm(x, state, "decoder_norm"), state, "decoder_pred")[n:]


def decode_across(latents, state, heads):
    """Decode with cross-attention alone, each block to its latent [1 + K, E]: [L, P*P*C]."""
    x = state["mask_token"][0] + state["decoder_pos_embed"][0, state["cls_token"].shape[1] :]
    for number, latent in enumerate(latents):
        x = block(x, state, f"decoder_blocks.{number}", heads, memory=latent)
    return linear(layer_norm(x, state, "decoder_norm"), state, "decoder_pred")


def far_values(visible, size, patch, channels, distance):
    """Return bool [P*P*C] for each patch: whether no visible pixel is at most `distance` rows and
    at most `distance` columns away. size: height and width in pixels."""
    height, width = size
    seen = torch.zeros(height, width, dtype=torch.bool)
    for i in visible:
        top, left = i // (width // patch) * patch, i % (width // patch) * patch
        seen[top : top + patch, left : left + patch] = True
    far = torch.ones(height, width, channels, dtype=torch.bool)
    for row in range(height):
        for column in range(width):
            above, before = max(row - distance, 0), max(column - distance, 0)
            window = seen[above : row + distance + 1, before : column + distance + 1]
            far[row, column] = not window.any()
    return patches_of(far, patch)


def pixel_loss(pred, patches, visible, norm_pix, far=None):
    """Return the mean, over masked patches, of the mean squared error; with `far`, of all patches,
    the mean over their values there, or 0 if there is none."""
    losses, kept = [], 0
    for i, patch in enumerate(patches):
        if i in visible:
            continue
        if norm_pix:
            centre = patch.mean()
            variance = ((patch - centre) ** 2).sum() / (len(patch) - 1)
            patch = (patch - centre) / torch.sqrt(variance + EPS_PIX)
        if far is None:
            losses.append(((pred[i] - patch) ** 2).mean())
            kept += 1
        else:
            losses.append(((pred[i] - patch)[far[i]] ** 2).sum())
            kept += int(far[i].sum())
    return sum(losses) / max(kept, 1)


def mae_loss(
    images, visible, state, *, patch, heads, decoder_heads, mean, std, norm_pix, paths=None
):
    """Return MAE's loss. images: uint8 [B, H, W, C]; visible: patch ids for each image; paths: of
    `encode`, for each image."""
    losses = []
    paths = paths or [None] * len(images)
    for image, ids, of_image in zip(images, visible, paths, strict=True):
        patches = patches_of(normalised(image, mean, std), patch)
        latent = encode(patches, ids, state, heads, paths=of_image)
        latent = linear(latent, state, "decoder_embed")
        pred = decode(latent, ids, len(patches), state, decoder_heads)
        losses.append(pixel_loss(pred, patches, ids, norm_pix))
    return sum(losses) / len(losses)


def separated(latent, state, head, head_space):
    """Return the latent of one image, [1 + K, D or E]; without heads, that of the mixture."""
    if f"{head}.weight" in state:
        return linear(latent, state, head)
    return latent if head_space == "encoder" else linear(latent, state, "decoder_embed")


def imae_parts(
    images, partner, alpha, visible, state, teacher, *,
    patch, heads, decoder_heads, mean, std, norm_pix, head_space, teacher_view, ignored=0,
):  # fmt: skip
    """Return the four parts of i-MAE's loss, each a mean over the batch.

    ignored: distance to visible pixels up to which masked ones do not count.
    A state without heads has one latent for both images: see `separated`.
    """
    parts = {"recon_subordinate": [], "recon_dominant": []}
    if teacher is not None:
        parts |= {"latent_subordinate": [], "latent_dominant": []}
    for i, ids in enumerate(visible):
        clean = [normalised(images[i], mean, std), normalised(images[partner[i]], mean, std)]
        mixed = alpha[i] * clean[0] + (1 - alpha[i]) * clean[1]
        latent = encode(patches_of(mixed, patch), ids, state, heads)
        for role, head, image in zip(
            ("subordinate", "dominant"), ("decoder_embed1", "decoder_embed2"), clean, strict=True
        ):
            out = separated(latent, state, head, head_space)
            inner = out if head_space == "decoder" else linear(out, state, "decoder_embed")
            patches = patches_of(image, patch)
            pred = decode(inner, ids, len(patches), state, decoder_heads)
            far = far_values(ids, image.shape[:2], patch, image.shape[2], ignored)
            parts[f"recon_{role}"].append(
                pixel_loss(pred, patches, ids, norm_pix, far if ignored else None)
            )
            if teacher is not None:
                seen = patches if teacher_view == "clean" else patches_of(mixed, patch)
                known = encode(seen, ids, teacher, heads)
                if head_space == "decoder":
                    known = linear(known, teacher, "decoder_embed")
                parts[f"latent_{role}"].append(((out - known.detach()) ** 2).mean())
    return {name: sum(values) / len(values) for name, values in parts.items()}
