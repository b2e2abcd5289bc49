"""A masked autoencoder in a LightningModule."""

import lightning
import torch
from torchvision import datasets, transforms

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class PreTraining(lightning.LightningModule):
    def __init__(self, model, args):
        super().__init__()
        self.model, self.args, self.losses = model, args, []

    def train_dataloader(self):
        transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(self.args.input_size, scale=(0.2, 1.0)),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )
        dataset = datasets.ImageFolder(self.args.data_path, transform)
        return torch.utils.data.DataLoader(
            dataset, batch_size=self.args.batch_size, shuffle=True, drop_last=True
        )

    def training_step(self, batch, number):
        images, _ = batch
        loss, _, _ = self.model(images, mask_ratio=0.75)
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.model.parameters(), lr=self.args.lr)


def train(model, args, **options):
    module = PreTraining(model, args)
    lightning.Trainer(max_epochs=args.epochs, accelerator=args.device, **options).fit(module)
    return module.losses
