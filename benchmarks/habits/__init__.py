"""A model class for each habit of the field, for tests and the benchmark of `accelerate`."""

from benchmarks.habits import forks, huggingface, lightly, timm_vits
from benchmarks.habits.base import SMALL, TINY, Habit, Size

HABITS = {
    habit.name: habit
    for habit in (
        *huggingface.HABITS, *timm_vits.HABITS, *lightly.HABITS, *forks.HABITS,
    )
}  # fmt: skip
"""All habits by name, in the order of tables."""

__all__ = ["HABITS", "SMALL", "TINY", "Habit", "Size"]
