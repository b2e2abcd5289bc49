"""A plain loop around a masked autoencoder and torchvision's images."""

import torch

import fastimae
from fastimae.loaders import DevicePrefetch, NormalizedPairs, create_loader

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def train(model, args):
    device = torch.device(args.device)
    model.to(device)
    fastimae.accelerate(model)
    loader = create_loader(
        data_path=args.data_path, input_size=(args.input_size,), batch_size=args.batch_size
    )
    loader = NormalizedPairs(DevicePrefetch(loader, device), MEAN, STD)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)
    losses = []
    for _ in range(args.epochs):
        for images, _ in loader:
            loss, _, _ = model(images.to(device), mask_ratio=0.75)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    return losses
