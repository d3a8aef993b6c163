"""Goroutine dumps as values, and who waits for whom in one. Pure; checkers and reports both read them."""
