"""A masked autoencoder in a LightningModule."""

import lightning
import torch

import fastimae
from fastimae.loaders import NormalizedPairs, create_loader

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class PreTraining(lightning.LightningModule):
    def __init__(self, model, args):
        super().__init__()
        self.model, self.args, self.losses = model, args, []

    def train_dataloader(self):
        loader = create_loader(
            data_path=self.args.data_path, input_size=(self.args.input_size,),
            batch_size=self.args.batch_size, rank=self.global_rank,
            world_size=self.trainer.world_size,
        )  # fmt: skip
        return NormalizedPairs(loader, MEAN, STD)

    def training_step(self, batch, number):
        images, _ = batch
        loss, _, _ = self.model(images, mask_ratio=0.75)
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.model.parameters(), lr=self.args.lr)


def train(model, args, **options):
    fastimae.accelerate(model)
    module = PreTraining(model, args)
    lightning.Trainer(max_epochs=args.epochs, accelerator=args.device, **options).fit(module)
    return module.losses
