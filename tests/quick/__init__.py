"""Tests that need no reproduced pipeline: `make check` runs them."""
