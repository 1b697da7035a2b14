"""Parameters that are several objects and one storage: `p_target.data = p.data`."""

from __future__ import annotations

from collections.abc import Iterable

from gradaudit.dynamic.torch_recorder.reach import Owned


def one_storage(owned: Iterable[Owned]) -> dict[str, list[str]]:
    """First name -> all names of the other parameters whose values are the very same memory."""
    places: dict[tuple[int, int], list[Owned]] = {}
    for one in owned:
        if one.tensor.numel() and one.tensor.device.type != "meta":
            places.setdefault((one.tensor.data_ptr(), one.tensor.numel()), []).append(one)
    return {
        one.name: [name for other in group if other is not one for name in (other.name, *other.others)]
        for group in places.values()
        if len(group) > 1
        for one in group
    }
