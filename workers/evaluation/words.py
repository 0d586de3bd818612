"""Numbers as people read them."""

import math


def amount(value: float, unit: str) -> str:
    """A value with its unit: shares as percent, bytes in their powers of 1000.

    A number that needs it keeps three significant digits.
    """
    if unit == "fraction":
        percent = value * 100
        return f"{percent:.{_digits(min(abs(percent), abs(100 - percent)))}f} %"
    if unit == "bytes":
        return _bytes(value)
    return f"{plain(value)}{'' if unit == '1' else ' ' + unit}"


def difference(value: float, unit: str) -> str:
    """A difference of two values; of shares in points of percent."""
    if unit == "fraction":
        points = value * 100
        return f"{points:.{_digits(points)}f} points"
    return amount(value, unit)


def plain(value: float) -> str:
    """Three significant digits, without an exponent where that stays short."""
    if not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    if 1e-4 <= abs(value) < 1e6:
        digits = max(2 - math.floor(math.log10(abs(value))), 0)
        return f"{value:.{digits}f}"
    return f"{value:.2e}"


def times(ratio: float) -> str:
    """A factor, with two digits after the point below ten."""
    return f"{ratio:.2f} ×" if ratio < 10 else f"{ratio:.1f} ×"


def _digits(percent: float) -> int:
    """Enough digits to tell small percentages apart, one for the others."""
    if percent == 0 or abs(percent) >= 0.1:
        return 1
    return min(-math.floor(math.log10(abs(percent))), 6)


def _bytes(value: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(value) >= size:
            return f"{plain(value / size)} {unit}"
    return f"{value:.0f} bytes"
