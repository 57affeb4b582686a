"""How numbers, sizes, times and other people's text are written for a reader.

Example::

    number(0.8614), amount(1_234_567), duration(185)     # '0.861', '1.2 MB', '3:05'
"""

__all__ = ["amount", "clock", "duration", "number", "plain"]


def plain(text: str) -> str:
    """Text with every control character made visible: sites choose their reasons, and a terminal obeys escapes."""
    return "".join(letter if letter.isprintable() else _visible(letter) for letter in text)


def _visible(letter: str) -> str:
    return " " if letter in "\n\t" else f"\\x{ord(letter):02x}"


def number(value: float | None, digits: int = 3) -> str:
    """A number with fixed digits; ``-`` where there is none (a site may keep it private)."""
    return "-" if value is None else f"{value:.{digits}f}"


def amount(size_bytes: int | None) -> str:
    """Bytes in the unit that reads best, decimal: ``1.2 MB``."""
    if size_bytes is None:
        return "-"
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 99.5 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def duration(seconds: float | None) -> str:
    """Seconds as people say them: ``0.4 s``, ``12 s``, ``3:05``, ``1:02:09``."""
    if seconds is None:
        return "-"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else clock(whole)


def clock(seconds: float) -> str:
    """Minutes and seconds, with hours when there are any: ``0:07``, ``1:02:09``."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
