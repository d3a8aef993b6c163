"""From what a hanging node says of itself to the known bug that it has: dumps, job lists and stacks in, a diagnosis out. Pure."""
