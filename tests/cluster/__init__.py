"""Tests of releases, of the container and of cloud/, against Azurite and loopback servers."""
