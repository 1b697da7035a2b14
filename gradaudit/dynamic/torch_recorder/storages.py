"""Parameters that are several objects and one storage: `p_target.data = p.data`."""

from __future__ import annotations

from collections.abc import Iterable

from gradaudit.dynamic.torch_recorder.reach import Owned


def one_storage(owned: Iterable[Owned]) -> dict[str, list[str]]:
    """First name -> all names of the other parameters whose values are the very same memory."""
    places: dict[tuple[int, int], list[Owned]] = {}
    for one in owned:
        pointer = one.tensor.data_ptr() if one.tensor.device.type != "meta" else 0
        if one.tensor.numel() and pointer:  # a sharded one (DTensor) has none of its own
            places.setdefault((pointer, one.tensor.numel()), []).append(one)
    return {
        one.name: [name for other in group if other is not one for name in (other.name, *other.others)]
        for group in places.values()
        if len(group) > 1
        for one in group
    }
