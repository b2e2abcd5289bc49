"""Convert, pre-train, stop and resume in four minutes on two CPU cores: `make demo`."""
