"""What all models of site files have in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Keys(BaseModel):
    """Base of all: immutable, no unknown keys, numbers must be finite, no silent coercion."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        populate_by_name=True,
        defer_build=True,  # most are only parts of others, and a start waits for each
    )


Seconds = Annotated[float, Field(gt=0, le=31_536_000)]  # up to a year
DelaySeconds = Annotated[float, Field(ge=0, le=31_536_000)]
