"""How fast each way of loading images is, and whether it shows the right pixels.

    python -m benchmarks.loaders --data F.beton --folder DIR --out F.json

Every contestant lives in a process of its own, so that memory and CPU time are its own and a
crash is only its own. They take turns, in another order each round. Importing this package
imports no contestant's library.
"""
