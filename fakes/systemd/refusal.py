"""An error answer: how every method says no."""

from __future__ import annotations

from typing import Protocol

from cgrace.fakes.systemd.profile import Profile


class Refusal(Exception):
    """A D-Bus error in the making: its name and text."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}")
        self.name = name
        self.text = text


class Refuse(Protocol):
    """Makes a Refusal from the profile's texts: `raise refuse("exists", unit=name)`."""

    def __call__(self, reason: str, **values: object) -> Refusal:
        """The refusal for this reason; `values` fill its text."""
        ...


def refuser(profile: Profile) -> Refuse:
    """How this version says no."""

    def refuse(reason: str, **values: object) -> Refusal:
        name, text = profile.refusals[reason]
        return Refusal(name, text.format(**values))

    return refuse
