"""Plug-in domains. Each implements ``core.interfaces.Domain`` and registers under the entry-point group."""
