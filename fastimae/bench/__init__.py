"""`fastimae-bench`: measure how fast this machine trains, and name its bottleneck."""
