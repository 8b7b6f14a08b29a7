"""The one error that data can cause."""


class DataError(Exception):
    """Data that is missing, damaged or unfit; the message is one line: what is wrong, where, what to do."""

    def __init__(self, what: str, where: object = None, advice: str = "") -> None:
        parts = [what if where is None else f"{what}: {where}", advice]
        super().__init__("; ".join(" ".join(part.split()) for part in parts if part))
