"""What comes when: the order of samples, their mixing partners and their random keys."""
