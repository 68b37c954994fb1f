"""Pieces without a window: drawings, invitations, settings, sentences."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketfl.store import ExampleStore
from pocketfl_app import strings
from pocketfl_app.device.drawings import HELD_OUT, TRAINING, Drawings
from pocketfl_app.drawing import rasterize
from pocketfl_app.enrolment import EnrolmentTextError, Site, parse_enrolment
from pocketfl_app.pictures import SIDE_LIMIT, read_picture, write_picture
from pocketfl_app.settings import Settings, load_settings, save_settings

APP = Path(strings.__file__).parents[1]
PART = st.floats(0, 1)
KEY = "ab" * 32


@given(st.lists(st.lists(st.tuples(PART, PART), min_size=1, max_size=40), min_size=1, max_size=5))
def test_whatever_is_drawn_becomes_an_image(strokes) -> None:
    """A dot, a line, a scribble: always ink, between paper and black."""
    image = rasterize(strokes)
    assert image.shape == (1, 28, 28)
    assert image.dtype == np.float32
    assert 0 <= image.min() <= image.max() <= 1
    assert image.sum() > 0


def test_place_and_size_on_the_page_do_not_matter() -> None:
    """As in MNIST: centred, and as large as the box; up is up."""
    seven = [[(0.1, 0.9), (0.5, 0.9), (0.2, 0.1)]]
    moved = [[(0.5 + x / 2, y / 2) for x, y in seven[0]]]
    np.testing.assert_allclose(rasterize(seven), rasterize(moved), atol=1e-5)
    image = rasterize(seven)[0]
    assert image[:14].sum() > image[14:].sum()
    rows, columns = np.indices(image.shape)
    assert abs((rows * image).sum() / image.sum() - 13.5) < 0.7
    assert abs((columns * image).sum() / image.sum() - 13.5) < 0.7
    with pytest.raises(ValueError, match="nothing"):
        rasterize([])


def test_one_in_four_is_set_aside_of_every_digit(tmp_path: Path) -> None:
    """Evenly, whatever the order; undo takes the right one; erased is gone, and drawing goes on."""
    image = np.ones((1, 28, 28), np.float32)
    with ExampleStore(tmp_path / "app.db") as store:
        drawings = Drawings(store)
        for _ in range(4):
            for digit in range(10):
                saved = drawings.add(image, digit)
        assert drawings.counts() == (4,) * 10
        assert (drawings.training, drawings.held_out) == (30, 10)
        aside = store.select(HELD_OUT, limit=100, seed=0).columns["digit"]
        assert sorted(aside) == list(range(10))
        drawings.undo(saved)
        assert drawings.counts()[9] == 3
        # What another start of the app counts.
        assert Drawings(store).counts() == drawings.counts()
        assert drawings.erase() == 39
        assert store.count(TRAINING) == store.count(HELD_OUT) == 0
        assert drawings.counts() == (0,) * 10
        drawings.add(image, 1)
        with pytest.raises(ValueError, match="0 to 9"):
            drawings.add(image, 10)


@given(st.text(min_size=1, max_size=40).filter(str.strip), st.booleans())
def test_an_invitation_survives_being_copied(secret: str, own_modeller: bool) -> None:
    """To text and back, whatever characters a key has, spaces around it or not."""
    try:
        secret.encode()
    except UnicodeEncodeError:
        return
    site = Site(
        server="https://fl.example.com:8443/x",
        aggregator=KEY,
        enrolment=secret,
        plan_key=KEY if own_modeller else None,
    )
    assert parse_enrolment(f"  {site.to_text()}\n") == site


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "begins with"),
        ("https://fl.example.com", "begins with"),
        ("pocketfl:join?server=https://a.b", "aggregator"),
        (f"pocketfl:join?server=http://a.b&aggregator={KEY}&enrolment=k", "https"),
        (f"pocketfl:join?server=ftp://a.b&aggregator={KEY}&enrolment=k", "address"),
        ("pocketfl:join?server=https://a.b&aggregator=xy&enrolment=k", "aggregator"),
        (f"pocketfl:join?server=https://a.b&aggregator={KEY}&enrolment=k&plan=xy", "plan"),
        ("pocketfl:join?server=" + "a" * 3000, "2000"),
    ],
)
def test_a_wrong_invitation_says_what_is_wrong(text: str, says: str) -> None:
    """Before anything of it is used."""
    with pytest.raises(EnrolmentTextError, match=says):
        parse_enrolment(text)


def test_settings_survive_a_restart_and_a_damaged_file(tmp_path: Path) -> None:
    """Choices only tighten the SDK's budgets; a file that cannot be read is as good as none."""
    chosen = Settings(only_charging=True, contributions_per_day=4, epsilon_per_year=5.0)
    save_settings(tmp_path, chosen)
    assert load_settings(tmp_path) == chosen
    budgets = chosen.budgets(demo=False)
    assert budgets.per_day.contributions == 4
    assert budgets.max_epsilon_per_year == 5.0
    assert budgets.min_separation_seconds > 0
    assert chosen.conditions().require_charging
    (tmp_path / "settings.json").write_bytes(b'{"runtime": 7')
    assert load_settings(tmp_path) == Settings()


def test_every_sentence_is_in_the_file_of_strings() -> None:
    """What screens and view models name is there, and the screens have no English of their own."""
    known = json.loads((APP / "strings" / "en.json").read_text())
    named = set()
    for file in [*APP.rglob("*.py"), *APP.rglob("*.kv")]:
        named |= set(re.findall(r"tr\(\s*[\"']([a-z_.0-9]+[a-z0-9])[\"']", file.read_text()))
    assert named
    assert named <= set(known)
    for file in APP.rglob("*.kv"):
        for line in file.read_text().splitlines():
            literal = re.match(r"\s+text: '([A-Za-z ]{3,})'$", line)
            assert literal is None, f"{file.name}: {line}"


def test_a_translation_falls_back_to_english() -> None:
    """A sentence that no file has is an error; one that a translation lacks is English."""
    assert strings.tr("draw.saved", digit=3).startswith("Kept as a 3")
    with pytest.raises(KeyError):
        strings.tr("no.such.sentence")


def test_an_invitation_goes_through_a_picture(tmp_path: Path) -> None:
    """The code that one person shows is what another reads; what is no such picture says so."""
    from PIL import Image

    site = Site(server="https://fl.example.com", aggregator=KEY, enrolment="k" * 32, plan_key=KEY)
    picture = tmp_path / "invitation.png"
    write_picture(site, picture)
    assert parse_enrolment(read_picture(picture)) == site
    with Image.open(picture) as drawn:
        side = max(drawn.size)
        photo = Image.new("RGB", (3 * side, 2 * side), "grey")
        photo.paste(drawn.convert("RGB").rotate(8, fillcolor="white"), (side // 2, side // 3))
        photo.save(tmp_path / "photo.jpg", quality=60)
    assert parse_enrolment(read_picture(tmp_path / "photo.jpg")) == site
    Image.new("L", (50, 50)).save(tmp_path / "black.png")
    Image.new("1", (SIDE_LIMIT + 1, 1)).save(tmp_path / "wide.png")
    (tmp_path / "cut.png").write_bytes(picture.read_bytes()[:300])
    (tmp_path / "text.png").write_bytes(b"pocketfl:join")
    for name, message in (
        ("black", "shows no QR code"),
        ("wide", "sides of more than"),
        ("cut", "cannot be read as a picture"),
        ("text", "cannot be read as a picture"),
        ("none", "cannot be read as a picture"),
    ):
        with pytest.raises(EnrolmentTextError, match=message):
            read_picture(tmp_path / f"{name}.png")
