"""Training on small data: images kept on the device, against loaders that decode each one anew."""
