"""The runs that tests/engine/stopped_runs.py stops and resumes."""

# Tasks, processes, and how the runs end: in several ways if the task draws dropped paths and mixed
# labels; between two epochs and within one if images grow.
# "toy" trains with labels that are no classes.
RUNS = [
    ("mae", 1, ["kill_7"]),
    ("imae", 2, ["kill_7"]),
    ("rmae", 1, ["kill_7"]),
    ("cmae", 2, ["kill_4", "kill_7"]),
    ("linear", 2, ["kill_7"]),
    ("finetune", 1, ["kill_2", "stop_5"]),
    ("finetune", 2, ["kill_7", "stop_5"]),
    ("toy", 1, ["kill_2", "stop_5"]),
    ("toy", 2, ["kill_7"]),
]
