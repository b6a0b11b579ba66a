"""Types of the options that several methods share."""

from typing import Annotated, Literal

from pydantic import Field

Weight = Annotated[float, Field(ge=0)]
Temperature = Annotated[float, Field(gt=0)]
Power = Annotated[float, Field(ge=1)]
Tap = Literal["e1", "e2", "e3", "e4", "e5", "d5", "d4", "d3", "d2"]
