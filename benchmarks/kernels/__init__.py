"""Each op against eager torch, torch.compile and a plain copy."""
