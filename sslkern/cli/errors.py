"""What a subcommand raises when the user, not the program, has to change something."""


class UserError(Exception):
    """Printed as one line, without a traceback; the exit code is 2."""
