"""The hub of the tests, for commands that ask it."""

from tests.hub.conftest import fake_hub, model_files

__all__ = ["fake_hub", "model_files"]
