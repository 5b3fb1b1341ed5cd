"""BERT question answering, from SQuAD records to INT8 answers: the domain under the DVC stages.

One subject a module, and imports only downward. The stages in `stages/` read params.yaml, call
this package and write outputs; nothing here knows that DVC exists.
"""
