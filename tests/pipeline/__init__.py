"""Tests that run stages, or train."""
