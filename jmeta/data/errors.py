"""The error of data that are missing, damaged or unfit."""


class DataError(Exception):
    """Data that are missing, damaged or unfit. The message is one line: the fault, its place, a remedy."""

    def __init__(self, what: str, where: object = None, advice: str = "") -> None:
        parts = [what if where is None else f"{what}: {where}", advice]
        super().__init__("; ".join(" ".join(part.split()) for part in parts if part))
