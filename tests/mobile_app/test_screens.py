"""Turning, pausing, large text and undoing: what a phone and a person do to an app all day."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pocketfl_app.enrolment import Site
from pocketfl_app.home import Home
from pocketfl_app.pictures import write_picture
from pocketfl_app.screens.palette import contrast

from .conftest import Hand
from .shapes import zero


@pytest.fixture
def hand(open_app: Callable[[Home], Hand], home: Home) -> Hand:
    opened = open_app(home)
    opened.app.root.children[0].dismiss()
    opened.settle()
    return opened


def test_turning_and_pausing_keep_the_drawing(hand: Hand, tmp_path: Path) -> None:
    """A phone is laid down and put away in the middle of a digit; undo then works as before."""
    from kivy.core.window import Window

    app = hand.app
    hand.draw(zero(np.random.default_rng(1)))
    hand.draw([[(0.2, 0.2), (0.3, 0.2)]])
    page = app.root.screens["draw"].ids.page
    strokes = [list(stroke) for stroke in page.strokes]
    upright = hand.picture(tmp_path, "upright")
    Window.size = (840, 420)
    hand.frames(5)
    assert app.root.landscape
    assert page.right <= app.root.ids.bar.x
    lying = hand.picture(tmp_path, "lying")
    assert lying.shape != upright.shape
    assert app.on_pause() is True
    app.on_resume()
    hand.settle()
    Window.size = (420, 840)
    hand.frames(5)
    assert not app.root.landscape
    assert page.strokes == strokes
    np.testing.assert_array_equal(hand.picture(tmp_path, "again"), upright)
    hand.tap(app.root.screens["draw"].ids.undo)
    assert page.strokes == strokes[:1]

    # A drawing that was kept can be taken back as well.
    app.draw.label(3)
    hand.settle()
    assert app.draw.counts[3] == 1
    hand.tap(app.root.screens["draw"].ids.undo)
    hand.settle()
    assert sum(app.draw.counts) == 0


@pytest.mark.slow
def test_every_screen_has_room_for_the_largest_text(hand: Hand, tmp_path: Path) -> None:
    """Nothing is cut off at its side, and every screen shows something at every size of text."""
    from kivy.uix.label import Label

    for scale in (1.0, 1.5):
        hand.app.options.change(text_scale=scale)
        hand.settle()
        for name in hand.app.root.buttons:
            hand.show(name)
            picture = hand.picture(tmp_path, f"{name}-{scale}")
            assert len(np.unique(picture.reshape(-1, 4), axis=0)) > 10
            for label in hand.app.root.screens[name].walk():
                if isinstance(label, Label) and label.text and label.opacity:
                    assert label.texture_size[0] <= label.width + 2, (name, scale, label.text)


def test_offline_the_app_says_what_it_needs(hand: Hand) -> None:
    """Without drawings and server nothing can be started, and the screen says what is missing."""
    app = hand.app
    hand.show("train")
    assert not app.train.can_train
    assert not app.train.can_join
    assert "Draw" in app.train.needs
    hand.show("settings")
    assert not app.options.join("https://example.com")
    assert "pocketfl:join" in app.options.error
    assert app.context.settings.site is None


def test_opting_out_is_remembered(hand: Hand) -> None:
    """The switch of the Privacy screen is the SDK's own, and says so on the Train screen."""
    ids = hand.show("privacy")
    hand.tap(ids.part)
    hand.settle()
    hand.until(lambda: hand.context.status.switched_off is not None, "opted out")
    assert not hand.app.privacy.takes_part
    hand.show("privacy")
    hand.tap(ids.part)
    hand.until(lambda: hand.context.status.switched_off is None, "opted in")


@pytest.mark.parametrize(
    ("text", "ground"),
    [
        ("ink", "paper"),
        ("ink", "card"),
        ("muted", "paper"),
        ("muted", "card"),
        ("primary", "card"),
        ("primary", "primary_soft"),
        ("on_primary", "primary"),
        ("good", "good_soft"),
        ("good", "card"),
        ("wait", "wait_soft"),
        ("wait", "card"),
        ("bad", "card"),
    ],
)
def test_text_can_be_read_on_its_ground(text: str, ground: str) -> None:
    """WCAG 2.1, AA: 4.5 to 1."""
    assert contrast(text, ground) >= 4.5


def test_a_picture_of_an_invitation_dropped_on_the_window_joins_its_server(
    open_app: Callable[[Home], Hand], home: Home, tmp_path: Path
) -> None:
    """Another file says what it is not, and nothing is joined; once joined, a drop changes nothing."""
    from kivy.base import EventLoop

    site = Site(server="https://fl.example.com", aggregator="ab" * 32, enrolment="k" * 32)
    picture, other = tmp_path / "invitation.png", tmp_path / "other.png"
    write_picture(site, picture)
    other.write_bytes(b"no picture")
    hand = open_app(home)
    options = hand.app.options
    for path, joined in ((other, False), (picture, True), (other, True)):
        EventLoop.window.dispatch("on_drop_file", bytes(path), 1, 1)
        hand.settle()
        assert options.joined is joined
        assert ("cannot be read" in options.error) is not joined
    assert hand.context.settings.site == site
