"""The repeated blocks of any module: what strategies shard, checkpoint and compile one by one."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from torch import nn

from scalebench.errors import UserError, unknown_name

CONTAINERS = (nn.ModuleList, nn.Sequential, nn.ModuleDict)


def find_blocks(module: nn.Module) -> list[str]:
    """Names of the repeated blocks, in order: members of lists whose members with parameters are of one class.

    Lists inside of such members do not count. Of several classes the one with the most parameters does; lists of the
    same class count together, as the stages of a ResNet do. Empty when nothing is repeated.
    """
    found: dict[type[nn.Module], list[str]] = defaultdict(list)
    for name, container in module.named_modules():
        members = _members(container)
        inside = any(f"{name}.".startswith(f"{block}.") for blocks in found.values() for block in blocks)
        if not inside and len(members) > 1 and len({type(member) for member in members.values()}) == 1:
            found[type(next(iter(members.values())))] += [f"{name}.{key}".lstrip(".") for key in members]
    sizes = {kind: _elements(module, names) for kind, names in found.items()}
    largest = max(sizes, key=lambda kind: sizes[kind], default=None)
    return [] if largest is None else apart(module, found[largest])


def given_blocks(module: nn.Module, given: str | Sequence[str]) -> list[str]:
    """The blocks that `given` names: modules, containers (whose members are the blocks) or a class of modules.

    Raises UserError for a name that is none of these.
    """
    names = [part.strip() for part in given.split(",")] if isinstance(given, str) else list(given)
    blocks = [block for name in names for block in _named(module, name)]
    return outermost(dict.fromkeys(blocks))


def _named(module: nn.Module, name: str) -> list[str]:
    modules = dict(module.named_modules())
    of_class = [key for key, one in modules.items() if type(one).__name__ == name and key]
    if of_class:
        return of_class
    if not name or name not in modules:
        lists = [key for key, one in modules.items() if isinstance(one, CONTAINERS) and key]
        classes = {type(one).__name__ for one in modules.values() if _is_of_users(one)}
        raise unknown_name("block", name, [*lists, *classes] or [key for key in modules if key])
    inside = [f"{name}.{key}" for key in _members(modules[name])] if isinstance(modules[name], CONTAINERS) else [name]
    if not inside:
        raise UserError(f"workload.blocks={name} holds no module with parameters.")
    return inside


def _is_of_users(module: nn.Module) -> bool:
    return not type(module).__module__.startswith("torch.")


def _members(container: nn.Module) -> dict[str, nn.Module]:
    """The members of a list that have parameters."""
    if not isinstance(container, CONTAINERS):
        return {}
    return {key: member for key, member in container.named_children() if next(member.parameters(), None) is not None}


def apart(module: nn.Module, names: Sequence[str]) -> list[str]:
    """Those of `names` that share no parameter with anything outside: one that does cannot be sharded by itself."""
    owners: Counter[int] = Counter()
    for child in module.modules():
        owners.update(id(parameter) for parameter in child.parameters(recurse=False))
    alone = []
    for name in names:
        own: Counter[int] = Counter()
        for child in module.get_submodule(name).modules():
            own.update(id(parameter) for parameter in child.parameters(recurse=False))
        if all(owners[one] == count for one, count in own.items()):
            alone.append(name)
    return alone


def outermost(names: Iterator[str] | Sequence[str] | dict[str, None]) -> list[str]:
    """`names` without those that lie inside another."""
    known = list(names)
    return [name for name in known if not any(name.startswith(f"{other}.") for other in known)]


def _elements(module: nn.Module, names: Sequence[str]) -> int:
    return sum(parameter.numel() for name in names for parameter in module.get_submodule(name).parameters())
