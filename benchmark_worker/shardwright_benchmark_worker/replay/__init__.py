"""Runs a finished plan on the real ranks and compares what it costs with what was predicted."""
