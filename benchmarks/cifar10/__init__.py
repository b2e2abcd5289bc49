"""The i-MAE paper's tables 1 to 4 on CIFAR-10, in as many minutes as there are."""
