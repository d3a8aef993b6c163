"""Scenario files: the model, the strict parser, the JSON Schema."""
