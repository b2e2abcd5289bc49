"""How fast each way of loading images is, and whether its pixels are right.

    python -m benchmarks.loaders --data F.beton --folder DIR --out F.json

Every loader runs in its own process, so its memory and CPU time can be measured, and a crash harms
no other. They take turns, in another order each round. Importing this package imports no loader's
library.
"""
