"""Does a text hold personal data? Patterns, with a check digit where the number has one.

A simple filter (InstructGPT, 3.2): it finds what has a fixed form, not names or places.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[A-Za-z]{2,}\b")
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)")
_IPV6 = re.compile(r"(?<![\w:])(?:[0-9A-Fa-f]{1,4}:){7}[0-9A-Fa-f]{1,4}(?![\w:])")
# in one piece or in groups as printed on cards: lists of digits, dates and pairs of digits are none
_CARD = re.compile(r"(?<![\w-])(?:\d{13,19}|\d{4}(?:[ -]\d{4,6}){2,3}(?:[ -]\d{3})?)(?![\w-])")
_ACCOUNT = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
_SOCIAL = re.compile(r"(?<![\w-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-])")
# after + digits that one mark at most parts, so that signed numbers are none; else as in North
# America, where neither area code nor exchange begins with 0 or 1
_PHONE = re.compile(
    r"(?<![\w+.-])(?:\+[1-9](?:[ .-]?\(?\d\)?){7,14}"
    r"|(?:1[ .-])?(?:\([2-9]\d{2}\) ?|[2-9]\d{2}[ .-])[2-9]\d{2}[ .-]\d{4})(?![\w-])"
)


def find_personal(text: str) -> str | None:
    """Name the first kind of personal data that `text` holds, such as "e-mail address"; or None."""
    return next((kind for kind, found in _KINDS if found(text)), None)


def luhn(digits: str) -> bool:
    """Say whether the last of `digits` is the Luhn check digit of the others (ISO/IEC 7812)."""
    doubled = [int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits))]
    return sum(value - 9 if value > 9 else value for value in doubled) % 10 == 0


def iban(text: str) -> bool:
    """Say whether an account number without blanks has the check digits of ISO 13616."""
    moved = text[4:] + text[:4]
    return int("".join(str(int(character, 36)) for character in moved)) % 97 == 1


def _card(text: str) -> bool:
    numbers = (re.sub(r"\D", "", found) for found in _CARD.findall(text))
    return any(len(set(digits)) > 1 and luhn(digits) for digits in numbers)


def _account(text: str) -> bool:
    return any(iban(found.replace(" ", "")) for found in _ACCOUNT.findall(text))


def _ipv4(text: str) -> bool:
    return any(
        all(int(part) < 256 for part in found.split(".")) and found != "0.0.0.0"
        for found in _IPV4.findall(text)
    )


def _phone(text: str) -> bool:
    return any(8 <= len(re.sub(r"\D", "", found)) <= 15 for found in _PHONE.findall(text))


def _has(pattern: re.Pattern[str]) -> Callable[[str], bool]:
    return lambda text: pattern.search(text) is not None


_KINDS: tuple[tuple[str, Callable[[str], bool]], ...] = (
    ("e-mail address", _has(_EMAIL)),
    ("card number", _card),
    ("account number", _account),
    ("social security number", _has(_SOCIAL)),
    ("internet address", lambda text: _ipv4(text) or _IPV6.search(text) is not None),
    ("phone number", _phone),
)
