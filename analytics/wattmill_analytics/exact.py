"""Products and quotients of 64-bit integers whose product does not fit into 64 bits.

Everything that is billed is split and scaled here, to the last unit; nothing goes through a float.
"""

from __future__ import annotations

from wattmill_analytics.kernel import kernel

INT64_MAX = 2**63 - 1
_NEARLY_FULL = 9.2e18
_ROOM = 2**62
_HALF = 2**31


@kernel
def times(amount: int, factor: int, unit: int) -> int:
    """floor(amount x factor / unit) for amount, factor >= 0 and 0 < unit <= 2^31; INT64_MAX from 9.2e18 on."""
    if float(amount) * float(factor) >= _NEARLY_FULL * float(unit):
        return INT64_MAX
    rest = amount % unit
    return (amount // unit) * factor + rest * (factor // unit) + rest * (factor % unit) // unit


@kernel
def share(amount: int, part: int, whole: int) -> tuple[int, int]:
    """Quotient and remainder of amount x part / whole for amount >= 0 and 0 <= part <= whole, 0 < whole < 2^61.

    Long multiplication in digits of as many bits as `whole` leaves free, so that every step fits into 64 bits.
    """
    quotient = (amount // whole) * part
    rest = amount % whole
    if rest < _HALF and part < _HALF:
        product = rest * part
        return quotient + product // whole, product % whole
    bits = 1
    while bits < 31 and (whole << (bits + 1)) < _ROOM:
        bits += 1
    mask = (1 << bits) - 1
    carried = 0
    remainder = 0
    for digit in range(62 // bits, -1, -1):
        product = (remainder << bits) + rest * ((part >> (digit * bits)) & mask)
        carried = (carried << bits) + product // whole
        remainder = product % whole
    return quotient + carried, remainder
