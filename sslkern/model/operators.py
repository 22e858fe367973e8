"""The operators of the model, by name: all whose kernels are their own."""

from __future__ import annotations

from sslkern.model.walking import WALKING
from sslkern.model.whole import WHOLE
from sslkern.model.work import Operator

OPERATORS: dict[str, Operator] = {op.name: op for op in (*WALKING, *WHOLE)}
