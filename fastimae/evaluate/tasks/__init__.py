"""The tasks of fastimae-eval: tasks/NAME.py is `fastimae-eval NAME`."""
