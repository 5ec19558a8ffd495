"""Boards as text on a terminal."""


def print_boards(boards: list[tuple[str, list[str]]]) -> None:
    """Prints titled boards side by side.

    Args:
        boards (`list[tuple[str, list[str]]]`): titles and lines of boards of one puzzle, the first without colours:
            lines that hold colours are longer than they look, so the width of all is taken from its first line.
    """
    board_width = len(boards[0][1][0])
    widths = [max(board_width, len(title)) for title, _ in boards]
    print("    ".join(title.ljust(width) for (title, _), width in zip(boards, widths, strict=True)).rstrip())
    for lines in zip(*(lines for _, lines in boards), strict=True):
        padded = (line + " " * (width - board_width) for line, width in zip(lines, widths, strict=True))
        print("    ".join(padded).rstrip())
