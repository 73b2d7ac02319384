"""The one exception type for everything a user can put right."""


class UserError(Exception):
    """Something the user can fix: a missing file, a wrong name, a checkpoint of another encoder.

    The message names the file or value, says what was expected and what to do next. The command
    line prints it as one line, without a traceback.
    """

    def __init__(self, message: str) -> None:
        # What a DataLoader's process raises, torch raises again with a traceback as its text.
        super().__init__(message.rpartition(f"{__name__}.{type(self).__name__}: ")[2].rstrip())
