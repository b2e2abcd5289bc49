"""Global memory accesses in PTX, each traced from its address back to a kernel parameter."""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Mapping

UNKNOWN = "a tensor unknown"  # its address went through shared memory


@dataclasses.dataclass(frozen=True)
class Access:
    """A kind of global memory instruction: whether it loads, through which pointer, its width."""

    loads: bool
    pointer: str
    width: int


def memory_accesses(ptx: str, parameters: list[str]) -> set[Access]:
    """Return the kinds of global memory accesses. parameters: the kernel's, in order."""
    sources: dict[str, set[str]] = defaultdict(set)
    found = []
    for name, operands in re.findall(r"^\s*(?:@!?%p\d+ )?\s*([a-z][\w.:]+)\s+(.*?);", ptx, re.M):
        if ".bulk" in name:
            continue
        if ".global" in name and name.startswith(("ld.", "st.", "cp.async")):
            address = re.findall(r"\[\s*(%\w+)", operands)[-1]
            found.append((not name.startswith("st."), address, _width(name, operands)))
        elif name.startswith("ld.param"):
            number = int(re.search(r"_param_(\d+)", operands)[1])
            sources[re.search(r"%\w+", operands)[0]].update(parameters[number : number + 1])
        elif not name.startswith("ld."):  # what a load brings is an index, never an address
            result, *rest = re.findall(r"%\w+", operands) or ["%none"]
            sources[result].update(rest)
    return {
        Access(loads, pointer, width)
        for loads, address, width in found
        for pointer in {x for x in _roots(address, sources) if x.endswith("_ptr")} or {UNKNOWN}
    }


def _width(name: str, operands: str) -> int:
    """Return the bytes that one thread moves with an instruction."""
    if name.startswith("cp.async"):
        return int(operands.split("]", 2)[2].strip(" ,").split(",")[0], 0)
    vector = re.search(r"\.v(\d)", name)
    return int(re.search(r"\.[busf](\d+)$", name)[1]) // 8 * (int(vector[1]) if vector else 1)


def _roots(register: str, sources: Mapping[str, set[str]]) -> set[str]:
    """Return the parameters that a register was computed from."""
    roots, seen, pending = set(), set(), [register]
    while pending:
        name = pending.pop()
        if not name.startswith("%"):
            roots.add(name)
        elif name not in seen:
            seen.add(name)
            pending.extend(sources.get(name, ()))
    return roots
