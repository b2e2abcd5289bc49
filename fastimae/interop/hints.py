"""How a user changes a setting: by the flag that the command at hand has, or in Python."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Hints:
    """What to write for a setting, by its name. A setting without an entry has no way here."""

    written: Mapping[str, str]

    @classmethod
    def of(cls, *options: type, **renamed: str) -> Hints:
        """The flags of a command's options; renamed: settings whose flag is called otherwise."""
        names = {field.name for each in options for field in dataclasses.fields(each)}
        flags = {name: f"--{name}" for name in names}
        return cls(flags | {name: f"--{flag}" for name, flag in renamed.items() if flag in names})

    def to_set(self, *settings: str) -> str:
        """How to set them, "--mean and --std"; fastimae-import can where the command cannot."""
        ways = [self.written.get(name, f"fastimae-import --{name}") for name in settings]
        return " and ".join(filter(None, (", ".join(ways[:-1]), ways[-1])))

    def without(self, setting: str) -> Hints:
        """The same, of a command whose flag of that name means something else."""
        return Hints({name: way for name, way in self.written.items() if name != setting})

    def if_any(self, setting: str, what: str) -> str:
        """`what` follows the flag: "; --allow_partial loads it", or nothing without a flag."""
        return f"; {self.written[setting]} {what}" if setting in self.written else ""

    def file(self, setting: str, path: object) -> str:
        """A file that the user gave, after the flag for it where there is one."""
        return f"{self.written[setting]} {path}" if setting in self.written else str(path)

    def resize(self) -> str:
        """How to make a model of other sizes, where flags choose them."""
        flags = [self.written.get(name, "") for name in ("model", "input_size")]
        return f": change {' or '.join(flags)}" if all(f.startswith("--") for f in flags) else ""


IN_PYTHON = Hints(
    {"model": "name", "input_size": "img_size"}
    | {"allow_partial": "allow_partial=True", "use_ema": "use_ema=True"}
    | {name: name for name in ("num_heads", "decoder_num_heads", "norm_pix_loss", "mean", "std")}
)
"""Arguments of `load_model`."""
