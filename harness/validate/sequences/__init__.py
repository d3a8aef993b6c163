"""Drawn sequences of calls, run on two systemds side by side, one of them mostly the fake; what a driver could see is compared."""
