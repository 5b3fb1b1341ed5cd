"""BERT question answering, from SQuAD records to INT8 answers: the domain under the DVC stages.

One subject a module, and imports only downward. The stages in `stages/` read params.yaml, call
this package and write outputs. It knows two things of DVC: where a run of it works
(`bert_qa.unfinished`), and the commands that make what is missing.
"""

import logging

from bert_qa.errors import UserError
from bert_qa.reader import Reader

__all__ = ["Reader", "UserError"]

# torchao says on import which of its GPU kernels it could not load, and torch how torchao uses an
# old way to register enums: nothing that a person here could act on.
logging.getLogger("torchao").setLevel(logging.ERROR)
logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
