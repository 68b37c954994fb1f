"""Invitations as pictures: a QR code is drawn for others, and read from a file.

Drawing and reading are for desktops: on a phone the camera app reads the code, and hands on the text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pocketfl_app.enrolment import EnrolmentTextError, Site

FILE_LIMIT: Final = 8 * 2**20
SIDE_LIMIT: Final = 6000
"""Largest side in pixels: more than any screenshot's or camera's."""
_FORMATS: Final = ("PNG", "JPEG")


def read_picture(path: Path) -> str:
    """Return the text of the one QR code in a picture.

    Raises
    ------
    EnrolmentTextError
        If this is no picture, too large, or shows no code or several; or if what reads codes is not
        installed.
    """
    try:
        import zxingcpp
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise EnrolmentTextError(
            f"{error.name} is not installed here: scan the code with the camera app and paste its text"
        ) from None
    try:
        if path.stat().st_size > FILE_LIMIT:
            raise EnrolmentTextError(f"{path.name} is larger than {FILE_LIMIT // 2**20} MB")
        with Image.open(path, formats=_FORMATS) as picture:
            if max(picture.size) > SIDE_LIMIT:
                raise EnrolmentTextError(f"{path.name} has sides of more than {SIDE_LIMIT} pixels")
            found = zxingcpp.read_barcodes(
                picture.convert("L"), formats=zxingcpp.BarcodeFormat.QRCode
            )
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise EnrolmentTextError(f"{path.name} cannot be read as a picture ({error})") from None
    if len(found) != 1:
        raise EnrolmentTextError(
            f"{path.name} shows {'no QR code' if not found else f'{len(found)} QR codes, not one'}"
        )
    return str(found[0].text)


def write_picture(site: Site, path: Path) -> None:
    """Draw the invitation to a server as a QR code, in a PNG file."""
    import segno

    segno.make_qr(site.to_text(), error="m").save(str(path), kind="png", scale=8, border=4)
