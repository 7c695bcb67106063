"""What a snapshot of a network on a GPU costs the training, beside one copy after the other and one copy of the same bytes.

    python benchmarks/gpu_snapshot.py [--quick] [--json FILE]

A network and its Adam moments are copied to the CPU's memory: as `state_dict()` with `.cpu()` for each tensor, as
`StateDictCopies` does it, and as one tensor of as many bytes into pinned memory, which is the limit. The three take turns.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from machine import Target, arguments, describe_machine, finish, machine_line, median, paired_ratio, table

from unbroken.capture.state_dicts import StateDictCopies

WIDTHS = (64, 1024, 4096)
LAYERS = 6


def trained(width: int) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """Layers of this width after one step of Adam."""
    model = torch.nn.Sequential(*(torch.nn.Linear(width, width) for _ in range(LAYERS))).cuda()
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(8, width, device="cuda")).square().mean().backward()
    optimizer.step()
    return model, optimizer


def one_by_one(value: Any) -> Any:
    """The nest with every tensor copied to the CPU."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: one_by_one(item) for key, item in value.items()}
    return value


def seconds(deed: Callable[[], Any]) -> float:
    """Time of a deed that begins and ends with an idle GPU."""
    torch.cuda.synchronize()
    started = time.perf_counter()
    deed()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def measure(width: int, repetitions: int) -> tuple[int, list[list[float]]]:
    """Bytes, and the times of the three ways."""
    model, optimizer = trained(width)
    holders = {"model": model, "optimizer": optimizer}
    moments = (value for state in optimizer.state.values() for value in state.values())
    size = sum(value.nbytes for value in [*model.state_dict().values(), *moments])
    whole = torch.zeros(size, dtype=torch.uint8, device="cuda")
    pinned = torch.empty(size, dtype=torch.uint8, pin_memory=True)
    copies = StateDictCopies()
    ways: list[Callable[[], Any]] = [
        lambda: [one_by_one(holder.state_dict()) for holder in holders.values()],
        lambda: copies.take(holders),
        lambda: pinned.copy_(whole, non_blocking=True),
    ]
    times: list[list[float]] = [[] for _ in ways]
    for turn in range(repetitions + 1):
        for found, way in zip(times, ways, strict=True):
            if turn == 0:
                way()
            else:
                found.append(seconds(way))
    return size, times


def main() -> int:
    """Measure all sizes and print the table."""
    options = arguments(__doc__.partition("\n")[0])
    if not torch.cuda.is_available():
        print("There is no CUDA device here.")
        return 0
    machine = {**describe_machine(), "gpu": torch.cuda.get_device_name(0)}
    rows, targets, raw = [], [], {}
    for width in WIDTHS:
        size, (naive, ours, limit) = measure(width, 5 if options.quick else 21)
        ratios = paired_ratio(ours, naive), paired_ratio(ours, limit)
        cells = (f"{1e3 * median(times):.3f} / {1e3 * max(times):.3f}" for times in (naive, ours, limit))
        rows.append([f"{LAYERS} x {width}", f"{size / 1e6:.1f}", *cells, *(f"{ratio:.2f}" for ratio in ratios)])
        targets.append(Target(f"{LAYERS} x {width}: ours / one by one", ratios[0], 1.0))
        raw[str(width)] = {"bytes": size, "one_by_one": naive, "ours": ours, "limit": limit}
    head = ("layers", "MB", "one by one ms", "ours ms", "one copy ms", "ours/one by one", "ours/one copy")
    text = f"{machine_line(machine)}, {machine['gpu']}\nMedian / worst. Weights and Adam's moments.\n\n{table(head, rows)}\n"
    return finish(text, {"machine": machine, "sizes": raw}, targets, options)


if __name__ == "__main__":
    sys.exit(main())
