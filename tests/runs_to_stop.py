"""The runs that tests/engine/stopped_runs.py stops and resumes."""

# Tasks, processes, and how the runs end: between two epochs and within one if images grow; in
# several ways if labels are no classes ("toy"). Two processes have numbers of their own to go on
# with: pairs, the statistics of a norm, dropped paths and mixed labels.
RUNS = [
    ("mae", 1, ["kill_7"]),
    ("imae", 2, ["kill_7"]),
    ("rmae", 1, ["kill_7"]),
    ("cmae", 1, ["kill_4", "kill_7"]),
    ("linear", 2, ["kill_7"]),
    ("finetune", 1, ["kill_7"]),
    ("finetune", 2, ["stop_5"]),
    ("toy", 1, ["kill_2", "stop_5"]),
]
