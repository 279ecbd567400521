"""Deciding: pure functions over values. No clock, disk, network, randomness or logging: `now` is an argument."""
