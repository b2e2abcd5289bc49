"""A trainer in the style of facebookresearch/mae: a distributed sampler, an epoch function, AMP."""

import torch

import fastimae
from fastimae.loaders import DevicePrefetch, NormalizedPairs, create_loader

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def train_one_epoch(model, data_loader, optimizer, device, scaler, args):
    model.train(True)
    losses = []
    for step, (samples, _) in enumerate(data_loader):
        samples = samples.to(device, non_blocking=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=args.amp):
            loss, _, _ = model(samples, mask_ratio=args.mask_ratio)
        scaler.scale(loss / args.accum_iter).backward()
        if (step + 1) % args.accum_iter == 0:
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def main(model, args):
    device = torch.device(args.device)
    loader = create_loader(
        data_path=args.data_path, input_size=(args.input_size,), batch_size=args.batch_size,
        rank=args.rank, world_size=args.world_size,
    )  # fmt: skip
    data_loader_train = NormalizedPairs(DevicePrefetch(loader, device), MEAN, STD)
    model.to(device)
    fastimae.accelerate(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.95))
    scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")
    losses = []
    for epoch in range(args.epochs):
        data_loader_train.sampler.set_epoch(epoch)
        losses += train_one_epoch(model, data_loader_train, optimizer, device, scaler, args)
    return losses
