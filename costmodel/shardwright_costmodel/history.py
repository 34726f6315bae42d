"""Which version of a hardware profile is the promoted one, and which were before: one small file.

<root>/<hardware>/promoted.json
"""

from __future__ import annotations

import json
from enum import Enum
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError, model_validator

from shardwright_costmodel.bundle import PathName
from shardwright_costmodel.errors import BundleError

PROMOTIONS_NAME = "promoted.json"


class Action(Enum):
    """What changed the promoted version."""

    PROMOTE = "promote"
    ROLL_BACK = "roll_back"


class Promotion(BaseModel):
    """One change of the promoted version.

    Attributes:
        version: The promoted version from then on.
        action: What changed it.
        at: When.
        why: The reason, for people.
    """

    model_config = ConfigDict(frozen=True)

    version: PathName
    action: Action
    at: AwareDatetime
    why: str


class Promotions(BaseModel):
    """The promoted version of one hardware profile and how it came to be.

    Attributes:
        format_version: Of this file.
        promoted: The promoted version, that of the last entry of the history.
        history: Oldest first, at least one.
    """

    model_config = ConfigDict(frozen=True)

    format_version: Literal["1"] = "1"
    promoted: PathName
    history: tuple[Promotion, ...]

    @model_validator(mode="after")
    def _history_leads_to_promoted(self) -> Promotions:
        standing = self._standing()
        if [self.promoted] != standing[-1:]:
            raise ValueError(
                f"promoted is {self.promoted!r}, but its history leads to {standing[-1:]}"
            )
        return self

    def previous(self) -> str | None:
        """The version promoted before the present one; None when there was none.

        What was rolled back does not count: after promotions of A, B and C, rolling back gives B
        and then A.
        """
        standing = self._standing()
        return standing[-2] if len(standing) > 1 else None

    def _standing(self) -> list[str]:
        """The promotions that were not rolled back, oldest first."""
        standing: list[str] = []
        for entry in self.history:
            if entry.action is Action.ROLL_BACK:
                del standing[-1:]
            elif standing[-1:] != [entry.version]:
                standing.append(entry.version)
        return standing


def promotions_after(before: Promotions | None, entry: Promotion) -> Promotions:
    """The promotions with one more."""
    history = before.history if before is not None else ()
    return Promotions(promoted=entry.version, history=(*history, entry))


def encode_promotions(promotions: Promotions) -> bytes:
    """The content of `promoted.json`."""
    return promotions.model_dump_json(indent=1).encode() + b"\n"


def parse_promotions(content: bytes, place: str) -> Promotions:
    """Reads the content of `promoted.json`.

    Raises:
        BundleError: Naming the place and the fault.
    """
    try:
        payload = json.loads(content)
    except ValueError as error:
        raise BundleError(f"{place}: is not JSON: {error}{_REMEDY}") from error
    try:
        return Promotions.model_validate(payload)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc'])) or 'content'}: {fault['msg']}"
            for fault in error.errors()
        )
        raise BundleError(f"{place}: {faults}{_REMEDY}") from error


_REMEDY = "; 'shardwright-registry promote --force' begins a new one"
