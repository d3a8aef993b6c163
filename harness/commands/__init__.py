"""What each `cgrace` command does. cli.py holds the grammar; a command gets its parsed arguments and gives an exit code."""

EXIT_OK = 0
EXIT_DIFFERED = 1  # a verdict differed from what was expected
EXIT_CANNOT = 2  # bad input, or the machine cannot
EXIT_SKIP = 125  # of bisect-step: no verdict, as git bisect understands it
EXIT_INTERRUPTED = 130
EXIT_PIPE = 141  # as a shell says SIGPIPE: whoever read our output has gone
