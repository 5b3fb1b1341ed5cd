"""Parameters against the processor that they are for.

What `qa.params` cannot tell, and a later stage would find out when DVC has removed its outputs.
"""

from __future__ import annotations

from qa.errors import UserError
from qa.params import Params
from qa.processor import check_sessions, has_bf16


def check_machine(params: Params) -> None:
    """Check that the processor answers in the types that are asked for, and has the cores.

    Raises:
        UserError: it does not.
    """
    for section, answering in (("infer", params.infer), ("evaluate", params.evaluate)):
        if answering.precision == "bf16" and not has_bf16():
            raise UserError(
                f"params.yaml: {section}.precision: found 'bf16', which this processor lacks;"
                " set fp32"
            )
    check_sessions(params.infer.sessions)
