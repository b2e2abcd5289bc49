"""A loop with Hugging Face's Accelerate."""

import torch
from accelerate import Accelerator

import fastimae
from fastimae.loaders import DevicePrefetch, NormalizedPairs, create_loader

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def train(model, args):
    accelerator = Accelerator(cpu=args.device == "cpu")
    loader = create_loader(
        data_path=args.data_path, input_size=(args.input_size,), batch_size=args.batch_size,
        rank=accelerator.process_index, world_size=accelerator.num_processes,
    )  # fmt: skip
    loader = NormalizedPairs(DevicePrefetch(loader, accelerator.device), MEAN, STD)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)
    model, optimizer = accelerator.prepare(fastimae.accelerate(model), optimizer)
    losses = []
    for _ in range(args.epochs):
        for images, _ in loader:
            loss, _, _ = model(images, mask_ratio=0.75)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    return losses
