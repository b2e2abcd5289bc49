"""Hints in messages on how to change a setting: by a flag of the current command, or in Python."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Hints:
    """What to write for each setting, by name. Settings without an entry cannot be set here."""

    written: Mapping[str, str]

    @classmethod
    def of(cls, *options: type, **renamed: str) -> Hints:
        """Return the flags of a command's options; renamed: setting=flag, if their names differ."""
        names = {field.name for each in options for field in dataclasses.fields(each)}
        flags = {name: f"--{name}" for name in names}
        return cls(flags | {name: f"--{flag}" for name, flag in renamed.items() if flag in names})

    def to_set(self, *settings: str) -> str:
        """Return how to set them: "--mean and --std", by fastimae-import if the command cannot."""
        flags = [self.written.get(name, f"fastimae-import --{name}") for name in settings]
        return " and ".join(filter(None, (", ".join(flags[:-1]), flags[-1])))

    def without(self, setting: str) -> Hints:
        """Return the hints of a command whose flag of that name means something else."""
        return Hints({name: flag for name, flag in self.written.items() if name != setting})

    def suggest(self, setting: str, effect: str) -> str:
        """Return the flag and its effect: "; --allow_partial loads it", or "" without a flag."""
        return f"; {self.written[setting]} {effect}" if setting in self.written else ""

    def with_flag(self, setting: str, path: object) -> str:
        """Return a path that the user gave, after the flag for it if there is one."""
        return f"{self.written[setting]} {path}" if setting in self.written else str(path)

    def to_resize(self) -> str:
        """Return how to build a model of another size, if the command has a flag for that."""
        flag = self.written.get("model", "")
        return f": change {flag}" if flag.startswith("--") else ""


IN_PYTHON = Hints(
    {"model": "name", "input_size": "img_size"}
    | {
        "allow_partial": "allow_partial=True",
        "use_ema": "use_ema=True",
        "encoder_only": "encoder_only=True",
    }
    | {name: name for name in ("num_heads", "decoder_num_heads", "norm_pix_loss", "mean", "std")}
)
"""Arguments of `load_model`."""
