"""A speedrun: how fast can a tiny ViT learn CIFAR-10 without labels? The rules: README.md."""
