"""Parameters against the processor that they are for.

What `bert_qa.params` cannot tell, and a later stage would find out after DVC removed its outputs.
"""

from __future__ import annotations

from bert_qa.cpu import check_sessions, has_bf16
from bert_qa.errors import UserError
from bert_qa.params import Params


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
