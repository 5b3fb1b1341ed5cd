"""Versions of the model, the container that holds them, and pushing. Not installed with bert_qa."""
