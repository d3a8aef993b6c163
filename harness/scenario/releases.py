"""Released versions, and ranges of them, as expectations name them: "runc 1.0.0-rc93..1.1.5".

A release is PRODUCT@VERSION ("runc@1.1.5", "cgroups@0.1.0"). A range is PRODUCT, or PRODUCT VERSION, or PRODUCT FIRST..LAST,
both ends included and either of them open. Versions are ordered as semantic versions are: a candidate before its release,
rc9 before rc10. What comes behind a "+" is a build of its own, with other parts, and has to be named as such.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

RANGE_PATTERN = r"^[a-z][a-z0-9-]*( ([0-9][0-9A-Za-z.+@-]*)?(\.\.([0-9][0-9A-Za-z.+@-]*)?)?)?$"
_VERSION = re.compile(r"v?([0-9]+)(?:\.([0-9]+))?(?:\.([0-9]+))?(?:-([0-9A-Za-z.-]+))?(?:\+(.*))?")
_PARTS = re.compile(r"[0-9]+|[A-Za-z]+")
_Key = tuple[tuple[int, ...], tuple[tuple[int, int, str], ...]]


@functools.lru_cache(maxsize=1024)
def order(version: str) -> _Key:
    """What versions compare by. ValueError where this is none ("1.0.0-rc93" is one, and so is "1.1")."""
    found = _VERSION.fullmatch(version)
    if found is None:
        raise ValueError(f"{version!r} is not a version such as 1.1.5 or 1.0.0-rc93")
    numbers = tuple(int(part or 0) for part in found.groups()[:3])
    candidate = found[4]
    if candidate is None:
        return numbers, ((2, 0, ""),)
    return numbers, tuple((0, int(p), "") if p.isdigit() else (1, 0, p) for p in _PARTS.findall(candidate))


def is_before(one: str, other: str) -> bool | None:
    """Whether a version is older than another; None when one of them is no version."""
    try:
        return order(one) < order(other)
    except ValueError:
        return None


def _build(version: str) -> str:
    return version.partition("+")[2]


@dataclass(frozen=True, slots=True)
class Releases:
    """A range: first and last are versions, "" for an open end."""

    product: str
    first: str = ""
    last: str = ""

    @classmethod
    def parse(cls, text: str) -> Releases:
        """ValueError with what is wrong where the text is no range."""
        product, _, versions = text.partition(" ")
        first, dots, last = versions.partition("..")
        found = cls(product, first, last if dots else first)
        for version in filter(None, (found.first, found.last)):
            order(version)
        if found.first and found.last and order(found.first) > order(found.last):
            raise ValueError(f"{text!r} ends before it begins")
        return found

    def __contains__(self, release: str) -> bool:
        product, _, version = release.partition("@")
        if product != self.product or not version:
            return False
        if _build(version) != (_build(self.first) or _build(self.last)):
            return False
        key = order(version)
        return (not self.first or order(self.first) <= key) and (not self.last or key <= order(self.last))


def trouble(text: str) -> str:
    """What is wrong with a range, "" for nothing."""
    if not re.match(RANGE_PATTERN, text):
        return "expected releases such as 'runc 1.0.0-rc93..1.1.5', 'cgroups ..0.0.9' or 'crun'"
    try:
        Releases.parse(text)
    except ValueError as error:
        return str(error)
    return ""


@functools.lru_cache(maxsize=256)
def _parsed(text: str) -> Releases:
    return Releases.parse(text)


def among(release: str, ranges: tuple[str, ...]) -> bool:
    """Whether a release ("" for what was never released: never) is in one of the ranges."""
    return bool(release) and any(release in _parsed(text) for text in ranges)
