"""A trainer in the style of facebookresearch/mae: a distributed sampler, an epoch function, AMP."""

import torch
from torch.utils.data import DataLoader, DistributedSampler
from torchvision import datasets, transforms

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
    transform_train = transforms.Compose(
        [
            transforms.RandomResizedCrop(args.input_size, scale=(0.2, 1.0), interpolation=3),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    dataset_train = datasets.ImageFolder(args.data_path, transform=transform_train)
    sampler_train = DistributedSampler(dataset_train, args.world_size, args.rank, shuffle=True)
    data_loader_train = DataLoader(
        dataset_train, sampler=sampler_train, batch_size=args.batch_size, drop_last=True
    )
    model.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.95))
    scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")
    losses = []
    for epoch in range(args.epochs):
        data_loader_train.sampler.set_epoch(epoch)
        losses += train_one_epoch(model, data_loader_train, optimizer, device, scaler, args)
    return losses
