"""A loader whose batches lie on the device, made from those of another loader."""

import dataclasses

import torch

from fastimae.loaders import DevicePrefetch


class Resident:
    """A `ResidentEpoch`: all batches of an epoch as tensors, and a counter of those handed out."""

    def __init__(self, loader):
        self.loader, self.counter, self.epoch = loader, torch.zeros(1, dtype=torch.int64), None
        self.begun = []

    def begin(self, epoch, step):
        self.begun.append((epoch, step))
        if (epoch, self.loader.shape) != self.epoch:
            self.loader.set_epoch(epoch)
            self._keep(list(self.loader))
            self.epoch = epoch, self.loader.shape
        self.loader._step = step
        self.counter.fill_(step)

    def batch(self):
        fields = {name: all_.index_select(0, self.counter)[0] for name, all_ in self.all.items()}
        self.counter += 1
        return dataclasses.replace(self.like, **fields)

    def advance(self, count):
        self.loader._step += count

    def _keep(self, batches):
        self.like, old = batches[0], getattr(self, "all", {})
        names = [field.name for field in dataclasses.fields(self.like)]
        self.all = {name: torch.stack([getattr(x, name) for x in batches]) for name in names}
        for name, tensor in old.items():  # graphs read where the first epoch was
            if tensor.shape == self.all[name].shape:
                self.all[name] = tensor.copy_(self.all[name])


class ResidentLoader(DevicePrefetch):
    """Offers a CPU loader's epochs as resident ones, too."""

    resident = None

    def __init__(self, loader, device="cpu"):
        super().__init__(loader, device)
        self.resident = Resident(loader)
