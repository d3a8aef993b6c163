"""What the project promises in numbers, measured: `python -m bench` lists the benches, `python -m bench NAME` runs one."""
