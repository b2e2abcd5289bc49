"""The products of an MLP with their epilogues: our kernel's blocks, torch and cuBLASLt."""
