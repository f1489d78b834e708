"""Lightning's classes, told by their names: `lightning` and `pytorch_lightning` have different ones, and neither is
imported for it."""

from __future__ import annotations

PACKAGES = ("lightning", "pytorch_lightning")


def is_a(value: object, name: str) -> bool:
    """Whether `value` is of the class `name` of Lightning, of either package."""
    return base_class(value, name) is not None


def base_class(value: object, name: str) -> type | None:
    """Lightning's own class `name` among those of `value`."""
    found = (kind for kind in type(value).__mro__ if kind.__name__ == name)
    return next((kind for kind in found if kind.__module__.partition(".")[0] in PACKAGES), None)


def overrides(value: object, hook: str, kind: str = "LightningModule") -> bool:
    """Whether the user's class has its own `hook`, other than that of Lightning's class `kind`."""
    own, base = getattr(type(value), hook, None), getattr(base_class(value, kind), hook, None)
    return own is not None and own is not base
