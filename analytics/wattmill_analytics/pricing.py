"""What energy costs under a tariff that changes: exact integers, so that a bill adds up in any order.

The same function weighs carbon: give micrograms per kWh and read picograms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wattmill_analytics.kernel import int64s, kernel

Int64s = NDArray[np.int64]

PICO_PARTS: Final = 3_600
"""mJ x (micro-units per kWh) / 3600 = pico-units: 1e-6 / 3.6e9 = 1e-12 / 3600."""
HIGHEST_MICRO: Final = 2**50


@dataclass(frozen=True, slots=True)
class Priced:
    """Costs int64 [n]: entry i costs exactly pico[i] + rest[i] / 3600 pico-units (1e-12) of the currency.

    rest is 0..3599, so that sums of pico and of rest stay exact in any order. unpriced_mj int64 [n] is the energy
    from before the first tariff: it has no cost, which is not a cost of 0.
    """

    pico: Int64s
    rest: Int64s
    unpriced_mj: Int64s


def price(*, energy_mj: Int64s, time_us: Int64s, valid_from_us: Int64s, micro_per_kwh: Int64s) -> Priced:
    """Prices energy with the tariff that is valid at its time.

    Shapes and units: energy_mj, time_us int64 [n], energy >= 0; valid_from_us int64 [k], strictly rising, and
    micro_per_kwh int64 [k], millionths of the currency per kWh, negative when power is paid to be taken.
    Returns: `Priced`, [n]: the last tariff with valid_from <= time holds.
    Errors: ValueError when shapes differ, tariffs are not sorted, energy is negative, or a cost does not fit into
    64 bits of pico-units (nine million of the currency).
    Accuracy: exact. Cost: O(n log k).
    Example: 3 600 000 000 mJ (1 kWh) at 120 000 micro -> 120 000 000 000 pico = 0.12.
    """
    energy_mj = int64s(energy_mj)
    time_us = int64s(time_us)
    valid_from_us = int64s(valid_from_us)
    micro_per_kwh = int64s(micro_per_kwh)
    if energy_mj.ndim != 1 or energy_mj.shape != time_us.shape:
        raise ValueError(f"energies and times must be equally long, not {energy_mj.shape} and {time_us.shape}")
    if valid_from_us.ndim != 1 or valid_from_us.shape != micro_per_kwh.shape:
        raise ValueError(f"each tariff needs one start and one price, not {valid_from_us.shape}, {micro_per_kwh.shape}")
    if (np.diff(valid_from_us) <= 0).any():
        raise ValueError("tariffs must be sorted by their start, one for each instant")
    if (energy_mj < 0).any():
        raise ValueError("energy must not be negative")
    most_micro = max((abs(int(micro)) for micro in micro_per_kwh), default=0)
    most_mj = int(energy_mj.max(initial=0))
    if most_micro > HIGHEST_MICRO or most_micro * most_mj >= 2**63 * PICO_PARTS:
        raise ValueError(
            f"{most_mj} mJ at {most_micro} micro per kWh cost more than 64 bits hold: price less at a time"
        )
    n = energy_mj.size
    priced = Priced(np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n, np.int64))
    _price(energy_mj, time_us, valid_from_us, micro_per_kwh, priced.pico, priced.rest, priced.unpriced_mj)
    return priced


@kernel
def _price(
    energy_mj: Int64s,
    time_us: Int64s,
    valid_from_us: Int64s,
    micro_per_kwh: Int64s,
    pico: Int64s,
    rest: Int64s,
    unpriced_mj: Int64s,
) -> None:
    for i in range(energy_mj.size):
        tariff = np.searchsorted(valid_from_us, time_us[i], side="right") - 1
        if tariff < 0:
            unpriced_mj[i] = energy_mj[i]
            continue
        micro = micro_per_kwh[tariff]
        remaining = (energy_mj[i] % PICO_PARTS) * micro
        pico[i] = (energy_mj[i] // PICO_PARTS) * micro + remaining // PICO_PARTS
        rest[i] = remaining % PICO_PARTS
