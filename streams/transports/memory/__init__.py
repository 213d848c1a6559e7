"""A log in memory, and a transport over it: a whole system in one thread, for simulations and tests."""
