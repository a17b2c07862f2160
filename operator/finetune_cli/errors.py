"""How a command says that it cannot go on: one exception with the message for the user and the exit code."""

EXIT_OK = 0
EXIT_PROBLEMS = 1  # problems were found, or the job failed
EXIT_USAGE = 2  # the command line itself is wrong
EXIT_CANCELLED = 130  # stopped by Ctrl-C


class CliError(Exception):
    """What went wrong and what to do about it; `main` prints it to stderr and exits with `code`."""

    def __init__(self, message: str, code: int = EXIT_PROBLEMS) -> None:
        super().__init__(message)
        self.code = code


class UsageError(CliError):
    """The command line is wrong: exit code 2, as argparse does."""

    def __init__(self, message: str) -> None:
        super().__init__(message, EXIT_USAGE)
