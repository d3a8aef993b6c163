"""The table that can be published: every scenario by every driver."""
